//! Linear maps: `y = qW`.
//!
//! How W is found is the one thing that sets them apart (`train.rs`): `PCA`, `LIN` and `SRP`.
//!
//! W is stored in one of two ways, and training sees the rounded W:
//! - `PCA<s>` and the like: in half precision, `[d, s]`, and queries meet it in f32. The rounding (2⁻¹² relative) is far below what
//!   int8 costs later. A query reads `2·d·s` bytes.
//! - `PCA<s>x8` and the like: its columns as blocks (`block.rs`), and queries are rounded to int8 as well, coordinate 0 of both kept in
//!   f32. A query reads half as much and has four products an instruction. Its rounding, one scale for all d coordinates, is
//!   an error in any direction, of which products of a point with a near one see little.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
pub(crate) mod train;

use std::{collections::BTreeMap, sync::Arc};

use faer::MatRef;
use half::f16;

use crate::{
    block::{BLOCK, BlockShape},
    format::{Image, OpenError, TensorDecl, View},
    spec::{AxesDtype, Bits},
};

const W: &str = "transform.w";
const AXES: &str = "transform.axes";

/// A map as an index file holds it.
pub(crate) struct Linear {
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

impl Linear {
    /// The tensor of a map from `d` to `s` dimensions.
    pub fn declare(d: usize, s: usize, dtype: AxesDtype) -> Vec<TensorDecl> {
        vec![match dtype {
            AxesDtype::F16 => TensorDecl::new::<f16>(W, &[d, s]),
            AxesDtype::Int8 => TensorDecl::new::<u8>(AXES, &[shape(d).run_bytes(s.div_ceil(BLOCK))]),
        }]
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

    /// W as stored, in f32, `[d, s]` row-major.
    pub fn matrix(&self, d: usize) -> Vec<f32> {
        match &self.axes {
            Axes::F16(w) => w.iter().map(|v| v.to_f32()).collect(),
            Axes::Int8 { shape, run } => {
                let s = self.s;
                let mut w = vec![0.0; d * s];
                for j in 0..s {
                    let (scale, first, _, codes) = shape.decode(run, s.div_ceil(BLOCK), j);
                    w[j] = first;
                    for (i, code) in (1..d).zip(codes) {
                        w[i * s + j] = scale * code as f32;
                    }
                }
                w
            }
        }
    }
}

/// Fills in the tensor of W, `[d, s]`.
pub(crate) fn write(w: MatRef<'_, f32>, dtype: AxesDtype, parts: &mut BTreeMap<&'static str, &mut [u8]>) {
    let (d, s) = (w.nrows(), w.ncols());
    match dtype {
        AxesDtype::F16 => {
            let Some(out) = parts.get_mut(W) else { return };
            let half: Vec<f16> = (0..d * s).map(|i| f16::from_f32(w[(i / s, i % s)])).collect();
            out.copy_from_slice(bytemuck::cast_slice(&half));
        }
        AxesDtype::Int8 => {
            let Some(out) = parts.get_mut(AXES) else { return };
            let columns: Vec<Vec<f32>> =
                w.col_iter().map(|column| column.iter().copied().collect()).collect();
            shape(d).encode(columns.iter().map(|column| (column[0], &column[1..], 0.0)), out);
        }
    }
}
