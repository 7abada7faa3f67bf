//! Transform: vectors of `d` dimensions to `s` that carry most of the products.
//!
//! PCA in LoRANN's sense: W holds the top `s` eigenvectors of the *uncentred* second moment `QᵀQ` of
//! training queries, so that `⟨q, x⟩ ≈ ⟨qW, xW⟩` with the least squared error over those queries when rows are
//! distributed alike. Uncentred, the first axis lies near the mean and carries most of the energy: it stays
//! coordinate 0, which every later stage keeps in f32. The other `s − 1` axes are mixed by one seeded
//! random rotation, so that a single int8 scale suits them all.
//!
//! W is stored in half precision, `[d, s]`: its rounding (2⁻¹² relative) is far below what int8 costs later,
//! and training sees the rounded W. A query reads `2·d·s` bytes of it.
//!
//! Source: Jääsaari, Hyvönen, Roos, "LoRANN: Low-Rank Matrix Factorization for Approximate Nearest Neighbor
//! Search", NeurIPS 2024, section 4.2.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;

use std::sync::Arc;

use faer::{Mat, Side};
use half::f16;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{
    format::{Image, OpenError, TensorDecl, View},
    train::{linalg, rotation},
};

/// Rows of queries in one piece of the second moment.
const CHUNK: usize = 1024;

const W: &str = "transform.w";

/// The transform of an index file.
pub(crate) struct Pca {
    w: View<f16>,
    s: usize,
}

impl Pca {
    /// The tensor of a map from `d` to `s` dimensions.
    pub fn declare(d: usize, s: usize) -> Vec<TensorDecl> {
        vec![TensorDecl::new::<f16>(W, &[d, s])]
    }

    /// Values of W.
    pub fn n_values(&self) -> usize {
        self.w.len()
    }

    /// Reads the tensor.
    pub fn open(image: &Arc<Image>, d: usize, s: usize) -> Result<Self, OpenError> {
        let w: View<f16> = image.view(W, &[d, s])?;
        if w.iter().any(|v| !v.is_finite()) {
            let reason = "expected finite values".to_owned();
            return Err(OpenError::Value { name: W.to_owned(), reason });
        }
        Ok(Self { w, s })
    }
}

/// A trained map, `[d, s]` row-major.
pub(crate) struct TrainedPca {
    /// As stored.
    pub half: Vec<f16>,
    /// The same values in f32, for products.
    pub w: Vec<f32>,
    pub s: usize,
}

impl TrainedPca {
    /// Fills in the tensor.
    pub fn write(&self, parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>) {
        if let Some(out) = parts.get_mut(W) {
            out.copy_from_slice(bytemuck::cast_slice(&self.half));
        }
    }
}

/// Trains W on `queries`, `[n, d]` row-major.
pub(crate) fn train(queries: &[f32], d: usize, s: usize, rng: &mut ChaCha8Rng) -> TrainedPca {
    // Pieces are summed in order, so the result does not depend on the number of threads; few d × d pieces
    // exist at once, one where they are large.
    let at_once = if d > 512 { 2 } else { 8 };
    let mut moment = vec![0.0; d * d];
    let pieces: Vec<&[f32]> = queries.chunks(CHUNK * d).collect();
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
    let axes = top_axes(&moment, d, s);
    let mix = rotation::random(s - 1, rng);
    let mut w = Mat::zeros(d, s);
    w.col_mut(0).copy_from(axes.col(0));
    if s > 1 {
        let mixed = axes.subcols(1, s - 1) * &mix;
        w.subcols_mut(1, s - 1).copy_from(&mixed);
    }
    let half: Vec<f16> = (0..d * s).map(|i| f16::from_f32(w[(i / s, i % s)])).collect();
    TrainedPca { w: half.iter().map(|v| v.to_f32()).collect(), half, s }
}

/// The `s` leading eigenvectors of a symmetric `d × d` matrix, largest eigenvalue first.
fn top_axes(moment: &[f32], d: usize, s: usize) -> Mat<f32> {
    let moment = linalg::rows(moment, d, d);
    match moment.self_adjoint_eigen(Side::Lower) {
        // Eigenvalues come in ascending order.
        Ok(eigen) => Mat::from_fn(d, s, |i, j| eigen.U()[(i, d - 1 - j)]),
        // The solver gives up only on values that are not finite, which are refused before training, or
        // on sums that overflow: the first s axes are then as good as any.
        Err(_) => Mat::from_fn(d, s, |i, j| if i == j { 1.0 } else { 0.0 }),
    }
}
