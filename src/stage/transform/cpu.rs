//! The transform by SIMD: W is read once, column sums stay in registers.

use super::Pca;
use crate::simd::Simd;

/// Reduced query into `y`, `[s]`.
pub(crate) fn project(simd: Simd, pca: &Pca, q: &[f32], y: &mut Vec<f32>) {
    y.resize(pca.s, 0.0);
    simd.project_f16(&pca.w, q, y);
}
