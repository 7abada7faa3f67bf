//! Tuning: a recall asked for is reached on queries that tuning has not seen.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ndarray::{Array2, Axis, s};
use nearfield::{
    Device, Index, Metric, OpenError, QuerySource, SearchError, SearchParams, Tuner, Tuning, Vectors,
    eval::{self, Recall},
    io::VectorFile,
    tune::{self, ENOUGH},
};
use support::{embedded, embedded_array, made};

/// Glosses held out of the embedded base.
const HELD_OUT: usize = 2000;

/// An index of the others, and the glosses held out with what they should find.
fn words(spec: &str) -> (Index, Array2<f32>, Array2<u64>) {
    let file = VectorFile::open(embedded("base.i8bin")).unwrap();
    let mut all = Array2::zeros((file.n_rows(), file.dim()));
    for (i, mut row) in all.outer_iter_mut().enumerate() {
        file.read(i, row.as_slice_mut().unwrap());
    }
    let n = all.nrows() - HELD_OUT;
    let (base, queries) = (all.slice(s![..n, ..]), all.slice(s![n.., ..]).to_owned());
    let index = Index::builder(spec.parse().unwrap()).metric(Metric::Cosine).build(base).unwrap();
    let truth = eval::exact(&base, &queries.view(), Metric::Cosine, 10, &|_, _| ()).unwrap();
    (index, queries, truth)
}

fn tuned(index: &Index, queries: &Array2<f32>, truth: &Array2<u64>, k: usize) -> Tuning {
    let searcher = index.searcher(Device::cpu()).unwrap();
    let view = queries.view();
    let recall = Recall::new(index, &view, truth.view(), k).unwrap();
    let batch = queries.nrows();
    let tuner = Tuner {
        searcher: &searcher,
        index,
        queries: view,
        recall: &recall,
        k,
        batch,
        threads: 1,
        source: QuerySource::Given,
        own: None,
        checks: false,
        enough: ENOUGH,
    };
    tuner.run(&mut |_| true).unwrap()
}

#[test]
fn a_recall_is_reached_on_other_queries() {
    let (index, queries, truth) = words("PCA128x8,IVF128(soar),RRR32,Refine(f32)");
    let (half, unseen) = (queries.slice(s![..HELD_OUT / 2, ..]), queries.slice(s![HELD_OUT / 2.., ..]));
    let (half_truth, unseen_truth) =
        (truth.slice(s![..HELD_OUT / 2, ..]), truth.slice(s![HELD_OUT / 2.., ..]));
    let tuning = tuned(&index, &half.to_owned(), &half_truth.to_owned(), 10);
    assert!(tuning.points.len() > 5, "{tuning:?}");
    assert!(tuning.points.is_sorted_by(|a, b| a.recall < b.recall && a.qps > b.qps), "{tuning:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.nf");
    index.with_tuning(tuning.clone()).save(&path).unwrap();
    let opened = Index::open(&path).unwrap();
    opened.verify().unwrap();
    assert_eq!(opened.tunings(), [tuning]);
    let searcher = opened.searcher(Device::cpu()).unwrap();
    let recall = Recall::new(&opened, &unseen, unseen_truth, 10).unwrap();
    for target in [0.8, 0.9, 0.95, 0.98] {
        let params = SearchParams::new(10).recall(target);
        let choice = searcher.choose(params).unwrap().unwrap();
        assert!(choice.recall >= target && choice.k == 10);
        let hits = searcher.search(unseen, params).unwrap();
        let reached = recall.of(hits.ids.view());
        // Two halves of the queries differ by chance, by up to 0.01 in two cases of three.
        assert!(reached >= target - 0.02, "{target}: {reached} with {choice:?}");
        let by_hand = SearchParams::new(10).n_probe(choice.effort.n_probe).n_rerank(choice.effort.n_rerank);
        assert_eq!(hits, searcher.search(unseen, by_hand).unwrap());
    }
    // Fewer neighbours go by the same table; more do not.
    assert_eq!(searcher.choose(SearchParams::new(3).recall(0.9)).unwrap().unwrap().k, 10);
    let error = searcher.search(unseen, SearchParams::new(11).recall(0.9)).unwrap_err();
    assert_eq!(error, SearchError::NotTuned { k: 11, tuned: Some(10) });
}

/// Rows of the index stand in for queries; what is reached on others is what was said, or more.
#[test]
fn a_recall_is_reached_by_the_rows_own_table() {
    let mut worst = 1.0_f64;
    for (all, metric, spec) in [
        (embedded_array("base.i8bin"), Metric::Ip, "PCA128,IVF128,RRR32,Refine(f16)"),
        (made(20_000, 48, 1), Metric::Cosine, "IVF64(soar),RRR32x4,Refine(f32)"),
        (made(20_000, 48, 3), Metric::L2, "IVF64,SQ8,Refine(f16)"),
    ] {
        // Held out from all over: neighbours in the file are alike.
        let (held, rest): (Vec<usize>, Vec<usize>) = (0..all.nrows()).partition(|i| i % 5 == 3);
        let (base, unseen) = (all.select(Axis(0), &rest), all.select(Axis(0), &held));
        let (n, base, unseen) = (base.nrows(), base.view(), unseen.view());
        let index = Index::builder(spec.parse().unwrap()).metric(metric).build(base).unwrap();
        let own: Vec<usize> = (0..1000).map(|i| i * n / 1000).collect();
        let queries = base.select(Axis(0), &own);
        let own: Vec<u64> = own.into_iter().map(|row| row as u64).collect();
        let truth = eval::exact(&base, &queries.view(), metric, 11, &|_, _| ()).unwrap();
        let truth = tune::without(&truth, &own);
        let searcher = index.searcher(Device::cpu()).unwrap();
        let view = queries.view();
        let recall = Recall::new(&index, &view, truth.view(), 10).unwrap();
        let tuner = Tuner {
            searcher: &searcher,
            index: &index,
            queries: view,
            recall: &recall,
            k: 10,
            batch: 1000,
            threads: 1,
            source: QuerySource::Rows,
            own: Some(&own),
            checks: true,
            enough: ENOUGH,
        };
        let tuned = index.with_tuning(tuner.run(&mut |_| true).unwrap()).searcher(Device::cpu()).unwrap();
        let truth = eval::exact(&base, &unseen, metric, 10, &|_, _| ()).unwrap();
        let recall = Recall::new(&index, &unseen, truth.view(), 10).unwrap();
        for target in [0.8, 0.9, 0.95, 0.98] {
            let reached =
                recall.of(tuned.search(unseen, SearchParams::new(10).recall(target)).unwrap().ids.view());
            println!("{spec} {metric} {target}: {reached}");
            worst = worst.min(reached - target);
        }
    }
    assert!(worst >= -0.01);
}

#[test]
fn recalls_out_of_reach_say_what_is_in_reach() {
    let (index, queries, truth) = words("IVF64,RRR16x4");
    let tuning =
        tuned(&index, &queries.slice(s![..300, ..]).to_owned(), &truth.slice(s![..300, ..]).to_owned(), 10);
    let best = tuning.points.last().unwrap().recall;
    let searcher = index.with_tuning(tuning).searcher(Device::cpu()).unwrap();
    let query = queries.slice(s![..1, ..]);
    let error = searcher.search(query, SearchParams::new(10).recall(0.999)).unwrap_err();
    assert!(error.to_string().contains(&format!("at most {best:.4}")), "{error}");
    for (recall, says) in [(0.0, "above 0"), (1.5, "at most 1"), (f64::NAN, "NaN")] {
        let error = searcher.search(query, SearchParams::new(10).recall(recall)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let both = SearchParams::new(10).recall(0.5).n_probe(3);
    assert_eq!(searcher.search(query, both).unwrap_err(), SearchError::RecallAndEffort { name: "n_probe" });
    let untuned = index.searcher(Device::cpu()).unwrap();
    let error = untuned.search(query, SearchParams::new(10).recall(0.9)).unwrap_err();
    assert!(error.to_string().contains("nearfield tune"), "{error}");
}

#[test]
fn a_table_replaces_the_one_for_the_same_k() {
    let (index, queries, truth) = words("IVF32,SQ8,Refine(f32)");
    let (queries, truth) = (queries.slice(s![..100, ..]).to_owned(), truth.slice(s![..100, ..]).to_owned());
    let mut index = index;
    for k in [5, 10, 5] {
        index = index.with_tuning(tuned(&index, &queries, &truth, k));
    }
    assert_eq!(index.tunings().iter().map(|t| t.k).collect::<Vec<_>>(), [5, 10]);
}

#[test]
fn hostile_tables_are_refused() {
    let (index, queries, truth) = words("IVF32,SQ8,Refine(f32)");
    let tuning =
        tuned(&index, &queries.slice(s![..50, ..]).to_owned(), &truth.slice(s![..50, ..]).to_owned(), 10);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.nf");
    for spoil in [
        |t: &mut Tuning| t.points[0].n_probe = 33,
        |t: &mut Tuning| t.points[0].n_probe = 0,
        |t: &mut Tuning| t.points[0].n_rerank = usize::MAX,
        |t: &mut Tuning| t.points[0].recall = 2.0,
        |t: &mut Tuning| t.k = 0,
        |t: &mut Tuning| t.points.reverse(),
    ] {
        let mut spoiled = tuning.clone();
        spoil(&mut spoiled);
        index.with_tuning(spoiled).save(&path).unwrap();
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Metadata { key: "tuning", .. }), "{error}");
    }
}
