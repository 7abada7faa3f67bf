//! Stored vectors on the device: pages of rows, and how kernels read them.

use std::ops::Range;

use super::{RowStore, Rows};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError,
        kernel::RowKind,
        pages::{PageId, Pages, upload},
    },
    metric::Metric,
    spec::RowDtype,
};

/// A store's pages.
pub(crate) struct GpuRows {
    /// How its rows are read.
    pub kind: RowKind,
    /// Values a row.
    pub dim: usize,
    /// Loads of four values a row.
    pub row_quads: usize,
    /// Bytes a row.
    pub row_bytes: usize,
    /// Least value and step of each dimension, then the scales of rows, where they have some (sq8).
    pub ranges: Buffer,
    /// Where scales begin, in fours; 0 where there are none.
    pub scales_at: usize,
    /// Pages in order of their positions.
    pub pages: Vec<RowPage>,
}

/// Rows of some positions.
pub(crate) struct RowPage {
    pub positions: Range<usize>,
    pub id: PageId,
}

impl GpuRows {
    /// Splits a store into pages of at most `page_bytes`.
    pub fn new(
        gpu: &Gpu,
        pages: &mut Pages,
        rows: &RowStore,
        n: usize,
        metric: Metric,
        page_bytes: u64,
    ) -> Result<Self, GpuError> {
        let dim = rows.dim;
        let (dtype, bytes, width) = match &rows.rows {
            Rows::F32(view) => (RowDtype::F32, view.tensor_bytes(), 4),
            Rows::F16(view) => (RowDtype::F16, view.tensor_bytes(), 2),
            Rows::Sq8 { codes, .. } => (RowDtype::Sq8, codes.tensor_bytes(), 1),
        };
        let row_quads = dim.div_ceil(4);
        let mut ranges = vec![0.0_f32; row_quads * 8];
        let mut scales_at = 0;
        if let Rows::Sq8 { min, step, scales, .. } = &rows.rows {
            for (i, (&min, &step)) in min.iter().zip(step.iter()).enumerate() {
                ranges[i / 4 * 8 + i % 4] = min;
                ranges[i / 4 * 8 + 4 + i % 4] = step;
            }
            if let Some(scales) = scales {
                scales_at = ranges.len() / 4;
                ranges.extend_from_slice(scales);
                ranges.resize(ranges.len().next_multiple_of(4), 0.0);
            }
        }
        let row_bytes = dim * width;
        let page_rows = usize::try_from(page_bytes).unwrap_or(usize::MAX) / row_bytes;
        if page_rows == 0 {
            return Err(GpuError::TooLarge {
                what: "a stored row".to_owned(),
                needed: row_bytes as u64,
                allowed: page_bytes,
            });
        }
        let pages = (0..n)
            .step_by(page_rows)
            .map(|from| {
                let positions = from..(from + page_rows).min(n);
                let part = bytes.part(positions.start * row_bytes..positions.end * row_bytes);
                RowPage { positions, id: pages.add("rows", part) }
            })
            .collect();
        Ok(Self {
            kind: RowKind { dtype, by_quads: dim.is_multiple_of(4), is_l2: metric.is_l2() },
            dim,
            row_quads,
            row_bytes,
            scales_at,
            ranges: upload(gpu, "row ranges", bytemuck::cast_slice(&ranges))?,
            pages,
        })
    }
}
