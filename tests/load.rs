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
/// Growth of memory allowed from the first third of the time on: nothing that grows with the number of searches stays below it.
const GROWTH: u64 = 24 << 20;

/// Memory of this process, in bytes, where the system tells.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
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
            let n = [1, 1, 7, 60, 200][i % 5];
            let from = below(queries.nrows() - n);
            let k = 1 + below(40);
            let params = SearchParams::new(k).n_probe(1 + below(30)).n_rerank(k + below(100)).threads(i % 3);
            let answer = searcher.search(queries.slice(s![from..from + n, ..]), params).unwrap();
            Question { rows: from..from + n, params, answer }
        })
        .collect();
    let (start, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut after_a_third = None;
    let (times, most) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|t| {
                let (searcher, questions) = (&searcher, &questions);
                scope.spawn(move || {
                    let mut times = Vec::new();
                    let mut i = t * 7;
                    while start.elapsed() < limit {
                        let question = &questions[i % questions.len()];
                        let since = Instant::now();
                        let rows = queries.slice(s![question.rows.clone(), ..]);
                        let found = searcher.search(rows, question.params).unwrap();
                        times.push(since.elapsed());
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
        let mut most = 0;
        while start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(50));
            let now = resident().unwrap_or(0);
            if start.elapsed() > limit / 3 {
                after_a_third.get_or_insert(now);
            }
            most = most.max(now);
        }
        let times: Vec<Duration> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        (times, most)
    });
    let (first, last) = (after_a_third.unwrap_or(0), resident().unwrap_or(0));
    let mut sorted = times;
    sorted.sort_unstable();
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    eprintln!(
        "{name}: {} searches by {THREADS} threads in {seconds} s, p50 {:?}, p99 {:?}; memory {} MB after a third, {} MB at the end, {} MB at \
         most",
        sorted.len(),
        at(50),
        at(99),
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
