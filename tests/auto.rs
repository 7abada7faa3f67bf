//! `auto`: a specification found by trying.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nearfield::{
    Auto, Device, Index, Metric, SearchParams, Trial,
    auto::AutoError,
    eval::{self, Recall},
    io::VectorFile,
};
use support::{embedded, embedded_array, made};

/// The first trial is the fastest of those that reach the recall, but for what clocks waver by.
fn is_best(trials: &[Trial], recall: f64) {
    let chosen = &trials[0];
    assert!(chosen.recall >= recall, "{trials:?}");
    for other in &trials[1..] {
        assert!(other.recall < recall || other.qps <= 1.03 * chosen.qps, "{trials:?}");
    }
}

#[test]
fn the_fastest_is_chosen_and_is_good_on_all_vectors() {
    let base = VectorFile::open(embedded("base.i8bin")).unwrap();
    let mut seen = Vec::new();
    let auto = Auto::new(Metric::Cosine);
    let trials = auto
        .run(&base, &mut |trial| {
            seen.push(trial.clone());
            true
        })
        .unwrap();
    assert!(trials.len() >= 8, "{trials:?}");
    assert_eq!(seen.len(), trials.len());
    assert!(seen.contains(&trials[0]));
    is_best(&trials, 0.95);
    // What reads every dimension of every point read is not the fastest way to score.
    assert!(!trials[0].spec.to_string().contains("SQ8"), "{}", trials[0].spec);

    let index = Index::builder(trials[0].spec).metric(Metric::Cosine).build(&base).unwrap();
    let queries = embedded_array("query.i8bin");
    let view = queries.view();
    let truth = eval::exact(&base, &view, Metric::Cosine, 10, &|_, _| ()).unwrap();
    let recall = Recall::new(&index, &view, truth.view(), 10).unwrap();
    let searcher = index.searcher(Device::cpu()).unwrap();
    let params = SearchParams::new(10).n_probe(index.n_lists() / 4 + 1).n_rerank(200);
    let found = recall.of(searcher.search(view, params).unwrap().ids.view());
    assert!(found > 0.95, "{}: recall {found}", trials[0].spec);
}

#[test]
fn training_queries_decide() {
    let (base, queries) = (made(1200, 40, 1), made(400, 40, 2).mapv(|v| -v));
    let view = queries.view();
    let auto = Auto { train_queries: Some(&view), k: 5, recall: 0.9, ..Auto::new(Metric::Ip) };
    let trials = auto.run(&base.view(), &mut |_| true).unwrap();
    is_best(&trials, 0.9);
    assert_eq!(trials[0].n_queries, 200, "half of them are asked, half train");
    assert_eq!(trials[0].n_sampled, base.nrows());
    // Copies for queries of another kind are among the trials.
    assert!(trials.iter().any(|trial| trial.spec.to_string().contains("soar=3")), "{trials:?}");
}

#[test]
fn small_and_bad_sets_are_refused_or_compared_with_all() {
    let auto = Auto::new(Metric::L2);
    let tiny = made(11, 3, 1);
    assert!(matches!(auto.run(&tiny.view(), &mut |_| true), Err(AutoError::TooFew { k: 10, n: 11 })));
    let few = made(60, 3, 1);
    let trials = auto.run(&few.view(), &mut |_| true).unwrap();
    assert!(trials.iter().any(|trial| trial.spec.to_string() == "Flat"), "{trials:?}");
    is_best(&trials, 0.95);
    // Values beyond half precision are kept in f32; a first trial may be enough.
    let large = made(400, 20, 1).mapv(|v| v * 1e5);
    let trials = auto.run(&large.view(), &mut |_| false).unwrap();
    assert_eq!(trials.len(), 1);
    assert!(trials[0].spec.to_string().ends_with("Refine(f32)"), "{}", trials[0].spec);
    for (recall, k, says) in
        [(f64::NAN, 10, "recall"), (7.0, 10, "recall"), (0.9, 0, "k"), (0.9, usize::MAX, "k =")]
    {
        let error = Auto { recall, k, ..Auto::new(Metric::L2) }
            .run(&few.view(), &mut |_| true)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut bad = made(500, 8, 1);
    bad[[77, 3]] = f32::NAN;
    let error = auto.run(&bad.view(), &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("row 77, column 3"), "{error}");
    let (base, queries) = (made(500, 8, 1), made(10, 7, 1));
    let view = queries.view();
    let auto = Auto { train_queries: Some(&view), ..Auto::new(Metric::L2) };
    let error = auto.run(&base.view(), &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("training queries: expected 8 dimensions, got 7"), "{error}");
}
