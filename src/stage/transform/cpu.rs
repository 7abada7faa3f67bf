//! The transform by SIMD: W is read once for several queries, column sums stay in registers.

use super::Pca;
use crate::simd::Simd;

/// Reduced queries, `[s]` each, beside the queries.
pub(crate) fn project<const N: usize>(simd: Simd, pca: &Pca, mut pairs: [(&[f32], &mut Vec<f32>); N]) {
    for (_, y) in &mut pairs {
        y.resize(pca.s, 0.0);
    }
    simd.project_f16(&pca.w, pairs.map(|(q, y)| (q, &mut y[..])));
}
