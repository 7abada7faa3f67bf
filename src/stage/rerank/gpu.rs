//! Exact scores on the device, page by page.

use crate::{
    gpu::{
        Buffer,
        kernel::{Kernel, QUERIES},
        layout::{RerankParams, narrow},
        recording::{Cost, Grid, Recording},
    },
    rows::gpu::{GpuRows, RowPage},
};

/// Puts exact keys in the place of the approximate ones of up to `n_rerank` candidates a row that lie on a page.
pub(crate) fn score(
    recording: &mut Recording,
    store: &GpuRows,
    (page, rows): (&RowPage, &Buffer),
    (queries, query_stride): (&Buffer, usize),
    (candidates, states): (&Buffer, &Buffer),
    (n_rows, stride, n_rerank): (usize, usize, usize),
) {
    let row_groups = n_rerank.div_ceil(QUERIES);
    let params = RerankParams {
        grid_width: recording.gpu().grid_width(),
        n_rows: narrow(n_rows),
        stride: narrow(stride),
        row_groups: narrow(row_groups),
        page_from: narrow(page.positions.start),
        page_to: narrow(page.positions.end),
        row_quads: narrow(store.row_quads),
        query_quads: narrow(query_stride / 4),
        dim: narrow(store.dim),
        scales_at: narrow(store.scales_at),
        ..Default::default()
    };
    let scored = (n_rows * n_rerank) as f64 / store.pages.len() as f64;
    let cost = Cost { bytes: scored * store.row_bytes as f64, ops: 2.0 * scored * store.dim as f64 };
    let bindings = [rows, queries, &store.ranges, states, candidates];
    let grid = Grid::Groups((n_rows * row_groups) as u64);
    recording.dispatch(Kernel::Rerank(store.kind), &params, &bindings, grid, cost);
}
