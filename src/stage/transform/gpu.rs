//! The projection on the device.

use super::Pca;
use crate::gpu::{
    Buffer, Gpu, GpuError,
    kernel::{Kernel, Tile},
    layout::{ProjectParams, narrow},
    pages::upload,
    recording::{Cost, Grid, Recording},
};

/// W on the device.
pub(crate) struct GpuPca {
    w: Buffer,
    s: usize,
    d: usize,
}

impl GpuPca {
    /// Uploads W.
    pub fn new(gpu: &Gpu, pca: &Pca, d: usize) -> Result<Self, GpuError> {
        Ok(Self { w: upload(gpu, "transform.w", bytemuck::cast_slice(&pca.w))?, s: pca.s, d })
    }

    /// `reduced[n_rows, y_stride] = queries[n_rows, q_stride]·W`.
    pub fn project(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        (queries, q_stride): (&Buffer, usize),
        (reduced, y_stride): (&Buffer, usize),
    ) {
        // Up to 16 queries fill less than half of a tile, and reading W once a query costs less than walking over it.
        let (tile, groups, column_tiles) = if n_rows <= 16 {
            (Tile::Few, n_rows * y_stride.div_ceil(16), y_stride.div_ceil(16))
        } else {
            (Tile::Many, n_rows.div_ceil(64) * y_stride.div_ceil(64), y_stride.div_ceil(64))
        };
        let params = ProjectParams {
            grid_width: recording.gpu().grid_width(),
            n_rows: narrow(n_rows),
            d: narrow(self.d),
            s: narrow(self.s),
            q_stride: narrow(q_stride),
            y_stride: narrow(y_stride),
            column_tiles: narrow(column_tiles),
            pad: 0,
        };
        let (n, d, s) = (n_rows as f64, self.d as f64, self.s as f64);
        let cost = Cost { bytes: 2.0 * d * s + 4.0 * n * (d + s), ops: 2.0 * n * d * s };
        let bindings = [queries, &self.w, reduced];
        recording.dispatch(Kernel::Project(tile), &params, &bindings, Grid::Groups(groups as u64), cost);
    }
}
