//! Transform: vectors of `d` dimensions to `s` that carry most of the products.
//!
//! PCA in LoRANN's sense: W holds the top `s` eigenvectors of the *uncentred* second moment `QᵀQ` of
//! training queries, so that `⟨q, x⟩ ≈ ⟨qW, xW⟩` with the least squared error over those queries when rows are
//! distributed alike. Uncentred, the first axis lies near the mean and carries most of the energy: it stays
//! coordinate 0, which every later stage keeps in f32. The other `s − 1` axes are mixed by one seeded
//! random rotation, so that a single int8 scale suits them all.
//!
//! W is stored in one of two ways, and training sees the rounded W:
//! - `PCA<s>`: in half precision, `[d, s]`, and queries meet it in f32. The rounding (2⁻¹² relative) is far below what
//!   int8 costs later. A query reads `2·d·s` bytes.
//! - `PCA<s>x8`: its columns as blocks (`block.rs`), and queries are rounded to int8 as well, coordinate 0 of both kept in
//!   f32. A query reads half as much and has four products an instruction. Its rounding, one scale for all d coordinates, is
//!   an error in any direction, of which products of a point with a near one see little.
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
    block::{BLOCK, BlockShape},
    format::{Image, OpenError, TensorDecl, View},
    spec::{AxesDtype, Bits},
    train::{linalg, rotation},
};

/// Rows of queries in one piece of the second moment.
const CHUNK: usize = 1024;

const W: &str = "transform.w";
const AXES: &str = "transform.axes";

/// The transform of an index file.
pub(crate) struct Pca {
    axes: Axes,
    s: usize,
}

/// W as stored.
enum Axes {
    /// `[d, s]`.
    F16(View<f16>),
    /// A run of its s columns.
    Int8 { shape: BlockShape, run: View<u8> },
}

/// Blocks of columns of `d` components.
fn shape(d: usize) -> BlockShape {
    BlockShape::new(d - 1, Bits::B8, false)
}

/// Codes that a query of `d` dimensions has where it meets axes in int8.
#[cfg(feature = "gpu")]
pub(crate) fn query_len(d: usize) -> usize {
    shape(d).query_len()
}

impl Pca {
    /// The tensor of a map from `d` to `s` dimensions.
    pub fn declare(d: usize, s: usize, dtype: AxesDtype) -> Vec<TensorDecl> {
        vec![match dtype {
            AxesDtype::F16 => TensorDecl::new::<f16>(W, &[d, s]),
            AxesDtype::Int8 => TensorDecl::new::<u8>(AXES, &[shape(d).run_bytes(s.div_ceil(BLOCK))]),
        }]
    }

    /// Dimensions kept.
    pub fn s(&self) -> usize {
        self.s
    }

    /// Bytes that a query reads.
    pub fn n_bytes(&self) -> usize {
        match &self.axes {
            Axes::F16(w) => 2 * w.len(),
            Axes::Int8 { run, .. } => run.len(),
        }
    }

    /// Whether queries are rounded to int8.
    pub fn is_int8(&self) -> bool {
        matches!(self.axes, Axes::Int8 { .. })
    }

    /// Reads the tensor.
    pub fn open(image: &Arc<Image>, d: usize, s: usize, dtype: AxesDtype) -> Result<Self, OpenError> {
        let axes = match dtype {
            AxesDtype::F16 => {
                let w: View<f16> = image.view(W, &[d, s])?;
                if w.iter().any(|v| !v.is_finite()) {
                    let reason = "expected finite values".to_owned();
                    return Err(OpenError::Value { name: W.to_owned(), reason });
                }
                Axes::F16(w)
            }
            AxesDtype::Int8 => {
                let (shape, n_blocks) = (shape(d), s.div_ceil(BLOCK));
                let run: View<u8> = image.view(AXES, &[shape.run_bytes(n_blocks)])?;
                let is_finite = |column: usize| {
                    let (scale, first) = shape.head(&run, n_blocks, column);
                    scale.is_finite() && first.is_finite()
                };
                if !(0..n_blocks * BLOCK).all(is_finite) {
                    let reason = "expected finite scales and components 0".to_owned();
                    return Err(OpenError::Value { name: AXES.to_owned(), reason });
                }
                Axes::Int8 { shape, run }
            }
        };
        Ok(Self { axes, s })
    }
}

/// A trained map.
pub(crate) struct TrainedPca {
    /// The tensor's name and bytes.
    stored: (&'static str, Vec<u8>),
    /// The same values in f32, `[d, s]` row-major.
    pub w: Vec<f32>,
    pub s: usize,
}

impl TrainedPca {
    /// Fills in the tensor.
    pub fn write(&self, parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>) {
        let (name, bytes) = &self.stored;
        if let Some(out) = parts.get_mut(name) {
            out.copy_from_slice(bytes);
        }
    }
}

/// Trains W on `queries`, `[n, d]` row-major.
pub(crate) fn train(
    queries: &[f32],
    d: usize,
    s: usize,
    dtype: AxesDtype,
    rng: &mut ChaCha8Rng,
) -> TrainedPca {
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
    match dtype {
        AxesDtype::F16 => {
            let half: Vec<f16> = (0..d * s).map(|i| f16::from_f32(w[(i / s, i % s)])).collect();
            let stored = (W, bytemuck::cast_slice(&half).to_vec());
            TrainedPca { stored, w: half.iter().map(|v| v.to_f32()).collect(), s }
        }
        AxesDtype::Int8 => {
            let (shape, n_blocks) = (shape(d), s.div_ceil(BLOCK));
            let columns: Vec<Vec<f32>> =
                w.col_iter().map(|column| column.iter().copied().collect()).collect();
            let mut run = vec![0; shape.run_bytes(n_blocks)];
            shape.encode(columns.iter().map(|column| (column[0], &column[1..], 0.0)), &mut run);
            let mut rounded = vec![0.0; d * s];
            for j in 0..s {
                let (scale, first, _, codes) = shape.decode(&run, n_blocks, j);
                rounded[j] = first;
                for (i, code) in (1..d).zip(codes) {
                    rounded[i * s + j] = scale * code as f32;
                }
            }
            TrainedPca { stored: (AXES, run), w: rounded, s }
        }
    }
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
