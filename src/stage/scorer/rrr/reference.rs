//! The regressions' meaning: decode, multiply, round to int8 in between.

use super::Rrr;
use crate::block::{BLOCK, BlockQuery};

/// Internal scores (l2: without `‖q‖²`) of the `m` points of a list.
pub(crate) fn scores(rrr: &Rrr, list: usize, m: usize, reduced: &[f32], query: &BlockQuery) -> Vec<f32> {
    let list_a = rrr.a_of(list);
    let rest: f64 =
        list_a.column.iter().zip(&reduced[1..]).map(|(&a, &q)| f64::from(a) * f64::from(q)).sum();
    let first = f64::from(list_a.first) * f64::from(reduced[0]) + f64::from(list_a.scale) * rest;
    let t: Vec<f32> = (0..rrr.shape.rank)
        .map(|j| {
            let block = &list_a.blocks[j / BLOCK * rrr.shape.a.bytes()..];
            query.score_reference(rrr.shape.a, block, j % BLOCK, 1.0)
        })
        .collect();
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    let t = BlockQuery::quantise_reference(first as f32, &t, rrr.shape.b.query_len());
    let blocks = rrr.b_of(list, m);
    (0..m)
        .map(|i| {
            let block = &blocks[i / BLOCK * rrr.shape.b.bytes()..];
            t.score_reference(rrr.shape.b, block, i % BLOCK, rrr.metric.product_factor())
        })
        .collect()
}
