//! Whole searches of the embedded set, by specification and device: `search/<device>/<spec>`.
//!
//! Each bench first asserts its recall, so that a fast wrong kernel fails.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearfield::{Device, Index, Metric, SearchParams, Simd, Vectors, eval, io::VectorFile};

const K: usize = 10;

fn searches(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/wordnet");
    let open = |name: &str| VectorFile::open(folder.join(name)).expect("the embedded set");
    let (base, queries) = (open("base.i8bin"), open("query.i8bin"));
    let truth = eval::exact(&base, &queries, Metric::Cosine, K, &|_, _| ()).expect("exact neighbours");
    for (spec, n_probe, n_rerank, floor) in [
        ("PCA128,IVF128,RRR32,Refine(f16)", 16, 100, 0.96),
        ("PCA128,IVF128,RRR64x4,Refine(f16)", 16, 50, 0.96),
        ("PCA128,IVF128,RRR32,Refine(sq8)", 16, 100, 0.95),
        ("IVF128,SQ8,Refine(f32)", 16, 50, 0.96),
        ("IVF128(soar),APQ96x4,Refine(f16)", 8, 50, 0.95),
        ("IVF128,Flat", 16, K, 0.96),
    ] {
        let index = Index::builder(spec.parse().expect("a specification"))
            .metric(Metric::Cosine)
            .seed(7)
            .build(&base)
            .expect("an index");
        let params = SearchParams::new(K).n_probe(n_probe).n_rerank(n_rerank).threads(1);
        let mut group = criterion.benchmark_group("search");
        group.throughput(Throughput::Elements(queries.n_rows() as u64)).sample_size(20);
        for simd in Simd::available() {
            let searcher = index.searcher(Device::CpuWith(simd)).expect("a searcher");
            let hits = searcher.search_vectors(&queries, params).expect("hits");
            let recall = eval::Recall::new(&index, &queries, truth.view(), K).expect("truth of this set");
            let recall = recall.of(hits.ids.view());
            assert!(recall >= floor, "{spec} on {}: recall {recall}", simd.name());
            group.bench_function(format!("cpu:{}/{spec}", simd.name()), |b| {
                b.iter(|| searcher.search_vectors(&queries, params).expect("hits"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, searches);
criterion_main!(benches);
