//! A service: one searcher shared by many threads, each asking one query at a time.
//!
//! Run with `cargo run --release --example 04_service`.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use ndarray::{Array2, Axis};
use nearfield::{Device, Index, Metric, SearchParams};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let noise = |x: usize| ((x as f32 * 12.9898).sin() * 43_758.547).fract();
    let base = Array2::from_shape_fn((50_000, 64), |(i, j)| noise(i * 64 + j) / (1 + j) as f32);
    let index =
        Index::builder("PCA32,IVF256,RRR16,Refine(f16)".parse()?).metric(Metric::L2).build(base.view())?;
    // Send + Sync: shared by reference, no lock around it.
    let searcher = index.searcher(Device::auto())?;
    let params = SearchParams::new(10).n_probe(8);

    let n_threads = thread::available_parallelism().map_or(2, usize::from);
    let answered = AtomicUsize::new(0);
    let since = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads)
            .map(|worker| {
                let (searcher, base, answered) = (&searcher, &base, &answered);
                scope.spawn(move || {
                    // Every worker serves its share of the requests, one query a call.
                    for (i, query) in
                        base.axis_chunks_iter(Axis(0), 1).enumerate().skip(worker).step_by(n_threads)
                    {
                        let hits = searcher.search(query, params)?;
                        if hits.ids[[0, 0]] == i as u64 {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Ok::<(), nearfield::SearchError>(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{n_threads} threads: {:.0} queries a second, {} of {} found themselves first",
        base.nrows() as f64 / seconds,
        answered.into_inner(),
        base.nrows()
    );
    Ok(())
}
