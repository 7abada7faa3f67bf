//! A list's rows on the device: each is read once for eight queries.

use crate::{
    gpu::{
        Buffer,
        kernel::{Kernel, Plan},
        layout::{ScanParams, narrow},
        recording::{Cost, Grid, Recording},
    },
    rows::gpu::GpuRows,
};

/// Scores the points on a page, `rows`, for the pairs that probe them. `round`: the round's parameters, tiles and
/// grid filled in; `points`: scores made, and rows read, about.
pub(crate) fn score(
    recording: &mut Recording,
    store: &GpuRows,
    round: &ScanParams,
    rows: &Buffer,
    queries: &Buffer,
    [lists, groups, slots]: [&Buffer; 3],
    (candidates, states): (&Buffer, &Buffer),
    plan: Plan,
    (grid, points, read): (Grid, f64, f64),
) {
    let params = ScanParams { row_quads: narrow(store.row_quads), dim: narrow(store.dim), ..*round };
    let cost = Cost { bytes: read * store.row_bytes as f64, ops: 2.0 * points * store.dim as f64 };
    let kernel = Kernel::RowsScore(store.kind, plan);
    let bindings = [rows, queries, &store.ranges, lists, groups, slots, candidates, states];
    recording.dispatch(kernel, &params, &bindings, grid, cost);
}
