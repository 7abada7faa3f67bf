//! The transform by SIMD.

use super::{Kind, NOTHING_LEFT, Transform, cnt, linear};
use crate::{block::BlockQuery, simd::Simd};

/// A query on its way through.
pub(crate) struct Projection<'a> {
    /// As given, `[d]`.
    pub q: &'a [f32],
    /// Room for its codes.
    pub codes: &'a mut BlockQuery,
    /// What comes out, `[s]`.
    pub reduced: &'a mut Vec<f32>,
}

/// Reduces queries. `room`: memory that a network's layers live in.
pub(crate) fn project<const N: usize>(
    simd: Simd,
    transform: &Transform,
    mut queries: [Projection<'_>; N],
    room: &mut cnt::cpu::Room,
) {
    let reborrowed =
        queries.each_mut().map(|query| Projection { q: query.q, codes: query.codes, reduced: query.reduced });
    match &transform.kind {
        Kind::Linear(linear) => linear::cpu::project(simd, linear, reborrowed),
        Kind::Cnt(cnt) => cnt::cpu::project(simd, cnt, reborrowed, room),
    }
    if transform.scales_queries {
        for query in queries {
            keep_length(simd, query.q, query.reduced);
        }
    }
}

/// Scales `y` to the length of `x`, unless nothing is left of it.
pub(crate) fn keep_length(simd: Simd, x: &[f32], y: &mut [f32]) {
    let (given, found) = (simd.dot_f32(x, x), simd.dot_f32(y, y));
    if found > given * NOTHING_LEFT {
        let factor = given.sqrt() / found.sqrt();
        y.iter_mut().for_each(|v| *v *= factor);
    }
}
