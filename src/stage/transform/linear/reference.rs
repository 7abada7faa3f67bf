//! The map's meaning: `y = qW`, of the query itself or of its codes.

use super::{Axes, Linear};
use crate::block::{BLOCK, BlockQuery};

/// Reduced query, `[s]`.
#[allow(clippy::cast_possible_truncation, reason = "sums are rounded once, to f32")]
pub(crate) fn project(linear: &Linear, q: &[f32]) -> Vec<f32> {
    let s = linear.s;
    match &linear.axes {
        Axes::F16(w) => {
            let term = |(i, v): (usize, &f32), j: usize| f64::from(*v) * f64::from(w[i * s + j]);
            (0..s).map(|j| q.iter().enumerate().map(|pair| term(pair, j)).sum::<f64>() as f32).collect()
        }
        Axes::Int8 { shape, run } => {
            let query = BlockQuery::quantise_reference(q[0], &q[1..], shape.query_len());
            (0..s).map(|j| query.score_reference(*shape, run, s.div_ceil(BLOCK), j, 1.0)).collect()
        }
    }
}
