//! Zero rows and zero queries under cosine: their product with everything is 0, whatever an index is made of.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ndarray::{Array2, ArrayView2};
use nearfield::{Device, Index, Metric, NO_ID, SearchParams};
use support::{NETWORKS, SPECS, assert_devices_agree, build, made};

/// Made rows, every `step`-th zero.
fn with_zeros(n: usize, d: usize, step: usize) -> Array2<f32> {
    let mut base = made(n, d, 1);
    for row in (0..n).step_by(step) {
        base.row_mut(row).fill(0.0);
    }
    base
}

/// Some queries, the first and the fourth zero; those beside them make batches and single queries alike.
fn queries(d: usize) -> Array2<f32> {
    let mut queries = made(9, d, 2);
    queries.row_mut(0).fill(0.0);
    queries.row_mut(3).fill(-0.0);
    queries
}

fn check(index: &Index, spec: &str, queries: ArrayView2<'_, f32>) {
    let params = SearchParams::new(7).n_probe(index.n_lists()).n_rerank(40);
    assert_devices_agree(index, queries, params, spec);
    for device in [Device::cpu(), Device::Reference] {
        let hits = support::search(index, device, queries, params);
        assert!(hits.ids.iter().all(|&id| id != NO_ID), "{spec}");
        assert!(hits.scores.iter().all(|score| score.is_finite()), "{spec}: {:?}", hits.scores);
        // Biases of a scorer's networks make something of nothing, unless stored rows decide.
        let is_exact = !spec.contains("CNN") || spec.contains("Refine");
        for row in [0, 3] {
            for score in hits.scores.row(row).iter().filter(|_| is_exact) {
                assert_eq!(score.to_bits(), 0, "{spec}: a zero query scores {score}");
            }
        }
    }
}

#[test]
fn every_specification_takes_them() {
    let base = with_zeros(300, 24, 3);
    let queries = queries(24);
    for spec in SPECS {
        let index = build(spec, Metric::Cosine, base.view());
        assert_eq!(index.n_zero_rows(), 100, "{spec}");
        check(&index, spec, queries.view());
        // Nothing but zeros.
        let index = build(spec, Metric::Cosine, Array2::zeros((200, 24)).view());
        let hits = support::search(&index, Device::cpu(), queries.view(), SearchParams::new(3));
        assert!(hits.scores.iter().all(|score| score.is_finite()), "{spec}: {:?}", hits.scores);
    }
}

#[test]
fn kept_networks_take_zero_queries() {
    for spec in NETWORKS {
        let index = Index::open(support::v1(spec, Metric::Cosine)).unwrap();
        check(&index, spec, queries(20).view());
    }
}

#[cfg(feature = "neural")]
#[test]
fn networks_are_trained_with_zero_rows() {
    let base = with_zeros(300, 24, 3);
    for spec in NETWORKS {
        check(&build(spec, Metric::Cosine, base.view()), spec, queries(24).view());
    }
}

#[test]
fn counted_only_under_cosine() {
    let base = with_zeros(60, 8, 4);
    let count = |metric| build("Flat", metric, base.view()).n_zero_rows();
    assert_eq!([Metric::Cosine, Metric::Ip, Metric::L2].map(count), [15, 0, 0]);
    assert_eq!(build("Flat", Metric::Cosine, made(60, 8, 1).view()).n_zero_rows(), 0);
}

#[test]
fn zero_rows_come_between_positive_and_negative_products() {
    let base = with_zeros(90, 16, 3);
    let queries = queries(16);
    for spec in ["Flat", "SQ8,Refine(f32)", "IVF4,RRR16,Refine(f32)"] {
        let index = build(spec, Metric::Cosine, base.view());
        let params = SearchParams::new(90).n_probe(4).n_rerank(90);
        let hits = support::search(&index, Device::cpu(), queries.view(), params);
        for (ids, scores) in hits.ids.outer_iter().zip(hits.scores.outer_iter()) {
            for (&id, &score) in ids.iter().zip(scores) {
                assert_eq!(id % 3 == 0 || score == 0.0, score == 0.0, "{spec}: row {id} scores {score}");
                assert!(id % 3 != 0 || score.to_bits() == 0, "{spec}: zero row {id} scores {score}");
            }
        }
    }
}
