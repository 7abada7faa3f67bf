//! One line that says how fast a machine searches the embedded set, to be pasted into an issue.
//!
//! Run with `cargo run --release --example 06_benchmark_line`, or name a device: `… -- gpu:NVIDIA`, `… -- cpu`; a number
//! after it is the batch.

use std::time::{Duration, Instant};

use ndarray::Array2;
use nearfield::{Device, Index, Metric, SearchParams, Vectors, eval, io::VectorFile};

const K: usize = 10;
const SPEC: &str = "PCA128,IVF128,RRR32,Refine(f16)";

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let device: Device = arguments.next().as_deref().unwrap_or("auto").parse()?;
    let batch: usize = arguments.next().as_deref().unwrap_or("1000").parse()?;

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/wordnet");
    let base = VectorFile::open(format!("{folder}/base.i8bin"))?;
    let queries = VectorFile::open(format!("{folder}/query.i8bin"))?;
    let index = Index::builder(SPEC.parse()?).metric(Metric::Cosine).seed(7).build(&base)?;
    let searcher = index.searcher(device)?;
    let params = SearchParams::new(K).n_probe(16).n_rerank(100);

    let truth = eval::exact(&base, &queries, Metric::Cosine, K, &|_, _| ())?;
    let hits = searcher.search_vectors(&queries, params)?;
    let recall = eval::Recall::new(&index, &queries, truth.view(), K)?.with_base(&base)?.of(hits.ids.view());

    // The queries again and again until the batch is full.
    let mut rows = Array2::zeros((batch, queries.dim()));
    for (i, mut row) in rows.outer_iter_mut().enumerate() {
        queries.read(i % queries.n_rows(), row.as_slice_mut().expect("rows are contiguous"));
    }
    searcher.search(rows.view(), params)?; // compiles kernels, warms up
    let mut calls = Vec::new();
    let since = Instant::now();
    while calls.len() < 3 || since.elapsed() < Duration::from_millis(500) {
        let call = Instant::now();
        searcher.search(rows.view(), params)?;
        calls.push(call.elapsed());
    }
    calls.sort();
    let qps = batch as f64 / calls[calls.len() / 2].as_secs_f64();
    let about = match searcher.gpu() {
        Some(gpu) => format!("{}, {}, tier {}", gpu.adapter().backend, gpu.adapter().driver, gpu.tier()),
        None => format!("{} threads", std::thread::available_parallelism()?),
    };
    println!(
        "nearfield {} | {} ({about}) | {} × {} {SPEC} | k {K} n_probe 16 n_rerank 100 batch {batch} | {qps:.0} queries/s | recall@{K} {recall:.4}",
        env!("CARGO_PKG_VERSION"),
        searcher.device().name,
        index.len(),
        index.dim(),
    );
    Ok(())
}
