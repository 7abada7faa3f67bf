//! Exact scores by SIMD, rows prefetched.

use crate::{
    metric::Metric,
    rows::{RowQuery, RowStore},
    simd::{self, Simd},
};

/// Rows asked for ahead: from about 4 on memory latency is covered.
const AHEAD: usize = 6;

/// Asks for the rows that [`scores`] begins with.
pub(crate) fn prefetch(rows: &RowStore, positions: &[u32]) {
    for &p in positions.iter().take(AHEAD) {
        simd::prefetch(rows.row_bytes(p as usize));
    }
}

/// Exact internal score of each candidate, handed to `take(position, score)`.
pub(crate) fn scores(
    simd: Simd,
    rows: &RowStore,
    metric: Metric,
    query: &RowQuery,
    positions: &[u32],
    take: impl FnMut(usize, f32),
) {
    prefetch(rows, positions);
    let ahead = positions.iter().enumerate().map(|(i, &p)| {
        if let Some(&next) = positions.get(i + AHEAD) {
            simd::prefetch(rows.row_bytes(next as usize));
        }
        p as usize
    });
    rows.scores(simd, metric, query, ahead, take);
}
