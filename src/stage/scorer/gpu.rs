//! Runs of points on the device, met by what each pair has become.

use crate::{
    block::{BLOCK, BlockShape},
    format::TensorBytes,
    gpu::{
        Buffer, GpuError,
        kernel::{Kernel, Plan},
        layout::{ScanParams, narrow},
        pages::{ListPage, Pages},
        primitives::{PageWork, PairInputs},
        recording::{Cost, Recording},
    },
    lists::Lists,
    spec::Bits,
};

/// A run for each list.
pub(crate) struct GpuRuns {
    /// Pages, by list.
    pub pages: Vec<ListPage>,
    /// Components of what meets a point, the first included.
    pub t_len: usize,
    /// Its codes, in 16s.
    pub t_steps: usize,
    params: ScanParams,
    bits: Bits,
}

impl GpuRuns {
    /// Splits a tensor of runs, which begin and end at `starts`, into pages of at most `page_bytes`.
    pub fn new(
        pages: &mut Pages,
        (label, bytes, starts): (&'static str, &TensorBytes, &[usize]),
        (shape, t_len, factor): (BlockShape, usize, f32),
        lists: &Lists,
        page_bytes: u64,
    ) -> Result<Self, GpuError> {
        let params = ScanParams {
            query_steps: narrow(shape.query_len().div_ceil(16)),
            block_words: narrow(shape.code_bytes() / 4),
            has_norm: u32::from(shape.has_norm),
            factor,
            ..Default::default()
        };
        let pages = pages.add_lists(label, bytes, starts, lists, page_bytes)?;
        Ok(Self { pages, t_len, t_steps: params.query_steps as usize, params, bits: shape.bits })
    }

    /// Scores the points on a page for the pairs that probe them.
    pub fn score(
        &self,
        recording: &mut Recording,
        work: PageWork,
        (page, runs): (&ListPage, &Buffer),
        (codes, heads): (&Buffer, &Buffer),
        pairs: PairInputs<'_>,
        (candidates, states): (&Buffer, &Buffer),
    ) {
        let params = ScanParams {
            run_from: narrow(page.run_from),
            query_steps: self.params.query_steps,
            block_words: self.params.block_words,
            has_norm: self.params.has_norm,
            factor: self.params.factor,
            ..work.params
        };
        let point = f64::from(params.block_words) * 4.0 / BLOCK as f64 + 6.0;
        let cost = Cost { bytes: work.read * point, ops: 2.0 * work.points * self.t_len as f64 };
        let kernel = Kernel::RunScore(self.bits, pairs.plan);
        let bindings = [runs, codes, heads, pairs.lists, pairs.groups, pairs.slots, candidates, states];
        recording.dispatch(kernel, &params, &bindings, work.grid, cost);
    }
}

/// How pages are read, for costs: every pair reads its list, or a list is read once for all.
pub(crate) fn readings(n_pairs: f64, n_lists: f64, plan: Plan) -> f64 {
    match plan {
        Plan::QueryMajor => n_pairs,
        Plan::ClusterMajor => n_pairs.min(n_lists),
    }
}
