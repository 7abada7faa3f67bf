//! The transform's meaning: `y = qW`.

use super::Pca;

/// Reduced query, `[s]`.
pub(crate) fn project(pca: &Pca, q: &[f32]) -> Vec<f64> {
    (0..pca.s)
        .map(|j| q.iter().enumerate().map(|(i, &v)| f64::from(v) * f64::from(pca.w[i * pca.s + j])).sum())
        .collect()
}
