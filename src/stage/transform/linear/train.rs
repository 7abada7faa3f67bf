//! Finding linear maps.

use faer::{Mat, MatRef, Side};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::train::{Network, Parameter, linalg, rotation};

/// Rows in one piece of a second moment.
const CHUNK: usize = 1024;

/// Rows of W in one piece of its gradient.
const GRADIENT_ROWS: usize = 64;

/// PCA in LoRANN's sense: the top `s` eigenvectors of the *uncentred* second moment `QᵀQ` of training queries
/// `[n, d]`, so that `⟨q, x⟩ ≈ ⟨qW, xW⟩` with the least squared error over those queries when rows are distributed alike.
/// Uncentred, the first axis lies near the mean and carries most of the energy: it stays coordinate 0, which every
/// later stage keeps in f32. The other `s − 1` axes are mixed by one seeded random rotation, so that a single int8
/// scale suits them all.
///
/// Source: Jääsaari, Hyvönen, Roos, "LoRANN: Low-Rank Matrix Factorization for Approximate Nearest Neighbor
/// Search", NeurIPS 2024, section 4.2.
pub(crate) fn pca(queries: &[f32], d: usize, s: usize, rng: &mut ChaCha8Rng) -> Mat<f32> {
    mixed(top_axes(queries, d, s).as_ref(), rng)
}

/// A sparse random projection `[d, s]`: entries `±√(σ/s)` with probability `1/2σ` each, `σ = √d`, else 0. The squared
/// distance of two reduced vectors is that of the vectors on average.
///
/// Source: Li, Hastie, Church, "Very Sparse Random Projections", KDD 2006, section 2.
pub(crate) fn srp(d: usize, s: usize, rng: &mut ChaCha8Rng) -> Mat<f32> {
    let sigma = (d as f32).sqrt();
    let size = (sigma / s as f32).sqrt();
    Mat::from_fn(d, s, |_, _| {
        let u: f32 = rng.random();
        if u * 2.0 * sigma < 1.0 {
            size
        } else if u * sigma < 1.0 {
            -size
        } else {
            0.0
        }
    })
}

/// The `s` leading eigenvectors of the second moment of `rows`, `[n, d]`, largest eigenvalue first.
pub(crate) fn top_axes(rows: &[f32], d: usize, s: usize) -> Mat<f32> {
    // Pieces are summed in order, so the result does not depend on the number of threads; few d × d pieces
    // exist at once, one where they are large.
    let at_once = if d > 512 { 2 } else { 8 };
    let mut moment = vec![0.0; d * d];
    let pieces: Vec<&[f32]> = rows.chunks(CHUNK * d).collect();
    for batch in pieces.chunks(at_once) {
        let sums: Vec<Vec<f32>> = batch
            .par_iter()
            .map(|piece| {
                let mut sum = vec![0.0; d * d];
                linalg::add_gram(piece, d, &mut sum);
                sum
            })
            .collect();
        for sum in sums {
            for (total, v) in moment.iter_mut().zip(sum) {
                *total += v;
            }
        }
    }
    let moment = linalg::rows(&moment, d, d);
    match moment.self_adjoint_eigen(Side::Lower) {
        // Eigenvalues come in ascending order.
        Ok(eigen) => Mat::from_fn(d, s, |i, j| eigen.U()[(i, d - 1 - j)]),
        // The solver gives up only on values that are not finite, which are refused before training, or
        // on sums that overflow: the first s axes are then as good as any.
        Err(_) => Mat::from_fn(d, s, |i, j| if i == j { 1.0 } else { 0.0 }),
    }
}

/// The same axes, all but the first mixed by a random rotation.
pub(crate) fn mixed(axes: MatRef<'_, f32>, rng: &mut ChaCha8Rng) -> Mat<f32> {
    let s = axes.ncols();
    let mix = rotation::random(s - 1, rng);
    let mut w = axes.to_owned();
    if s > 1 {
        w.subcols_mut(1, s - 1).copy_from(axes.subcols(1, s - 1) * &mix);
    }
    w
}

/// `LIN`: a linear map on its way. Its one parameter is W, `[d, s]` row-major; a product needs no more than this for its gradient.
pub(crate) struct LinearNetwork {
    pub start: Vec<f32>,
    pub d: usize,
    pub s: usize,
}

impl Network for LinearNetwork {
    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter { values: self.start.clone(), is_direct: true }]
    }

    fn gradients(
        &self,
        values: &[Vec<f32>],
        x: &[f32],
        slope: &mut dyn FnMut(&[f32]) -> Vec<f32>,
    ) -> Vec<Vec<f32>> {
        let (d, s) = (self.d, self.s);
        let y = self.outputs(values, x);
        let dy = slope(&y);
        let (x, dy) = (linalg::rows(x, x.len() / d, d), linalg::rows(&dy, dy.len() / s, s));
        let mut gradient = vec![0.0; d * s];
        gradient.par_chunks_mut(GRADIENT_ROWS * s).enumerate().for_each(|(piece, out)| {
            let columns = x.subcols(piece * GRADIENT_ROWS, out.len() / s);
            linalg::product(columns.transpose(), dy, out);
        });
        vec![gradient]
    }

    fn outputs(&self, values: &[Vec<f32>], x: &[f32]) -> Vec<f32> {
        linalg::par_product(x, linalg::rows(&values[0], self.d, self.s))
    }
}
