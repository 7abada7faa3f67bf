//! Save an index, open it again, and check the file.
//!
//! Run with `cargo run --release --example 02_save_and_open`.

use std::time::Instant;

use nearfield::{Device, Index, Metric, SearchParams, Vectors, io::VectorFile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Vectors come from a mapped file: real sentence embeddings, as bytes.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/wordnet");
    let base = VectorFile::open(format!("{folder}/base.i8bin"))?;
    println!("{} × {} {}", base.n_rows(), base.dim(), base.dtype());

    let path = std::env::temp_dir().join(format!("nearfield-example-{}.nf", std::process::id()));
    let index = Index::builder("PCA,IVF,RRR,Refine(f16)".parse()?).metric(Metric::Cosine).build(&base)?;
    // Written beside the target, synced, then renamed: a crash leaves the old file.
    index.save(&path)?;
    drop(index);

    let since = Instant::now();
    let index = Index::open(&path)?; // mapped: vectors are read when searches touch them
    println!("opened {} ({} bytes) in {:.1?}", index.spec(), index.n_bytes(), since.elapsed());
    index.verify()?; // reads everything and compares checksums

    let queries = VectorFile::open(format!("{folder}/query.i8bin"))?;
    let hits = index.searcher(Device::cpu())?.search_vectors(&queries, SearchParams::new(10))?;
    println!("neighbours of query 0: {}", hits.ids.row(0));
    std::fs::remove_file(&path)?;
    Ok(())
}
