//! A list's rows on the device: each is read once for eight queries.

use crate::{
    gpu::{
        Buffer,
        kernel::Kernel,
        layout::{ScanParams, narrow},
        primitives::{PageWork, PairInputs},
        recording::{Cost, Recording},
    },
    rows::gpu::GpuRows,
};

/// Scores the points on a page, `rows`, for the pairs that probe them.
pub(crate) fn score(
    recording: &mut Recording,
    store: &GpuRows,
    work: PageWork,
    rows: &Buffer,
    queries: &Buffer,
    pairs: PairInputs<'_>,
    (candidates, states): (&Buffer, &Buffer),
) {
    let params = ScanParams {
        row_quads: narrow(store.row_quads),
        dim: narrow(store.dim),
        scales_at: narrow(store.scales_at),
        ..work.params
    };
    let cost = Cost { bytes: work.read * store.row_bytes as f64, ops: 2.0 * work.points * store.dim as f64 };
    let kernel = Kernel::RowsScore(store.kind, pairs.plan);
    let bindings = [rows, queries, &store.ranges, pairs.lists, pairs.groups, pairs.slots, candidates, states];
    recording.dispatch(kernel, &params, &bindings, work.grid, cost);
}
