//! Stored vectors, one a row, and the score of a query against one of them.
//!
//! Three storages of one meaning: f32, f16, and `sq8`, one byte a dimension with
//! `x_i ≈ min_i + step_i·code_i`. For sq8 the query is prepared once:
//! `⟨q, x⟩ = ⟨q, min⟩ + Σ (q_i·step_i)·code_i` and `‖q − x‖² = Σ ((q_i − min_i) − step_i·code_i)²`.
//!
//! **Outliers.** A row that is much longer than most would take the range of every dimension for itself. Where there are such rows,
//! sq8 has a scale for each row: `x_i ≈ scale·(min_i + step_i·code_i)`, 1 for rows of up to [`LONG`] times the usual length, and ranges
//! are those of rows divided by their scales.
//!
//! **Cosine.** A product with a rounded row is off by what rounding adds along the query, and a row asked for itself would score 1.0002
//! in f16, 1.005 in sq8. So some values are rounded the other way, until the row's product with itself is 1 again (`settle`).

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
    Sq8 { codes: View<u8>, min: View<f32>, step: View<f32>, scales: Option<View<f32>> },
}

/// Usual lengths from which on a row has a scale of its own in sq8. Up to here it costs others two bits.
const LONG: f32 = 4.0;

/// How rows are rounded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rounding<'a> {
    /// Length above which a row has a scale of its own, where there are such rows.
    pub limit: Option<f32>,
    /// The part that all rows lack, or none: rows and this together have unit length, and keep their product with themselves.
    pub unit: Option<&'a [f32]>,
}

/// Length above which rows have a scale of their own, where most are of a length.
pub(crate) fn limit(usual: f32) -> f32 {
    LONG * usual
}

/// The scale of a row.
pub(crate) fn scale_of(row: &[f32], limit: f32) -> f32 {
    // At most 1e15 times the root of 65 536 dimensions: f64 holds the square.
    let length = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    let scale = (length / f64::from(limit)) as f32;
    if scale > 1.0 { scale } else { 1.0 }
}

/// The tensors' names: one store for the scorer, one for exact scores.
pub(crate) struct RowNames {
    pub rows: &'static str,
    min: &'static str,
    step: &'static str,
    scale: &'static str,
}

/// Rows that a scorer scans.
pub(crate) const SCORER_ROWS: RowNames =
    RowNames { rows: "rows.values", min: "rows.min", step: "rows.step", scale: "rows.scale" };
/// Rows that candidates are scored on exactly.
pub(crate) const REFINE_ROWS: RowNames =
    RowNames { rows: "refine.rows", min: "refine.min", step: "refine.step", scale: "refine.scale" };

/// A query prepared for a store.
#[derive(Default)]
pub(crate) struct RowQuery {
    values: Vec<f32>,
    base: f32,
    /// As it was, for rows with a scale of their own.
    given: Vec<f32>,
}

impl RowStore {
    /// Tensors for `n` rows of `dim` values; `has_scales`: some rows have a scale of their own, of which only sq8 takes note.
    pub fn declare(
        names: &RowNames,
        dtype: RowDtype,
        n: usize,
        dim: usize,
        has_scales: bool,
    ) -> Vec<TensorDecl> {
        match dtype {
            RowDtype::F32 => vec![TensorDecl::new::<f32>(names.rows, &[n, dim])],
            RowDtype::F16 => vec![TensorDecl::new::<f16>(names.rows, &[n, dim])],
            RowDtype::Sq8 => vec![
                TensorDecl::new::<u8>(names.rows, &[n, dim]),
                TensorDecl::new::<f32>(names.min, &[dim]),
                TensorDecl::new::<f32>(names.step, &[dim]),
            ]
            .into_iter()
            .chain(has_scales.then(|| TensorDecl::new::<f32>(names.scale, &[n])))
            .collect(),
        }
    }

    /// Fills in the tensors: `read(position, out)` gives a row, `range` the least and greatest value of
    /// each dimension, of rows divided by their scales, used by sq8.
    pub fn write(
        names: &RowNames,
        dtype: RowDtype,
        parts: &mut BTreeMap<&'static str, &mut [u8]>,
        range: &[(f32, f32)],
        rounding: Rounding<'_>,
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
                        if let Some(rest) = rounding.unit {
                            settle((row, 1.0), rest, out, |_, v| v.to_f32(), next_half);
                        }
                    },
                );
            }
            RowDtype::Sq8 => {
                let steps: Vec<f32> = range.iter().map(|&(least, most)| (most - least) / 255.0).collect();
                let least: Vec<f32> = range.iter().map(|r| r.0).collect();
                let scales: Option<&mut [f32]> = parts.remove(names.scale).map(bytemuck::cast_slice_mut);
                let limit = rounding.limit.filter(|_| scales.is_some()).unwrap_or(f32::INFINITY);
                let mut none = vec![0.0; if scales.is_some() { 0 } else { out.len() / dim }];
                let scales: &mut [f32] = scales.unwrap_or(&mut none);
                let inverses: Vec<f32> =
                    steps.iter().map(|&step| if step > 0.0 { 1.0 / step } else { 0.0 }).collect();
                out.par_chunks_exact_mut(dim).zip(scales).enumerate().for_each_init(
                    || vec![0.0; dim],
                    |row, (p, (out, scale))| {
                        read(p, row);
                        *scale = scale_of(row, limit);
                        if *scale > 1.0 {
                            row.iter_mut().for_each(|v| *v /= *scale);
                        }
                        let ranges = least.iter().zip(&inverses);
                        for ((code, &value), (&min, &inverse)) in out.iter_mut().zip(&*row).zip(ranges) {
                            *code = byte_code(value, min, inverse);
                        }
                        if let Some(rest) = rounding.unit {
                            let value = |i: usize, code: u8| least[i] + steps[i] * f32::from(code);
                            settle((row, *scale), rest, out, value, next_code);
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
                let mut scales = None;
                if image.tensors().contains_key(names.scale) {
                    let view: View<f32> = image.view(names.scale, &[n])?;
                    if view.iter().any(|v| !v.is_finite()) {
                        let reason = "expected finite values".to_owned();
                        return Err(OpenError::Value { name: names.scale.to_owned(), reason });
                    }
                    scales = Some(view);
                }
                Rows::Sq8 { codes: image.view(names.rows, &[n, dim])?, min, step, scales }
            }
        };
        Ok(Self { rows, dim })
    }

    /// Prepares a query.
    pub fn prepare(&self, metric: Metric, q: &[f32], out: &mut RowQuery) {
        out.values.clear();
        out.base = 0.0;
        match &self.rows {
            Rows::Sq8 { min, step, scales, .. } => {
                if scales.is_some() {
                    out.given.clear();
                    out.given.extend_from_slice(q);
                }
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
            Rows::Sq8 { codes, step, scales, .. } => {
                let (codes, step): (&[u8], &[f32]) = (codes, step);
                for p in positions {
                    let row = &codes[range(p)];
                    if scales.as_ref().is_some_and(|scales| scales[p] != 1.0) {
                        // Few rows are so long.
                        let row = self.decode(p);
                        let q = &query.given[..];
                        take(p, if metric.is_l2() { simd.l2_f32(q, &row) } else { -simd.dot_f32(q, &row) });
                        continue;
                    }
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
            Rows::Sq8 { codes, min, step, scales } => {
                let scale = scales.as_ref().map_or(1.0, |scales| scales[position]);
                let ranges = min.iter().zip(step.iter());
                codes[range]
                    .iter()
                    .zip(ranges)
                    .map(|(&c, (min, step))| scale * (min + step * f32::from(c)))
                    .collect()
            }
        }
    }
}

/// What a row's product with itself may be off by.
const SETTLED: f64 = 1e-7;

/// Times that a row is gone through: each makes room for smaller corrections.
const PASSES: usize = 4;

/// Rounds some values the other way until the product of a row, `scale·row + rest`, with what rounding has made of `row` is that with `row`
/// itself, as nearly as the storage allows. `value(i, v)`: what `v` stands for; `next(v, up)`: its neighbour.
fn settle<T: Copy>(
    (row, scale): (&[f32], f32),
    rest: &[f32],
    rounded: &mut [T],
    value: impl Fn(usize, T) -> f32,
    next: impl Fn(T, bool) -> Option<T>,
) {
    let rest = |i: usize| rest.get(i).copied().unwrap_or(0.0);
    let mut off = 0.0;
    for (i, (&v, &r)) in row.iter().zip(&*rounded).enumerate() {
        off += f64::from(scale * v + rest(i)) * f64::from(scale) * (f64::from(value(i, r)) - f64::from(v));
    }
    for _ in 0..PASSES {
        let before = off;
        for (i, (&v, r)) in row.iter().zip(&mut *rounded).enumerate() {
            if off.abs() < SETTLED {
                break;
            }
            let weight = f64::from(scale * v + rest(i)) * f64::from(scale);
            let Some(moved) = next(*r, (off > 0.0) != (weight > 0.0)) else { continue };
            let after = off + weight * (f64::from(value(i, moved)) - f64::from(value(i, *r)));
            if after.abs() < off.abs() {
                (*r, off) = (moved, after);
            }
        }
        if off == before {
            break;
        }
    }
}

/// The neighbour of a number in half precision.
fn next_half(v: f16, up: bool) -> Option<f16> {
    let bits = v.to_bits();
    // Away from zero magnitudes grow, bits with them; from zero on the sign turns.
    let moved = match (bits & 0x7fff == 0, up != v.is_sign_negative()) {
        (true, _) => {
            if up {
                0x0001
            } else {
                0x8001
            }
        }
        (false, true) => bits + 1,
        (false, false) => bits - 1,
    };
    Some(f16::from_bits(moved)).filter(|moved| moved.is_finite())
}

/// The neighbour of a code.
fn next_code(code: u8, up: bool) -> Option<u8> {
    if up { code.checked_add(1) } else { code.checked_sub(1) }
}

/// The code of `value`; `inverse`: 1 / step.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
#[inline(always)]
fn byte_code(value: f32, min: f32, inverse: f32) -> u8 {
    // By way of i32, whose conversion is one instruction for several values.
    nearest(((value - min) * inverse).clamp(0.0, 255.0)) as i32 as u8
}
