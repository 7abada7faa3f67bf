//! The product on the device.

use super::{Axes, Linear};
use crate::{
    block::BLOCK,
    gpu::{
        Buffer, Gpu, GpuError,
        kernel::{Kernel, QUERIES, Tile},
        layout::{AxesParams, ProjectParams, narrow},
        pages::upload,
        primitives,
        recording::{Cost, Grid, Recording},
    },
};

/// W on the device.
pub(crate) struct GpuLinear {
    w: Buffer,
    s: usize,
    d: usize,
    /// How the columns lie, where they are in int8.
    columns: Option<AxesParams>,
}

impl GpuLinear {
    /// Uploads W.
    pub fn new(gpu: &Gpu, linear: &Linear, d: usize) -> Result<Self, GpuError> {
        let (w, columns) = match &linear.axes {
            Axes::F16(w) => (upload(gpu, "transform.w", bytemuck::cast_slice(w))?, None),
            Axes::Int8 { shape, run } => {
                let n_blocks = linear.s.div_ceil(BLOCK);
                let columns = AxesParams {
                    query_steps: narrow(shape.query_len().div_ceil(16)),
                    block_words: narrow(shape.code_bytes() / 4),
                    firsts_at: narrow(shape.heads(n_blocks)[0] / 4),
                    n_places: narrow(n_blocks * BLOCK),
                    ..Default::default()
                };
                (upload(gpu, "transform.axes", run)?, Some(columns))
            }
        };
        Ok(Self { w, s: linear.s, d, columns })
    }

    /// `reduced[n_rows, y_stride] = queries[n_rows, q_stride]·W`. `codes`, `heads`: room for the queries' own.
    pub fn project(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        (queries, q_stride): (&Buffer, usize),
        (codes, heads): (&Buffer, &Buffer),
        (reduced, y_stride): (&Buffer, usize),
    ) {
        let (n, d, s) = (n_rows as f64, self.d as f64, self.s as f64);
        if let Some(columns) = self.columns {
            let (rows, steps) = ((queries, self.d, q_stride), columns.query_steps as usize);
            primitives::quantise(recording, n_rows, rows, (codes, steps), heads);
            let column_tiles = y_stride.div_ceil(64);
            let params = AxesParams {
                grid_width: recording.gpu().grid_width(),
                n_rows: narrow(n_rows),
                column_tiles: narrow(column_tiles),
                y_stride: narrow(y_stride),
                ..columns
            };
            let cost = Cost { bytes: s * (d + 5.0) + n * (d + 16.0 + 4.0 * s), ops: 2.0 * n * d * s };
            let groups = n_rows.div_ceil(QUERIES) * column_tiles;
            let bindings = [&self.w, codes, heads, reduced];
            recording.dispatch(Kernel::ProjectInt8, &params, &bindings, Grid::Groups(groups as u64), cost);
            return;
        }
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
        let cost = Cost { bytes: 2.0 * d * s + 4.0 * n * (d + s), ops: 2.0 * n * d * s };
        let bindings = [queries, &self.w, reduced];
        recording.dispatch(Kernel::Project(tile), &params, &bindings, Grid::Groups(groups as u64), cost);
    }
}
