//! Every kernel of a GPU search by its own clock: `<kernel>/<device>/<batch>x<n_probe>`, and whole searches with
//! transfers as `search/<device>/…`.
//!
//! Hardware GPUs only; `NEARFIELD_BENCH_GPU=llvmpipe cargo bench --bench kernels` names a software one.
//! `NEARFIELD_BENCH_SPEC` names one specification instead of all, the networks among which take minutes to train. Each run
//! is compared with the CPU's result first, so that a fast wrong kernel fails.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::{path::Path, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use nearfield::{
    Device, Gpu, GpuOptions, Hits, Index, Metric, SearchParams, Searcher, Training, Vectors, io::VectorFile,
};

const K: usize = 10;

/// Specifications that take every kind of transform, scorer and stored rows between them.
const SPECS: &[&str] = &[
    "PCA128,IVF128,RRR32,Refine(f16)",
    "LIN128x8,IVF128,RRR64x4,Refine(sq8)",
    "IVF128,SQ8,Refine(f32)",
    "IVF128(soar=1),APQ48x4,Refine(f16)",
    #[cfg(feature = "neural")]
    "CNT96,IVF128,SQ8,Refine(f16)",
    #[cfg(feature = "neural")]
    "PCA64,IVF64(router=cnn,width=32),CNN(width=32),Refine(f16)",
];

fn kernels(criterion: &mut Criterion) {
    let name = std::env::var("NEARFIELD_BENCH_GPU").ok();
    let gpu = match Gpu::open(&GpuOptions { name, ..GpuOptions::default() }) {
        Ok(gpu) => gpu,
        Err(error) => return eprintln!("nothing to measure: {error}"),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/wordnet");
    let open = |name: &str| VectorFile::open(folder.join(name)).expect("the embedded set");
    let (base, queries) = (open("base.i8bin"), open("query.i8bin"));
    let chosen = std::env::var("NEARFIELD_BENCH_SPEC").ok();
    let specs = chosen.as_deref().map_or_else(|| SPECS.to_vec(), |spec| vec![spec]);
    for spec in specs {
        let index = Index::builder(spec.parse().expect("a specification"))
            .metric(Metric::Cosine)
            .seed(7)
            // How well it is trained makes no difference to its time.
            .training(Training { steps: 0, ..Training::default() })
            .build(&base)
            .expect("an index");
        let searcher = index.searcher(gpu.clone().into()).expect("a searcher");
        let on_cpu = index.searcher(Device::cpu()).expect("a searcher");
        for batch in [1, 256] {
            let mut rows = Array2::zeros((batch, queries.dim()));
            for (i, mut row) in rows.outer_iter_mut().enumerate() {
                queries.read(i % queries.n_rows(), row.as_slice_mut().expect("a row"));
            }
            let params = SearchParams::new(K).n_probe(16).n_rerank(100);
            let want = on_cpu.search(rows.view(), params).expect("hits");
            one(criterion, &searcher, spec, &rows, params, &want);
        }
    }
}

fn one(
    criterion: &mut Criterion,
    searcher: &Searcher,
    spec: &str,
    rows: &Array2<f32>,
    params: SearchParams,
    want: &Hits,
) {
    let device = searcher.device().name.clone();
    let shape = format!("{}x{} {spec}", rows.nrows(), params.n_probe.unwrap_or_default());
    let check = |hits: &Hits| {
        let same = hits.ids.iter().zip(&want.ids).filter(|(a, b)| a == b).count();
        assert!(
            same * 100 >= want.ids.len() * 99,
            "{device}, {shape}: {same} of {} ids agree",
            want.ids.len()
        );
    };
    let mut group = criterion.benchmark_group("search");
    group.sample_size(10).throughput(Throughput::Elements(rows.nrows() as u64));
    group.bench_function(format!("{device}/{shape}"), |b| {
        check(&searcher.search(rows.view(), params).expect("hits"));
        b.iter(|| searcher.search(rows.view(), params).expect("hits"));
    });
    group.finish();
    let Ok((_, profile)) = searcher.profile(&rows.view(), params) else {
        return eprintln!("{device} has no timestamps: no time by kernel");
    };
    for kernel in profile.kernels.keys() {
        let mut group = criterion.benchmark_group(kernel);
        group.sample_size(10);
        group.bench_function(format!("{device}/{shape}"), |b| {
            b.iter_custom(|iterations| {
                let mut seconds = 0.0;
                for _ in 0..iterations {
                    let (hits, profile) = searcher.profile(&rows.view(), params).expect("hits");
                    check(&hits);
                    seconds += profile.kernels[kernel].seconds;
                }
                // Criterion takes no zero.
                Duration::from_secs_f64(seconds.max(1e-9))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
