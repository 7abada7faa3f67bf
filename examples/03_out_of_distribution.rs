//! Queries of another kind than the points, such as questions against passages: train on a sample of them.
//!
//! Run with `cargo run --release --example 03_out_of_distribution`.

use ndarray::Array2;
use nearfield::{Device, Index, Metric, SearchParams, eval};

/// Made-up rows whose energy sits in the first half of the dimensions, or with `query` in the second half.
fn rows(n: usize, start: usize, query: bool) -> Array2<f32> {
    let noise = |x: usize| ((x as f32 * 12.9898).sin() * 43_758.547).fract();
    Array2::from_shape_fn((n, 64), |(i, j)| {
        let strong = (j >= 32) == query;
        noise((start + i) * 64 + j) * if strong { 3.0 } else { 0.3 }
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = rows(20_000, 0, false);
    let (sample, queries) = (rows(5_000, 20_000, true), rows(200, 25_000, true));
    let truth = eval::exact(&base.view(), &queries.view(), Metric::Ip, 10, &|_, _| ())?;
    let (sample, queries) = (sample.view(), queries.view());

    let spec = "PCA40,IVF64,RRR16,Refine(f32)".parse()?;
    for trained_on in ["points", "queries"] {
        let mut builder = Index::builder(spec).metric(Metric::Ip);
        if trained_on == "queries" {
            // The reduction and the regressions are fitted to these.
            builder = builder.train_queries(&sample);
        }
        let index = builder.build(base.view())?;
        let params = SearchParams::new(10).n_probe(32).n_rerank(100);
        let hits = index.searcher(Device::auto())?.search(queries, params)?;
        let recall = eval::Recall::new(&index, &queries, truth.view(), 10)?.of(hits.ids.view());
        println!("trained on {trained_on:8}: recall@10 {recall:.3}");
    }
    Ok(())
}
