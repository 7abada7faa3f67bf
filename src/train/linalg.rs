//! Dense products on row-major slices, by faer, on the calling thread.
//!
//! Callers parallelise over pieces of fixed size: sums then do not depend on the number of threads.

use faer::{
    Accum, MatMut, MatRef, Par,
    linalg::matmul::{
        matmul,
        triangular::{self, BlockStructure},
    },
};

/// A row-major matrix in a slice.
pub(crate) fn rows(values: &[f32], n_rows: usize, n_cols: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(values, n_rows, n_cols)
}

/// `out = a·b`; `out` is `[a.nrows(), b.ncols()]` row-major.
pub(crate) fn product(a: MatRef<'_, f32>, b: MatRef<'_, f32>, out: &mut [f32]) {
    let out = MatMut::from_row_major_slice_mut(out, a.nrows(), b.ncols());
    matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
}

/// Lower triangle of `out += aᵀ·a` for a row-major `a` of `n_cols` columns; the upper one is left alone.
pub(crate) fn add_gram(a: &[f32], n_cols: usize, out: &mut [f32]) {
    let a = rows(a, a.len() / n_cols, n_cols);
    let out = MatMut::from_row_major_slice_mut(out, n_cols, n_cols);
    let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    triangular::matmul(out, lower, Accum::Add, a.transpose(), whole, a, whole, 1.0, Par::Seq);
}
