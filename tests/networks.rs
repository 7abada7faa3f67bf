//! Networks that compress, route and score: searched by every build, trained by those with the feature `neural`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nearfield::{Index, SearchParams};
use support::{METRICS, NETWORKS, assert_devices_agree, made, v1};

#[test]
fn networks_agree_with_the_reference() {
    let queries = made(37, 20, 2);
    for spec in NETWORKS {
        for metric in METRICS {
            let index = Index::open(v1(spec, metric)).unwrap();
            for (n_probe, n_rerank, k) in [(1, 1, 1), (2, 20, 10), (100, 300, 20)] {
                let params = SearchParams::new(k).n_probe(n_probe).n_rerank(n_rerank);
                assert_devices_agree(&index, queries.view(), params, spec);
            }
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn networks_agree_on_every_tier() {
    use nearfield::{Device, GpuOptions};
    use support::{assert_agree, every_tier, gpu_with, search};
    let queries = made(150, 20, 2);
    // Chunks of few queries, too.
    let small = gpu_with(GpuOptions { max_binding: Some(1 << 16), ..Default::default() });
    let gpus: Vec<_> = every_tier().into_iter().chain(small).collect();
    for spec in NETWORKS {
        for metric in METRICS {
            let index = Index::open(v1(spec, metric)).unwrap();
            let params = SearchParams::new(10).n_probe(2).n_rerank(30);
            let want = search(&index, Device::Reference, queries.view(), params);
            for gpu in &gpus {
                let got = search(&index, gpu.clone().into(), queries.view(), params);
                assert_agree(&got, &want, spec, &format!("{metric} {gpu:?}"));
            }
        }
    }
}

#[cfg(not(feature = "neural"))]
#[test]
fn training_wants_the_feature() {
    let base = made(50, 20, 1);
    for spec in ["CNT5,Flat", "IVF5(router=cnn),Flat", "IVF5,CNN"] {
        let error = Index::builder(spec.parse().unwrap()).build(base.view()).unwrap_err();
        assert!(error.to_string().contains("feature `neural`"), "{spec}: {error}");
    }
}

#[cfg(feature = "neural")]
mod trained {
    use ndarray::{Array2, Axis};
    use nearfield::{BuildError, CheckpointError, Compressor, Metric, Training};

    use super::*;

    fn compressor(spec: &str, metric: Metric, base: &Array2<f32>, training: &Training) -> Compressor {
        let builder = Index::builder(format!("{spec},Flat").parse().unwrap());
        builder.metric(metric).seed(5).training(training.clone()).compressor(base.view()).unwrap()
    }

    /// Distances of some pairs of rows.
    fn distances(rows: &Array2<f32>) -> Vec<f32> {
        let pairs = (0..rows.nrows()).map(|i| (i, (i * 7 + 1) % rows.nrows()));
        pairs.map(|(i, j)| (&rows.row(i) - &rows.row(j)).mapv(|v| v * v).sum().sqrt()).collect()
    }

    /// Centred rows, of which PCA is what everybody calls so.
    fn centred(n: usize) -> Array2<f32> {
        let rows = made(n, 24, 1);
        let mean = rows.mean_axis(Axis(0)).unwrap();
        rows - mean
    }

    #[test]
    fn training_starts_as_principal_axes() {
        let base = centred(600);
        let none = Training { steps: 0, ..Default::default() };
        let pca = distances(&compressor("PCA6", Metric::L2, &base, &none).compress(&base.view()).unwrap());
        for spec in ["LIN6", "CNT6", "CNT6(tokens=3,heads=1,stages=3)"] {
            let small = compressor(spec, Metric::L2, &base, &none).compress(&base.view()).unwrap();
            let found = distances(&small);
            let scale = found[0] / pca[0];
            assert!(scale >= 1.0, "{spec}: axes lose distance, so they are stretched: {scale}");
            for (found, pca) in found.iter().zip(&pca) {
                assert!(
                    (found - scale * pca).abs() < 0.01 * scale * pca,
                    "{spec}: {found} against {scale} · {pca}"
                );
            }
        }
    }

    /// The nearest other row of each of the first rows.
    fn nearest(rows: &Array2<f32>) -> Vec<usize> {
        let distance = |i: usize, j: usize| (&rows.row(i) - &rows.row(j)).mapv(|v| v * v).sum();
        let others = |i: usize| (0..rows.nrows()).filter(move |&j| j != i);
        (0..300)
            .map(|i| others(i).min_by(|&a, &b| distance(i, a).total_cmp(&distance(i, b))).unwrap())
            .collect()
    }

    #[test]
    fn training_keeps_neighbours_and_lengths() {
        let base = made(1500, 24, 1);
        for metric in METRICS {
            let mut given = base.clone();
            if metric == Metric::Cosine {
                given.rows_mut().into_iter().for_each(|mut row| row /= row.dot(&row).sqrt());
            }
            let want = nearest(&given);
            let kept = |steps| {
                let training = Training { steps, batch: 128, ..Default::default() };
                let compressor = compressor("CNT12", metric, &base, &training);
                let small = compressor.compress(&base.view()).unwrap();
                if metric != Metric::L2 {
                    for (a, b) in small.rows().into_iter().zip(given.rows()) {
                        let (a, b) = (a.dot(&a).sqrt(), b.dot(&b).sqrt());
                        assert!((a - b).abs() < 1e-4 * b, "{metric}: length {a} of {b}");
                    }
                }
                nearest(&small).iter().zip(&want).filter(|(a, b)| a == b).count()
            };
            let (before, after) = (kept(0), kept(200));
            assert!(after > before + 5, "{metric}: nearest rows kept {before} and {after} of 300");
        }
    }

    #[test]
    fn values_far_from_those_trained_on_are_no_harm() {
        let base = made(300, 20, 1) * 1e-6;
        let mut queries = made(5, 20, 2) * 1e14;
        queries[[0, 0]] = 9e14;
        for metric in METRICS {
            let training = Training { steps: 20, batch: 64, ..Default::default() };
            let builder =
                || Index::builder("CNT6,IVF4,SQ8".parse().unwrap()).metric(metric).training(training.clone());
            let index = builder().build(base.view()).unwrap();
            let small = builder().compressor(base.view()).unwrap().compress(&queries.view()).unwrap();
            assert!(small.iter().all(|v| v.is_finite()), "{metric}: {small}");
            // From so far away all points are at the same distance.
            if metric != Metric::L2 {
                assert_devices_agree(
                    &index,
                    queries.view(),
                    SearchParams::new(5).n_probe(4),
                    "CNT6,IVF4,SQ8",
                );
            }
        }
    }

    #[test]
    fn training_does_not_depend_on_threads_or_interruptions() {
        let base = made(700, 24, 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("training.safetensors");
        let training = Training { steps: 40, batch: 64, evaluate_every: 10, ..Default::default() };
        let small = |training: &Training| {
            compressor("CNT6", Metric::Cosine, &base, training).compress(&base.view()).unwrap()
        };
        let want = small(&training);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| small(&training)), want);

        // Products large enough to be shared among threads.
        let wide = made(600, 384, 1);
        let training_of_wide = Training { steps: 2, evaluate_every: 1, ..Default::default() };
        let wide_small =
            || compressor("CNT96", Metric::L2, &wide, &training_of_wide).compress(&wide.view()).unwrap();
        assert_eq!(pool.install(wide_small), wide_small());

        let kept = Training { checkpoint: Some(path.clone()), ..training };
        let flag = std::sync::atomic::AtomicBool::new(false);
        let stop = |p: nearfield::Progress| {
            flag.fetch_or(p.stage == "training" && p.done >= 25, std::sync::atomic::Ordering::Relaxed);
        };
        let builder = Index::builder("CNT6,Flat".parse().unwrap()).metric(Metric::Cosine).seed(5);
        let builder = builder.training(kept.clone()).progress(&stop).cancel(&flag);
        assert!(matches!(builder.compressor(base.view()), Err(BuildError::Cancelled)));
        assert!(path.exists());
        assert_eq!(small(&kept), want);

        let other =
            Index::builder("CNT7,Flat".parse().unwrap()).metric(Metric::Cosine).seed(5).training(kept);
        let error = other.build(base.view()).unwrap_err();
        assert!(matches!(error, BuildError::Checkpoint(CheckpointError::Other { .. })), "{error}");
    }

    fn lists(spec: &str, metric: Metric, base: &Array2<f32>) -> Index {
        Index::builder(spec.parse().unwrap()).metric(metric).seed(5).build(base.view()).unwrap()
    }

    /// Shares of queries whose nearest point comes first, of those that lie in one list.
    fn first(index: &Index, base: &Array2<f32>, queries: &Array2<f32>) -> f64 {
        let searcher = index.searcher(nearfield::Device::cpu()).unwrap();
        let hits = searcher.search(queries.view(), SearchParams::new(1).n_probe(100).n_rerank(10)).unwrap();
        let distance = |q: usize, i: usize| (&queries.row(q) - &base.row(i)).mapv(|v| v * v).sum();
        let nearest = |q: usize| {
            (0..base.nrows()).min_by(|&a, &b| distance(q, a).total_cmp(&distance(q, b))).unwrap() as u64
        };
        let found = (0..queries.nrows()).filter(|&q| hits.ids[[q, 0]] == nearest(q)).count();
        found as f64 / queries.nrows() as f64
    }

    #[test]
    fn networks_of_lists_learn_what_a_reduction_loses() {
        let [base, asked, queries] = [(300, 1), (8000, 3), (300, 2)].map(|(n, seed)| made(n, 24, seed));
        let [without, index] = ["PCA6,IVF2,SQ8", "PCA6,IVF2,CNN(width=8)"].map(|spec| {
            let builder = Index::builder(spec.parse().unwrap()).metric(Metric::L2).seed(5);
            builder.train_queries(&asked.view()).build(base.view()).unwrap()
        });
        let [without, with] = [&without, &index].map(|index| first(index, &base, &queries));
        let outcome = index.metadata("networks").unwrap();
        assert!(with > without, "nearest points first: {with} with a network, {without} without; {outcome}");
        assert!(outcome.starts_with("2 lists, in 2 a network better"), "{outcome}");
    }

    #[test]
    fn what_is_known_already_is_not_trained() {
        let base = made(800, 24, 1);
        let index = lists("IVF6(router=cnn,labels,width=4),CNN(width=4),Refine(f16)", Metric::L2, &base);
        let outcome = index.metadata("routing").unwrap();
        assert!(outcome.contains("nothing is left to learn"), "{outcome}");
        assert!(index.metadata("networks").unwrap().contains("in 0 a network better"));
        // A network that is nothing leaves what a query is compared with.
        let queries = made(200, 24, 2);
        let found = first(&index, &base, &queries);
        assert!(found > 0.97, "nearest points first: {found}");
    }

    #[test]
    fn points_may_be_small() {
        let base = made(800, 24, 1) * 1e-12;
        let index = lists("IVF4,CNN(width=2),Refine(f32)", Metric::L2, &base);
        let outcome = index.metadata("networks").unwrap();
        assert!(outcome.contains("1.0000 at the start"), "{outcome}");
        let found = first(&index, &base, &base.slice(ndarray::s![..200, ..]).to_owned());
        assert!(found > 0.97, "nearest points first: {found}");
    }

    #[test]
    fn networks_of_lists_do_not_depend_on_threads() {
        let base = made(900, 24, 1);
        let folder = tempfile::tempdir().unwrap();
        let bytes = |name: &str| {
            let path = folder.path().join(name);
            lists("PCA6,IVF5(router=cnn,width=4),CNN(width=6)", Metric::Cosine, &base).save(&path).unwrap();
            std::fs::read(path).unwrap()
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(pool.install(|| bytes("one")) == bytes("many"), "files differ");
    }

    #[test]
    fn lists_too_large_for_networks_are_an_error() {
        let base = Array2::from_shape_fn((32_769, 2), |(i, j)| ((i * (j + 3)) as f32).sin());
        let error = Index::builder("IVF1,CNN(width=1)".parse().unwrap()).build(base.view()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("at most 32768 points") && text.contains("32769"), "{text}");
    }
}
