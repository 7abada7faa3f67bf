//! A list's rows by SIMD, one after the other.

use std::ops::Range;

use crate::{
    metric::Metric,
    rows::{RowQuery, RowStore},
    simd::Simd,
    topk::Candidates,
};

/// Offers every point of a list, one row after the other.
pub(crate) fn scan(
    simd: Simd,
    rows: &RowStore,
    metric: Metric,
    query: &RowQuery,
    list: Range<usize>,
    kept: &mut Candidates,
    id_of: &impl Fn(u32) -> u64,
) {
    rows.scores(simd, metric, query, list, |position, score| {
        // Positions are below 2³²: an index holds no more points.
        kept.push(score, u32::try_from(position).unwrap_or(u32::MAX), id_of);
    });
}
