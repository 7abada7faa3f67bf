//! The meaning: every candidate scored on its stored row, in f64.

use crate::{metric::Metric, rows::RowStore};

/// Exact internal scores of the rows at `positions`.
pub(crate) fn scores(rows: &RowStore, metric: Metric, q: &[f32], positions: &[u32]) -> Vec<f32> {
    positions.iter().map(|&p| rows.score_reference(metric, q, p as usize)).collect()
}
