//! Recall floors on the embedded set, for every kind of specification.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nearfield::{Device, Index, Metric, SearchParams, Training, eval};
use support::{embedded_array, made};

#[test]
fn recall_floors() {
    let (base, queries) = (embedded_array("base.i8bin"), embedded_array("query.i8bin"));
    // Specification, lists, candidates, floor of recall@10: measured with seed 7, less 0.01.
    let cases = [
        ("Flat", 1, 10, 1.0),
        ("SQ8", 1, 10, 0.96),
        ("IVF128,Flat", 128, 10, 1.0),
        ("IVF128,Flat", 16, 10, 0.96),
        ("IVF128,SQ8,Refine(f32)", 16, 50, 0.96),
        ("PCA128,Flat,Refine(f32)", 1, 100, 0.98),
        ("PCA128,IVF128,RRR16,Refine(f32)", 16, 100, 0.93),
        ("PCA128,IVF128,RRR32,Refine(f32)", 16, 100, 0.96),
        ("PCA128,IVF128,RRR32,Refine(f16)", 16, 100, 0.96),
        ("PCA128x8,IVF128,RRR32,Refine(f16)", 16, 100, 0.96),
        ("PCA128,IVF128,RRR32,Refine(sq8)", 16, 100, 0.95),
        ("PCA128,IVF128,RRR64,Refine(f32)", 16, 100, 0.96),
        ("PCA128,IVF128,RRR64x4,Refine(f32)", 16, 100, 0.96),
        ("IVF128,RRR32,Refine(f32)", 16, 100, 0.96),
        ("PCA128,IVF128,RRR64", 32, 10, 0.78),
        ("IVF128,PQ96x4,Refine(f32)", 16, 100, 0.95),
        ("IVF128,APQ96x4,Refine(f32)", 16, 100, 0.95),
        ("IVF128,PQ48x8,Refine(f32)", 16, 100, 0.95),
        ("IVF128,APQ48x8(T=0.3),Refine(sq8)", 16, 100, 0.94),
        ("IVF128(soar),APQ96x4,Refine(f16)", 8, 100, 0.95),
        ("PCA128,IVF128(soar),RRR32,Refine(f32)", 8, 100, 0.95),
        ("IVF128(T=0.2),RRR32,Refine(f32)", 16, 100, 0.95),
    ];
    for metric in [Metric::Cosine, Metric::Ip, Metric::L2] {
        // Rows of equal length rank alike under the three metrics.
        let scale = |mut x: ndarray::Array2<f32>| {
            for mut row in x.outer_iter_mut() {
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row /= norm;
            }
            x
        };
        let (base, queries) = if metric == Metric::Cosine {
            (base.clone(), queries.clone())
        } else {
            (scale(base.clone()), scale(queries.clone()))
        };
        let truth = eval::exact(&base.view(), &queries.view(), metric, 10, &|_, _| ()).unwrap();
        // Every specification under one metric, some under the others.
        let every = if metric == Metric::Cosine { 1 } else { 8 };
        for (spec, n_probe, n_rerank, floor) in cases.into_iter().step_by(every) {
            let index =
                Index::builder(spec.parse().unwrap()).metric(metric).seed(7).build(base.view()).unwrap();
            let params = SearchParams::new(10).n_probe(n_probe).n_rerank(n_rerank);
            let hits = index.searcher(Device::cpu()).unwrap().search(queries.view(), params).unwrap();
            let (view, queries) = (base.view(), queries.view());
            let recall = eval::Recall::new(&index, &queries, truth.view(), 10).unwrap();
            let recall = recall.with_base(&view).unwrap().of(hits.ids.view());
            eprintln!("{spec} {metric} n_probe={n_probe} n_rerank={n_rerank}: {recall:.4}");
            assert!(recall >= floor, "{spec} {metric}: recall {recall} below {floor}");
        }
    }
}

#[test]
fn training_queries_help_out_of_distribution() {
    // Queries live in a subspace where the points' energy is small.
    let base = made(4000, 48, 1);
    let tail = |n, seed| {
        let mut x = made(n, 48, seed);
        for ((_, j), v) in x.indexed_iter_mut() {
            *v *= if j < 24 { 0.1 } else { 6.0 };
        }
        x
    };
    let (train, queries) = (tail(3000, 2), tail(100, 3));
    let truth = eval::exact(&base.view(), &queries.view(), Metric::Ip, 10, &|_, _| ()).unwrap();
    let recall = |train: Option<&ndarray::Array2<f32>>| {
        let view = train.map(|t| t.view());
        let mut builder = Index::builder("PCA16,IVF16,RRR16,Refine(f32)".parse().unwrap()).metric(Metric::Ip);
        if let Some(view) = &view {
            builder = builder.train_queries(view);
        }
        let index = builder.build(base.view()).unwrap();
        let params = SearchParams::new(10).n_probe(16).n_rerank(60);
        let hits = index.searcher(Device::cpu()).unwrap().search(queries.view(), params).unwrap();
        let queries = queries.view();
        let recall = eval::Recall::new(&index, &queries, truth.view(), 10).unwrap();
        recall.of(hits.ids.view())
    };
    let (without, with) = (recall(None), recall(Some(&train)));
    eprintln!("recall without training queries {without:.3}, with {with:.3}");
    assert!(with > without + 0.1, "{without} without, {with} with");
}

#[test]
fn trained_maps_find_more_than_principal_axes() {
    let (base, queries) = (embedded_array("base.i8bin"), embedded_array("query.i8bin"));
    for (metric, scorer, gain) in
        [(Metric::Cosine, "Flat", 0.02), (Metric::L2, "Flat", 0.02), (Metric::Cosine, "IVF64,RRR32", 0.01)]
    {
        let truth = eval::exact(&base.view(), &queries.view(), metric, 10, &|_, _| ()).unwrap();
        let recall = |transform: &str| {
            let spec = format!("{transform},{scorer}").parse().unwrap();
            let training = Training { steps: 300, ..Default::default() };
            let index =
                Index::builder(spec).metric(metric).seed(7).training(training).build(base.view()).unwrap();
            let params = SearchParams::new(10).n_probe(64);
            let hits = index.searcher(Device::cpu()).unwrap().search(queries.view(), params).unwrap();
            let queries = queries.view();
            eval::Recall::new(&index, &queries, truth.view(), 10).unwrap().of(hits.ids.view())
        };
        let [srp, pca, lin] = ["SRP64", "PCA64", "LIN64"].map(recall);
        eprintln!("{metric} {scorer}: SRP64 {srp:.4}, PCA64 {pca:.4}, LIN64 {lin:.4}");
        assert!(lin > pca + gain && pca > srp + gain, "{metric} {scorer}: {srp}, {pca}, {lin}");
    }
}
