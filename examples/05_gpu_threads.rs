//! Several threads send batches to one GPU searcher.
//!
//! Run with `cargo run --release --example 05_gpu_threads`, or name a device: `… -- gpu:NVIDIA`, `… -- cpu`.

use std::time::Instant;

use nearfield::{Device, Index, Metric, SearchParams, Vectors, io::VectorFile};

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
    let device: Device = std::env::args().nth(1).as_deref().unwrap_or("auto").parse()?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/wordnet");
    let base = VectorFile::open(format!("{folder}/base.i8bin"))?;
    let index =
        Index::builder("PCA128,IVF128,RRR32,Refine(f16)".parse()?).metric(Metric::Cosine).build(&base)?;

    // One searcher holds the index once, on the device; threads share it by reference. Each call borrows scratch
    // memory from the searcher and gives it back, so batches of different sizes do not get in each other's way.
    let searcher = index.searcher(device)?;
    println!("searching on {}", searcher.device());

    let queries = VectorFile::open(format!("{folder}/query.i8bin"))?;
    let params = SearchParams::new(10).n_probe(16).n_rerank(100);
    // As a service would see them: batches of whatever has arrived, here of one size a thread.
    let batches: Vec<First<_>> = (0..4).map(|t| First { vectors: &queries, rows: 20 + t * 50 }).collect();
    let alone =
        batches.iter().map(|batch| searcher.search_vectors(batch, params)).collect::<Result<Vec<_>, _>>()?;
    let since = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = batches
            .iter()
            .zip(&alone)
            .map(|(batch, alone)| {
                let searcher = &searcher;
                scope.spawn(move || {
                    for _ in 0..5 {
                        let hits = searcher.search_vectors(batch, params)?;
                        assert_eq!(hits, *alone, "the same answer, whoever else asks");
                    }
                    Ok::<(), nearfield::SearchError>(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let searched: usize = batches.iter().map(|batch| batch.rows * 5).sum();
    println!("{searched} queries in 20 batches from 4 threads: {:.1?}", since.elapsed());
    Ok(())
}

/// The first rows of a set of vectors.
struct First<'a, V> {
    vectors: &'a V,
    rows: usize,
}

impl<V: Vectors> Vectors for First<'_, V> {
    fn n_rows(&self) -> usize {
        self.rows
    }

    fn dim(&self) -> usize {
        self.vectors.dim()
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        self.vectors.read(row, out);
    }
}
