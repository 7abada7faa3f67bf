//! Dispatches that several stages share: quantising rows, cutting and sorting candidates, grouping pairs by list.

use super::{
    Buffer,
    kernel::{Kernel, Plan, QUERIES, SortSize, Tie},
    layout::{QuantiseParams, ScanParams, SelectParams, SortParams, narrow},
    recording::{Cost, Grid, Recording},
};

/// Rows of `len` values, `row_stride` apart, to codes of `steps`·16 components and heads.
pub(crate) fn quantise(
    recording: &mut Recording,
    n_rows: usize,
    (rows, len, row_stride): (&Buffer, usize, usize),
    (codes, steps): (&Buffer, usize),
    heads: &Buffer,
) {
    let params = QuantiseParams {
        grid_width: recording.gpu().grid_width(),
        n_rows: narrow(n_rows),
        len: narrow(len),
        row_stride: narrow(row_stride),
        steps: narrow(steps),
        ..Default::default()
    };
    let n = n_rows as f64;
    let cost = Cost { bytes: n * (5.0 * len as f64 + 16.0), ops: n * 6.0 * len as f64 };
    let grid = Grid::Groups(n_rows.div_ceil(QUERIES) as u64);
    recording.dispatch(Kernel::Quantise, &params, &[rows, codes, heads], grid, cost);
}

/// Rows of candidates: their buffers, and how far apart rows are.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub candidates: &'a Buffer,
    pub states: &'a Buffer,
    pub n_rows: usize,
    pub stride: usize,
    /// What equal keys stand by, and the ids' ranks.
    pub tie: Tie,
    pub ties: &'a Buffer,
}

/// Cuts each row to its best `keep`; `expected`: candidates a row, for the profile.
pub(crate) fn select(recording: &mut Recording, rows: Rows<'_>, keep: usize, expected: f64) {
    let params = SelectParams {
        grid_width: recording.gpu().grid_width(),
        n_rows: narrow(rows.n_rows),
        stride: narrow(rows.stride),
        keep: narrow(keep),
    };
    let n = rows.n_rows as f64;
    let cost = Cost { bytes: 8.0 * n * (expected + keep as f64), ops: 5.0 * n * expected };
    let bindings = [rows.candidates, rows.states, rows.ties];
    recording.dispatch(Kernel::Select(rows.tie), &params, &bindings, Grid::Groups(rows.n_rows as u64), cost);
}

/// Brings the copies of each point together: of the first `keep` candidates of each row, positions become points, and of
/// each point only the best entry stays. `merged`: room for `keep` candidates a row.
pub(crate) fn merge(
    recording: &mut Recording,
    rows: Rows<'_>,
    keep: usize,
    points: &Buffer,
    (merged, heads): (&Buffer, &Buffer),
) {
    let params = SelectParams {
        grid_width: recording.gpu().grid_width(),
        n_rows: narrow(rows.n_rows),
        stride: narrow(rows.stride),
        keep: narrow(keep),
    };
    let n = (rows.n_rows * keep) as f64;
    let grid = || Grid::Groups(((rows.n_rows * keep) as u64).div_ceil(64));
    let bindings = [rows.candidates, rows.states, points];
    recording.dispatch(Kernel::Points, &params, &bindings, grid(), Cost { bytes: 20.0 * n, ops: n });
    sort(recording, Rows { tie: Tie::Item, ..rows }, keep, (merged, keep), heads, false);
    recording.clear(rows.states, rows.n_rows as u64 * 8);
    let bindings = [merged, rows.candidates, rows.states];
    recording.dispatch(Kernel::Merge, &params, &bindings, grid(), Cost { bytes: 24.0 * n, ops: n });
}

/// Sorts the first `len` of each row and writes the best `n_out` to `sorted`. `norms`: added to the scores first.
pub(crate) fn sort(
    recording: &mut Recording,
    rows: Rows<'_>,
    len: usize,
    (sorted, n_out): (&Buffer, usize),
    heads: &Buffer,
    add_norm: bool,
) {
    let half_len = len.next_power_of_two() / 2;
    let params = SortParams {
        grid_width: recording.gpu().grid_width(),
        n_rows: narrow(rows.n_rows),
        stride: narrow(rows.stride),
        len: narrow(len),
        half_len: narrow(half_len),
        n_out: narrow(n_out),
        add_norm: u32::from(add_norm),
        pad: 0,
    };
    let steps = f64::from(len.next_power_of_two().ilog2());
    let n = rows.n_rows as f64;
    let cost = Cost {
        bytes: 8.0 * n * (len + n_out) as f64,
        ops: n * half_len as f64 * steps * (steps + 1.0) / 2.0,
    };
    let kernel = Kernel::Sort(rows.tie, SortSize::of(len));
    let bindings = [rows.candidates, rows.states, rows.ties, heads, sorted];
    recording.dispatch(kernel, &params, &bindings, Grid::Groups(rows.n_rows as u64), cost);
}

/// Buffers that grouping fills.
#[derive(Clone, Copy)]
pub(crate) struct PairBuffers<'a> {
    pub routed: &'a Buffer,
    pub lists: &'a Buffer,
    pub counts: &'a Buffer,
    pub ranks: &'a Buffer,
    pub groups: &'a Buffer,
    pub grid: &'a Buffer,
    pub slots: &'a Buffer,
}

/// Groups a round's pairs by list: `slots` holds the query of each pair, list after list.
pub(crate) fn group(recording: &mut Recording, params: &ScanParams, pairs: PairBuffers<'_>) {
    let n = f64::from(params.n_slots);
    let groups = || Grid::Groups(u64::from(params.n_slots).div_ceil(64));
    recording.clear(pairs.counts, u64::from(params.n_lists) * 4);
    let bindings = [pairs.routed, pairs.counts, pairs.ranks];
    recording.dispatch(Kernel::PairsCount, params, &bindings, groups(), Cost { bytes: 16.0 * n, ops: n });
    scan(recording, params, pairs);
    let bindings = [pairs.routed, pairs.groups, pairs.ranks, pairs.slots];
    recording.dispatch(Kernel::PairsScatter, params, &bindings, groups(), Cost { bytes: 24.0 * n, ops: n });
}

/// Finds each list's work on one page, and the grid for it.
pub(crate) fn scan(recording: &mut Recording, params: &ScanParams, pairs: PairBuffers<'_>) {
    let n = f64::from(params.n_lists);
    let bindings = [pairs.lists, pairs.counts, pairs.groups, pairs.grid];
    let cost = Cost { bytes: 20.0 * n, ops: 20.0 * n };
    recording.dispatch(Kernel::PairsScan, params, &bindings, Grid::Groups(1), cost);
}

/// A round's pairs in the order of a plan, as scorers read them.
#[derive(Clone, Copy)]
pub(crate) struct PairInputs<'a> {
    pub lists: &'a Buffer,
    pub groups: &'a Buffer,
    pub slots: &'a Buffer,
    pub plan: Plan,
}

/// One page's part of a round.
pub(crate) struct PageWork {
    /// The round's parameters, tiles and page filled in.
    pub params: ScanParams,
    pub grid: Grid,
    /// Scores made, and points read for them, about.
    pub points: f64,
    pub read: f64,
}
