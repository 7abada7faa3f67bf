//! Build an index of vectors in memory and find the nearest neighbours of a few queries.
//!
//! Run with `cargo run --release --example 01_build_and_search`.

use ndarray::{Array2, s};
use nearfield::{Device, Index, Metric, SearchParams};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 20 000 vectors of 64 dimensions, made up; yours come from an embedding model.
    let noise = |x: usize| ((x as f32 * 12.9898).sin() * 43_758.547).fract();
    let base = Array2::from_shape_fn((20_000, 64), |(i, j)| noise(i * 64 + j) / (1 + j) as f32);

    // The specification names the stages: reduce to 32 dimensions, cut into 128 lists, score by
    // reduced-rank regression, rerank the best on half-precision rows.
    let index = Index::builder("PCA32,IVF128,RRR16,Refine(f16)".parse()?)
        .metric(Metric::Cosine)
        .seed(7)
        .build(base.view())?;
    println!("{index:?}, {} bytes", index.n_bytes());

    let searcher = index.searcher(Device::auto())?;
    println!("searching on {}", searcher.device());

    // The first three vectors again: each should find itself first.
    let queries = base.slice(s![..3, ..]);
    let hits = searcher.search(queries, SearchParams::new(5).n_probe(8).n_rerank(50))?;
    for (query, (ids, scores)) in hits.ids.outer_iter().zip(hits.scores.outer_iter()).enumerate() {
        println!("query {query}: ids {ids}, scores {scores:.3}");
        assert_eq!(ids[0], query as u64);
    }
    Ok(())
}
