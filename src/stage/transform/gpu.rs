//! The transform on the device.

use super::{Kind, NOTHING_LEFT, Transform, cnt::gpu::GpuCnt, linear::gpu::GpuLinear};
use crate::gpu::{
    Buffer, Gpu, GpuError,
    kernel::Kernel,
    layout::{RescaleParams, narrow},
    recording::{Cost, Grid, Recording},
};

pub(crate) use super::cnt::gpu::Rooms;

/// A transform on the device.
pub(crate) struct GpuTransform {
    kind: GpuKind,
    d: usize,
    s: usize,
    scales_queries: bool,
}

enum GpuKind {
    Linear(GpuLinear),
    Cnt(GpuCnt),
}

/// What a transform works in, beside queries and results.
#[derive(Clone, Copy)]
pub(crate) struct Scratch<'a> {
    /// Codes of queries and their heads, for axes in int8.
    pub codes: (&'a Buffer, &'a Buffer),
    pub rooms: Rooms<&'a Buffer>,
}

impl GpuTransform {
    /// Uploads it.
    pub fn new(gpu: &Gpu, transform: &Transform) -> Result<Self, GpuError> {
        let Transform { d, s, scales_queries, .. } = *transform;
        let kind = match &transform.kind {
            Kind::Linear(linear) => GpuKind::Linear(GpuLinear::new(gpu, linear, d)?),
            Kind::Cnt(cnt) => GpuKind::Cnt(GpuCnt::new(gpu, cnt)?),
        };
        Ok(Self { kind, d, s, scales_queries })
    }

    /// Reduces `queries[n_rows, q_stride]` to `reduced[n_rows, y_stride]`.
    pub fn project(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        queries: (&Buffer, usize),
        scratch: Scratch<'_>,
        reduced: (&Buffer, usize),
    ) {
        match &self.kind {
            GpuKind::Linear(linear) => linear.project(recording, n_rows, queries, scratch.codes, reduced),
            GpuKind::Cnt(cnt) => cnt.project(recording, n_rows, queries, scratch.rooms, reduced),
        }
        if self.scales_queries {
            let params = RescaleParams {
                grid_width: recording.gpu().grid_width(),
                n_rows: narrow(n_rows),
                d: narrow(self.d),
                s: narrow(self.s),
                x_stride: narrow(queries.1),
                y_stride: narrow(reduced.1),
                nothing_left: NOTHING_LEFT,
                ..Default::default()
            };
            let (n, d, s) = (n_rows as f64, self.d as f64, self.s as f64);
            let cost = Cost { bytes: n * (4.0 * d + 12.0 * s), ops: n * (2.0 * d + 3.0 * s) };
            let grid = Grid::Groups(n_rows as u64);
            recording.dispatch(Kernel::Rescale, &params, &[queries.0, reduced.0], grid, cost);
        }
    }
}
