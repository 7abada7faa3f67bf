//! Stored vectors, one a row, and the score of a query against one of them.
//!
//! Three storages of one meaning: f32, f16, and `sq8`, one byte a dimension with
//! `x_i ≈ min_i + step_i·code_i`. For sq8 the query is prepared once:
//! `⟨q, x⟩ = ⟨q, min⟩ + Σ (q_i·step_i)·code_i` and `‖q − x‖² = Σ ((q_i − min_i) − step_i·code_i)²`.

#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use std::{collections::BTreeMap, sync::Arc};

use half::f16;
use rayon::prelude::*;

use crate::{
    block::nearest,
    format::{Image, OpenError, TensorDecl, View},
    metric::Metric,
    simd::Simd,
    spec::RowDtype,
};

/// Rows of `dim` values.
pub(crate) struct RowStore {
    rows: Rows,
    dim: usize,
}

enum Rows {
    F32(View<f32>),
    F16(View<f16>),
    Sq8 { codes: View<u8>, min: View<f32>, step: View<f32> },
}

/// The tensors' names: one store for the scorer, one for exact scores.
pub(crate) struct RowNames {
    pub rows: &'static str,
    min: &'static str,
    step: &'static str,
}

/// Rows that a scorer scans.
pub(crate) const SCORER_ROWS: RowNames = RowNames { rows: "rows.values", min: "rows.min", step: "rows.step" };
/// Rows that candidates are scored on exactly.
pub(crate) const REFINE_ROWS: RowNames =
    RowNames { rows: "refine.rows", min: "refine.min", step: "refine.step" };

/// A query prepared for a store.
#[derive(Default)]
pub(crate) struct RowQuery {
    values: Vec<f32>,
    base: f32,
}

impl RowStore {
    /// Tensors for `n` rows of `dim` values.
    pub fn declare(names: &RowNames, dtype: RowDtype, n: usize, dim: usize) -> Vec<TensorDecl> {
        match dtype {
            RowDtype::F32 => vec![TensorDecl::new::<f32>(names.rows, &[n, dim])],
            RowDtype::F16 => vec![TensorDecl::new::<f16>(names.rows, &[n, dim])],
            RowDtype::Sq8 => vec![
                TensorDecl::new::<u8>(names.rows, &[n, dim]),
                TensorDecl::new::<f32>(names.min, &[dim]),
                TensorDecl::new::<f32>(names.step, &[dim]),
            ],
        }
    }

    /// Fills in the tensors: `read(position, out)` gives a row, `range` the least and greatest value of
    /// each dimension, used by sq8.
    pub fn write(
        names: &RowNames,
        dtype: RowDtype,
        parts: &mut BTreeMap<&'static str, &mut [u8]>,
        range: &[(f32, f32)],
        read: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let dim = range.len();
        let Some(out) = parts.remove(names.rows) else { return };
        match dtype {
            RowDtype::F32 => {
                let out: &mut [f32] = bytemuck::cast_slice_mut(out);
                out.par_chunks_exact_mut(dim).enumerate().for_each(|(p, row)| read(p, row));
            }
            RowDtype::F16 => {
                let out: &mut [f16] = bytemuck::cast_slice_mut(out);
                out.par_chunks_exact_mut(dim).enumerate().for_each_init(
                    || vec![0.0; dim],
                    |row, (p, out)| {
                        read(p, row);
                        half::slice::HalfFloatSliceExt::convert_from_f32_slice(out, row);
                    },
                );
            }
            RowDtype::Sq8 => {
                let steps: Vec<f32> = range.iter().map(|&(least, most)| (most - least) / 255.0).collect();
                let least: Vec<f32> = range.iter().map(|r| r.0).collect();
                let inverses: Vec<f32> =
                    steps.iter().map(|&step| if step > 0.0 { 1.0 / step } else { 0.0 }).collect();
                out.par_chunks_exact_mut(dim).enumerate().for_each_init(
                    || vec![0.0; dim],
                    |row, (p, out)| {
                        read(p, row);
                        let scales = least.iter().zip(&inverses);
                        for ((code, &value), (&min, &inverse)) in out.iter_mut().zip(&*row).zip(scales) {
                            *code = byte_code(value, min, inverse);
                        }
                    },
                );
                if let Some(min) = parts.get_mut(names.min) {
                    min.copy_from_slice(bytemuck::cast_slice(&least));
                }
                if let Some(step) = parts.get_mut(names.step) {
                    step.copy_from_slice(bytemuck::cast_slice(&steps));
                }
            }
        }
    }

    /// Reads the tensors.
    pub fn open(
        image: &Arc<Image>,
        names: &RowNames,
        dtype: RowDtype,
        n: usize,
        dim: usize,
    ) -> Result<Self, OpenError> {
        let rows = match dtype {
            RowDtype::F32 => Rows::F32(image.view(names.rows, &[n, dim])?),
            RowDtype::F16 => Rows::F16(image.view(names.rows, &[n, dim])?),
            RowDtype::Sq8 => {
                let (min, step): (View<f32>, View<f32>) =
                    (image.view(names.min, &[dim])?, image.view(names.step, &[dim])?);
                for (name, values) in [(names.min, &min), (names.step, &step)] {
                    if values.iter().any(|v| !v.is_finite()) {
                        let reason = "expected finite values".to_owned();
                        return Err(OpenError::Value { name: name.to_owned(), reason });
                    }
                }
                Rows::Sq8 { codes: image.view(names.rows, &[n, dim])?, min, step }
            }
        };
        Ok(Self { rows, dim })
    }

    /// Prepares a query.
    pub fn prepare(&self, metric: Metric, q: &[f32], out: &mut RowQuery) {
        out.values.clear();
        out.base = 0.0;
        match &self.rows {
            Rows::Sq8 { min, step, .. } => {
                if metric.is_l2() {
                    out.values.extend(q.iter().zip(min.iter()).map(|(q, m)| q - m));
                } else {
                    out.values.extend(q.iter().zip(step.iter()).map(|(q, s)| q * s));
                    out.base = q.iter().zip(min.iter()).map(|(q, m)| q * m).sum();
                }
            }
            _ => out.values.extend_from_slice(q),
        }
    }

    /// Bytes of all rows.
    pub fn n_bytes(&self) -> usize {
        match &self.rows {
            Rows::F32(rows) => size_of_val::<[f32]>(rows),
            Rows::F16(rows) => size_of_val::<[f16]>(rows),
            Rows::Sq8 { codes, .. } => codes.len(),
        }
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The bytes of a row.
    pub fn row_bytes(&self, position: usize) -> &[u8] {
        let range = position * self.dim..(position + 1) * self.dim;
        match &self.rows {
            Rows::F32(rows) => bytemuck::cast_slice(&rows[range]),
            Rows::F16(rows) => bytemuck::cast_slice(&rows[range]),
            Rows::Sq8 { codes, .. } => &codes[range],
        }
    }

    /// Internal scores of the rows at `positions`, in their order, handed to `take(i, score)`.
    pub fn scores(
        &self,
        simd: Simd,
        metric: Metric,
        query: &RowQuery,
        positions: impl Iterator<Item = usize>,
        mut take: impl FnMut(usize, f32),
    ) {
        let q = &query.values[..];
        let range = |p: usize| p * self.dim..(p + 1) * self.dim;
        match &self.rows {
            Rows::F32(rows) => {
                let rows: &[f32] = rows;
                for p in positions {
                    let row = &rows[range(p)];
                    take(p, if metric.is_l2() { simd.l2_f32(q, row) } else { -simd.dot_f32(q, row) });
                }
            }
            Rows::F16(rows) => {
                let rows: &[f16] = rows;
                for p in positions {
                    let row = &rows[range(p)];
                    take(p, if metric.is_l2() { simd.l2_f16(q, row) } else { -simd.dot_f16(q, row) });
                }
            }
            Rows::Sq8 { codes, step, .. } => {
                let (codes, step): (&[u8], &[f32]) = (codes, step);
                for p in positions {
                    let row = &codes[range(p)];
                    let score = if metric.is_l2() {
                        simd.l2_u8(q, step, row)
                    } else {
                        -(query.base + simd.dot_u8(q, row))
                    };
                    take(p, score);
                }
            }
        }
    }

    /// The score's meaning: the product or squared distance with the stored row, in f64.
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    pub fn score_reference(&self, metric: Metric, q: &[f32], position: usize) -> f32 {
        let row = self.decode(position);
        let pairs = q.iter().zip(&row).map(|(&q, &x)| (f64::from(q), f64::from(x)));
        if metric.is_l2() {
            pairs.map(|(q, x)| (q - x) * (q - x)).sum::<f64>() as f32
        } else {
            -pairs.map(|(q, x)| q * x).sum::<f64>() as f32
        }
    }

    /// Whether rows are stored as they were given.
    pub fn is_exact(&self) -> bool {
        matches!(self.rows, Rows::F32(_))
    }

    /// Whether rows are stored in bytes.
    pub fn is_bytes(&self) -> bool {
        matches!(self.rows, Rows::Sq8 { .. })
    }

    /// The stored row as f32: the storage's meaning.
    pub fn decode(&self, position: usize) -> Vec<f32> {
        let range = position * self.dim..(position + 1) * self.dim;
        match &self.rows {
            Rows::F32(rows) => rows[range].to_vec(),
            Rows::F16(rows) => rows[range].iter().map(|v| v.to_f32()).collect(),
            Rows::Sq8 { codes, min, step } => codes[range]
                .iter()
                .zip(min.iter().zip(step.iter()))
                .map(|(&c, (min, step))| min + step * f32::from(c))
                .collect(),
        }
    }
}

/// The code of `value`; `inverse`: 1 / step.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
#[inline(always)]
fn byte_code(value: f32, min: f32, inverse: f32) -> u8 {
    // By way of i32, whose conversion is one instruction for several values.
    nearest(((value - min) * inverse).clamp(0.0, 255.0)) as i32 as u8
}
