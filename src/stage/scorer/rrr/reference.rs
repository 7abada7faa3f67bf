//! The regressions' meaning: decode, multiply, round to int8 in between.

use super::Rrr;
use crate::block::{BLOCK, BlockQuery};

/// Internal scores (l2: without `‖q‖²`) of the `m` points of a list.
pub(crate) fn scores(rrr: &Rrr, list: usize, m: usize, reduced: &[f32], query: &BlockQuery) -> Vec<f32> {
    let list_a = rrr.a_of(list);
    let rest: f64 =
        list_a.column.iter().zip(&reduced[1..]).map(|(&a, &q)| (f64::from(a) - 128.0) * f64::from(q)).sum();
    let first = f64::from(list_a.first) * f64::from(reduced[0]) + f64::from(list_a.scale) * rest;
    let t: Vec<f32> = (0..rrr.shape.rank)
        .map(|j| query.score_reference(rrr.shape.a, list_a.run, rrr.shape.rank / BLOCK, j, 1.0))
        .collect();
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    let t = BlockQuery::quantise_reference(first as f32, &t, rrr.shape.b.query_len());
    let factor = rrr.metric.product_factor();
    (0..m).map(|i| t.score_reference(rrr.shape.b, rrr.b_of(list), m.div_ceil(BLOCK), i, factor)).collect()
}
