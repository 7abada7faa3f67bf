//! Sixteen threads over one searcher: every answer as it is alone, memory flat. `NEARFIELD_LOAD` says for how many seconds a device.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use ndarray::{Array2, s};
use nearfield::{Device, Hits, Index, Metric, SearchParams};
use support::{Numbers, build, made};

const THREADS: usize = 16;
/// Seconds where nothing else is said.
const SECONDS: u64 = 4;
/// Growth of memory allowed in the second half of a minute or more: on CPUs a few bytes a search would exceed it.
const GROWTH: u64 = 24 << 20;

/// Memory of this process, in bytes, where the system tells.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

/// How long searches took: counts, by steps of 1 %, so that what is counted takes no more memory by the hour.
struct Times([u64; 2400]);

impl Times {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2 218")]
    fn add(&mut self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap().max(1);
        self.0[(f64::from(micros).ln() * 100.0) as usize] += 1;
    }

    /// The time that so many percent do not exceed.
    fn at(&self, percent: u64) -> Duration {
        let (mut seen, all) = (0, self.0.iter().sum::<u64>());
        let step = self.0.iter().position(|n| {
            seen += n;
            seen * 100 >= all * percent
        });
        Duration::from_secs_f64((step.unwrap_or(0) as f64 / 100.0).exp() * 1e-6)
    }
}

/// What is asked: some of the queries, with some effort.
struct Question {
    rows: std::ops::Range<usize>,
    params: SearchParams,
    answer: Hits,
}

fn loaded(index: &Index, device: Device, queries: &Array2<f32>) {
    let text = std::env::var("NEARFIELD_LOAD").unwrap_or_default();
    let seconds = if text.is_empty() { SECONDS } else { text.parse().unwrap() };
    let searcher = index.searcher(device).unwrap();
    let name = searcher.device().name.clone();
    let mut numbers = Numbers::new(4);
    let mut below = |n: usize| usize::try_from(numbers.bits() >> 8).unwrap() % n;
    let questions: Vec<Question> = (0..120)
        .map(|i| {
            let n = [1, 1, 7, 30, 60][i % 5];
            let from = below(queries.nrows() - n);
            let k = 1 + below(40);
            let params = SearchParams::new(k).n_probe(1 + below(30)).n_rerank(k + below(100)).threads(i % 3);
            let answer = searcher.search(queries.slice(s![from..from + n, ..]), params).unwrap();
            Question { rows: from..from + n, params, answer }
        })
        .collect();
    let (start, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut after_a_half = None;
    let (times, last, most) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|t| {
                let (searcher, questions) = (&searcher, &questions);
                scope.spawn(move || {
                    let mut times = Times([0; 2400]);
                    let mut i = t * 7;
                    while start.elapsed() < limit {
                        let question = &questions[i % questions.len()];
                        let since = Instant::now();
                        let rows = queries.slice(s![question.rows.clone(), ..]);
                        let found = searcher.search(rows, question.params).unwrap();
                        times.add(since.elapsed());
                        assert!(
                            found == question.answer,
                            "thread {t}: {:?} answered otherwise",
                            question.params
                        );
                        i += 1 + t % 5;
                    }
                    times
                })
            })
            .collect();
        let (mut last, mut most) = (0, 0);
        while start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(50));
            last = resident().unwrap_or(0);
            if start.elapsed() > limit / 2 {
                after_a_half.get_or_insert(last);
            }
            most = most.max(last);
        }
        let mut times = Times([0; 2400]);
        for worker in workers {
            times.0.iter_mut().zip(worker.join().unwrap().0).for_each(|(sum, n)| *sum += n);
        }
        (times, last, most)
    });
    let first = after_a_half.unwrap_or(0);
    eprintln!(
        "{name}: {} searches by {THREADS} threads in {seconds} s, p50 {:?}, p99 {:?}; memory {} MB after a half, {} MB at the end, {} MB at most",
        times.0.iter().sum::<u64>(),
        times.at(50),
        times.at(99),
        first >> 20,
        last >> 20,
        most >> 20
    );
    // In less time the buffers of all threads are still being made.
    assert!(seconds < 60 || last <= first + GROWTH, "{name}: memory grew from {first} to {last} bytes");
}

fn set() -> (Index, Array2<f32>) {
    (build("PCA24,IVF40(soar=1),RRR16,Refine(f16)", Metric::L2, made(6000, 32, 1).view()), made(400, 32, 2))
}

#[test]
fn sixteen_threads_on_the_cpu() {
    let (index, queries) = set();
    loaded(&index, Device::cpu(), &queries);
}

#[cfg(feature = "gpu")]
#[test]
fn sixteen_threads_on_a_gpu() {
    let Some(gpu) = support::gpu() else { return };
    let (index, queries) = set();
    loaded(&index, gpu.into(), &queries);
}
