//! Bad input: each a clear error that names argument, expected and given.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ndarray::Array2;
use nearfield::{
    BuildError, Device, DeviceError, Index, Metric, SearchError, SearchParams, SpecError, VectorError,
};
use support::{build, made};

fn build_error(spec: &str, metric: Metric, base: &Array2<f32>) -> BuildError {
    Index::builder(spec.parse().unwrap()).metric(metric).build(base.view()).unwrap_err()
}

#[test]
fn values_that_are_not_numbers() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20] {
        let mut base = made(5000, 7, 1);
        base[[4321, 3]] = value;
        base[[4400, 1]] = f32::NAN;
        match build_error("Flat", Metric::L2, &base) {
            BuildError::Vectors(VectorError::NotFinite { what: "vectors", row: 4321, column: 3, .. }) => {}
            other => panic!("{other}"),
        }
        let good = made(100, 7, 1);
        let bad = base.view();
        let builder = Index::builder("IVF4,Flat".parse().unwrap()).train_queries(&bad);
        let error = builder.build(good.view()).unwrap_err().to_string();
        assert!(error.starts_with("training queries:") && error.contains("row 4321, column 3"), "{error}");
        let searcher = build("Flat", Metric::L2, good.view()).searcher(Device::cpu()).unwrap();
        for threads in [1, 0] {
            let error = searcher.search(bad, SearchParams::new(3).threads(threads)).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("queries:") && error.contains("row 4321, column 3"), "{error}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit() {
    let none = Array2::<f32>::zeros((0, 8));
    assert!(matches!(build_error("Flat", Metric::L2, &none), BuildError::Vectors(VectorError::Empty { .. })));
    let flat = Array2::<f32>::zeros((8, 0));
    assert!(matches!(
        build_error("Flat", Metric::L2, &flat),
        BuildError::Vectors(VectorError::DimRange { .. })
    ));
    let wide = Array2::<f32>::zeros((1, 70_000));
    assert!(matches!(
        build_error("Flat", Metric::L2, &wide),
        BuildError::Vectors(VectorError::DimRange { .. })
    ));
    let base = made(50, 8, 1);
    for (spec, token, given) in [("IVF51,Flat", "IVF", 51), ("PCA9,Flat", "PCA", 9), ("IVF2,RRR16", "RRR", 8)]
    {
        match build_error(spec, Metric::L2, &base) {
            BuildError::Spec(SpecError::Range { token: t, given: g, .. }) => {
                assert_eq!((t, g), (token, given))
            }
            other => panic!("{other}"),
        }
    }
    let searcher = build("Flat", Metric::L2, base.view()).searcher(Device::cpu()).unwrap();
    let error = searcher.search(made(3, 9, 1).view(), SearchParams::new(3)).unwrap_err();
    let mismatch = VectorError::DimMismatch { what: "queries", expected: 8, got: 9 };
    assert_eq!(error, SearchError::Queries(mismatch));
    let error = searcher.search(none.view(), SearchParams::new(3)).unwrap_err();
    assert_eq!(error, SearchError::Queries(VectorError::Empty { what: "queries" }));
    let train = made(30, 9, 1);
    let train = train.view();
    let builder = Index::builder("IVF2,Flat".parse().unwrap()).train_queries(&train);
    let error = builder.build(base.view()).unwrap_err().to_string();
    assert_eq!(error, "training queries: expected 8 dimensions, got 9");
}

#[test]
fn numbers_that_cannot_be() {
    let base = made(50, 8, 1);
    let index = build("IVF4,SQ8,Refine(f32)", Metric::L2, base.view());
    let searcher = index.searcher(Device::cpu()).unwrap();
    for (params, name) in [
        (SearchParams::new(0), "k"),
        (SearchParams::new(1).n_probe(0), "n_probe"),
        (SearchParams::new(1).n_rerank(0), "n_rerank"),
    ] {
        assert_eq!(searcher.search(base.view(), params).unwrap_err(), SearchError::Zero { name });
    }
    let error = searcher.search(base.view(), SearchParams::new(usize::MAX)).unwrap_err();
    assert!(matches!(error, SearchError::TooLarge { .. }), "{error}");
    // More than there is: clamped, and said on request.
    let params = SearchParams::new(5).n_probe(900).n_rerank(2);
    let effort = searcher.effort(params).unwrap();
    assert_eq!((effort.n_probe, effort.n_rerank), (4, 5));
    assert!(searcher.search(base.view(), params).is_ok());
    assert_eq!(searcher.search(base.view(), SearchParams::new(60)).unwrap().ids.dim(), (50, 60));
}

#[test]
fn ids_that_cannot_be() {
    let base = made(3, 8, 1);
    let error =
        |ids: &[u64]| Index::builder("Flat".parse().unwrap()).ids(ids).build(base.view()).unwrap_err();
    assert!(matches!(error(&[1, 2]), BuildError::IdCount { expected: 3, got: 2 }));
    assert!(matches!(error(&[1, 2, 1]), BuildError::IdTwice { id: 1 }));
    assert!(matches!(error(&[1, 2, u64::MAX]), BuildError::IdReserved));
}

#[test]
fn values_too_large_for_half_precision() {
    let mut base = made(30, 8, 1);
    base[[7, 5]] = 1e5;
    let error = build_error("SQ8,Refine(f16)", Metric::L2, &base);
    assert!(matches!(error, BuildError::Vectors(VectorError::HalfRange { column: 5, .. })), "{error}");
}

#[test]
fn devices_that_are_not_there() {
    #[cfg(feature = "gpu")]
    assert_eq!("gpu".parse::<Device>().unwrap(), Device::gpu());
    #[cfg(not(feature = "gpu"))]
    assert!(matches!("gpu".parse::<Device>(), Err(DeviceError::Unsupported { .. })));
    assert!(matches!("tpu".parse::<Device>(), Err(DeviceError::Unknown { .. })));
    assert!(matches!("cpu:mmx".parse::<Device>(), Err(DeviceError::Unknown { .. })));
    for simd in nearfield::Simd::available() {
        assert_eq!(format!("cpu:{}", simd.name()).parse::<Device>().unwrap(), Device::CpuWith(simd));
    }
}

#[test]
fn large_magnitudes_stay_finite() {
    for scale in [1e-18_f32, 1e-6, 1e6, 1e12] {
        let base = made(200, 20, 1) * scale;
        for spec in ["Flat", "IVF4,SQ8", "PCA16,IVF4,RRR16,Refine(f32)", "IVF4,RRR16x4,Refine(sq8)"] {
            for metric in support::METRICS {
                let index = build(spec, metric, base.view());
                let params = SearchParams::new(1).n_probe(4).n_rerank(50);
                let hits = support::search(&index, Device::cpu(), base.view(), params);
                assert!(hits.scores.iter().all(|s| s.is_finite()), "{spec} {metric} {scale}");
                let right = hits.ids.column(0).iter().enumerate().filter(|(i, id)| **id == *i as u64).count();
                if metric != Metric::Ip && spec != "IVF4,SQ8" {
                    assert!(right >= 190, "{spec} {metric} {scale}: {right} of 200 find themselves");
                }
            }
        }
    }
}

#[test]
fn a_build_ends_when_it_is_cancelled() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let base = made(4000, 40, 1);
    for spec in ["PCA24,IVF64(soar),RRR16,Refine(f32)", "IVF16,APQ8x4,Refine(sq8)", "PCA20,SQ8"] {
        let stages = std::sync::Mutex::new(Vec::new());
        let note = |p: nearfield::Progress| stages.lock().unwrap().push(p.stage);
        Index::builder(spec.parse().unwrap()).progress(&note).build(base.view()).unwrap();
        let mut all = std::mem::take(&mut *stages.lock().unwrap());
        all.dedup();
        for at in all {
            let flag = AtomicBool::new(false);
            let cancel = |p: nearfield::Progress| {
                if p.stage == at {
                    flag.store(true, Ordering::Relaxed);
                }
            };
            let builder = Index::builder(spec.parse().unwrap()).progress(&cancel).cancel(&flag);
            let error = builder.build(base.view()).unwrap_err();
            assert!(matches!(error, nearfield::BuildError::Cancelled), "{spec}, {at}: {error}");
        }
    }
}
