//! Dense products on row-major slices, by faer, on the calling thread unless said otherwise.
//!
//! Threads share pieces of fixed size: sums then do not depend on the number of threads.

use faer::{
    Accum, Mat, MatMut, MatRef, Par, Side,
    linalg::matmul::{
        matmul,
        triangular::{self, BlockStructure},
    },
};
use rayon::prelude::*;

/// A row-major matrix in a slice.
pub(crate) fn rows(values: &[f32], n_rows: usize, n_cols: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(values, n_rows, n_cols)
}

/// `out = a·b`; `out` is `[a.nrows(), b.ncols()]` row-major.
pub(crate) fn product(a: MatRef<'_, f32>, b: MatRef<'_, f32>, out: &mut [f32]) {
    let out = MatMut::from_row_major_slice_mut(out, a.nrows(), b.ncols());
    matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
}

/// Rows in a piece of [`par_product`].
const PRODUCT_ROWS: usize = 64;

/// `a·b` for a row-major `a` of `b.nrows()` columns, its rows shared among threads.
pub(crate) fn par_product(a: &[f32], b: MatRef<'_, f32>) -> Vec<f32> {
    let (d, s) = (b.nrows(), b.ncols());
    let mut out = vec![0.0; a.len() / d * s];
    out.par_chunks_mut(PRODUCT_ROWS * s)
        .zip(a.par_chunks(PRODUCT_ROWS * d))
        .for_each(|(out, a)| product(rows(a, a.len() / d, d), b, out));
    out
}

/// Lower triangle of `out += aᵀ·a` for a row-major `a` of `n_cols` columns; the upper one is left alone.
pub(crate) fn add_gram(a: &[f32], n_cols: usize, out: &mut [f32]) {
    let a = rows(a, a.len() / n_cols, n_cols);
    let out = MatMut::from_row_major_slice_mut(out, n_cols, n_cols);
    let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    triangular::matmul(out, lower, Accum::Add, a.transpose(), whole, a, whole, 1.0, Par::Seq);
}

/// Directions beside those asked for, which a subspace finds less exactly.
const SPARE: usize = 8;

/// Products with the matrix that turn a random subspace towards the leading one. A direction j is off by about
/// `(λ_last/λ_j)^TURNS`, λ_last the first eigenvalue beyond the subspace.
const TURNS: usize = 3;

/// A start for [`leading`] of `n` of `s` directions: Gaussian columns, or nothing where all directions are as quick.
pub(crate) fn subspace(s: usize, n: usize, mut normal: impl FnMut() -> f32) -> Option<Mat<f32>> {
    (2 * (n + SPARE) <= s).then(|| Mat::from_fn(s, n + SPARE, |_, _| normal()))
}

/// The `n` leading eigenvectors `[s, n]` of a symmetric matrix without negative eigenvalues, and those values, largest first;
/// nothing where the matrix is not finite. With a `start` by subspace iteration (Halko, Martinsson & Tropp 2011,
/// algorithm 4.4), else all are worked out.
pub(crate) fn leading(
    matrix: MatRef<'_, f32>,
    n: usize,
    start: Option<&Mat<f32>>,
) -> Option<(Mat<f32>, Vec<f32>)> {
    let Some(start) = start else {
        let eigen = matrix.self_adjoint_eigen(Side::Lower).ok().filter(|eigen| eigen.S()[0].is_finite())?;
        let s = matrix.nrows();
        // Eigenvalues ascend: the leading vectors are the last columns.
        let vectors = Mat::from_fn(s, n, |i, j| eigen.U()[(i, s - 1 - j)]);
        return Some((vectors, (0..n).map(|j| eigen.S()[s - 1 - j]).collect()));
    };
    let mut basis = start.clone();
    for _ in 0..TURNS {
        basis = (matrix * &basis).qr().compute_thin_Q();
    }
    let small = basis.transpose() * (matrix * &basis);
    let eigen = small.self_adjoint_eigen(Side::Lower).ok().filter(|eigen| eigen.S()[0].is_finite())?;
    let p = small.nrows();
    let turn = Mat::from_fn(p, n, |i, j| eigen.U()[(i, p - 1 - j)]);
    Some((&basis * &turn, (0..n).map(|j| eigen.S()[p - 1 - j]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{generator, normal};

    #[test]
    fn subspaces_find_the_leading_directions() {
        let (s, n) = (80, 16);
        let mut rng = generator(5, "test");
        // Values that fall like 1/i, as those of embeddings do.
        let x = Mat::from_fn(400, s, |_, j| normal(&mut rng) / (1 + j) as f32);
        let moment = x.transpose() * &x;
        let start = subspace(s, n, || normal(&mut rng)).unwrap();
        let (found, values) = leading(moment.as_ref(), n, Some(&start)).unwrap();
        let (exact, largest) = leading(moment.as_ref(), n, None).unwrap();
        let left = |v: &Mat<f32>| (&x - &x * v * v.transpose()).squared_norm_l2();
        assert!(left(&found) <= 1.01 * left(&exact), "{} against {}", left(&found), left(&exact));
        for (value, want) in values.iter().zip(&largest) {
            assert!((value - want).abs() < 0.05 * want, "{value} against {want}");
        }
        assert!(subspace(40, 16, || 0.0).is_none());
    }
}
