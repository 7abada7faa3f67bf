//! The product by SIMD: W is read once for several queries, column sums stay in registers.

use super::{super::cpu::Projection, Axes, Linear};
use crate::{
    block::BLOCK,
    simd::{BlockRun, Simd},
};

/// Reduces queries.
pub(crate) fn project<const N: usize>(simd: Simd, linear: &Linear, mut queries: [Projection<'_>; N]) {
    match &linear.axes {
        Axes::F16(w) => {
            for query in &mut queries {
                query.reduced.resize(linear.s, 0.0);
            }
            simd.project_f16(w, queries.map(|query| (query.q, &mut query.reduced[..])));
        }
        Axes::Int8 { shape, run } => {
            // Results are taken out for a while, so that codes can be borrowed beside them.
            let mut results = queries.each_mut().map(|query| {
                query.codes.quantise(simd, query.q, shape.query_len());
                std::mem::take(query.reduced)
            });
            for y in &mut results {
                y.resize(linear.s.next_multiple_of(BLOCK), 0.0);
            }
            let columns = BlockRun {
                shape: *shape,
                bytes: run,
                n_vectors: linear.s,
                queries: queries.each_ref().map(|query| &*query.codes),
                factor: 1.0,
            };
            simd.block_scores(columns, results.each_mut().map(|y| &mut y[..]));
            for (query, mut y) in queries.into_iter().zip(results) {
                y.truncate(linear.s);
                *query.reduced = y;
            }
        }
    }
}
