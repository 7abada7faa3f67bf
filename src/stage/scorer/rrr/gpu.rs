//! The regressions on the device: t = qA a pair, then tB for the list's points, page by page.

use super::Rrr;
use crate::{
    format::ALIGN,
    gpu::{
        Buffer, GpuError,
        kernel::Kernel,
        layout::{ScanParams, narrow},
        pages::{ListPage, Pages},
        primitives::{PageWork, PairInputs},
        recording::{Cost, Recording},
    },
    lists::Lists,
    stage::scorer::gpu::{GpuRuns, readings},
};

/// A and B on the device.
pub(crate) struct GpuRrr {
    /// Pages of A, by list.
    pub a: Vec<ListPage>,
    pub b: GpuRuns,
    project: ScanParams,
    a_bits: crate::spec::Bits,
}

impl GpuRrr {
    /// Splits the tensors into pages of at most `page_bytes`, whole lists each.
    pub fn new(pages: &mut Pages, rrr: &Rrr, lists: &Lists, page_bytes: u64) -> Result<Self, GpuError> {
        let shape = rrr.shape;
        let a_starts: Vec<usize> = (0..=lists.len()).map(|list| list * shape.a_bytes()).collect();
        let a = pages.add_lists("rrr.a", &rrr.a.tensor_bytes(), &a_starts, lists, page_bytes)?;
        let t_len = shape.rank + 1;
        let b = GpuRuns::new(
            pages,
            ("rrr.b", &rrr.b.tensor_bytes(), &rrr.starts),
            (shape.b, t_len, rrr.metric.product_factor()),
            lists,
            page_bytes,
        )?;
        let project = ScanParams {
            query_steps: narrow(shape.a.query_len().div_ceil(16)),
            block_words: narrow(shape.a.code_bytes() / 4),
            record_words: narrow(shape.a_bytes() / 4),
            column_words: narrow(shape.column_bytes() / 4),
            column_len: narrow(shape.s - 1),
            rank: narrow(shape.rank),
            t_stride: narrow(t_len),
            ..Default::default()
        };
        Ok(Self { a, b, project, a_bits: shape.a.bits })
    }

    /// Where each list's run begins, in cache lines.
    pub fn run_starts(rrr: &Rrr) -> impl Iterator<Item = usize> {
        rrr.starts.iter().map(|start| start / ALIGN)
    }

    /// Projects the pairs whose lists are on a page.
    pub fn project(
        &self,
        recording: &mut Recording,
        work: PageWork,
        (page, runs): (&ListPage, &Buffer),
        (codes, heads, reduced): (&Buffer, &Buffer, &Buffer),
        pairs: PairInputs<'_>,
        projected: &Buffer,
    ) {
        let round = &work.params;
        let params = ScanParams {
            list_from: narrow(page.list_from),
            query_steps: self.project.query_steps,
            block_words: self.project.block_words,
            record_words: self.project.record_words,
            column_words: self.project.column_words,
            column_len: self.project.column_len,
            rank: self.project.rank,
            t_stride: self.project.t_stride,
            ..*round
        };
        let share = 1.0 / self.a.len() as f64;
        let n = f64::from(round.n_slots) * share;
        let record = f64::from(params.record_words) * 4.0;
        let read = readings(n, f64::from(round.n_lists) * share, pairs.plan);
        let s = f64::from(params.column_len);
        let cost = Cost {
            bytes: read * record + n * (5.0 * s + 4.0 * self.b.t_len as f64),
            ops: 2.0 * n * s * self.b.t_len as f64,
        };
        let kernel = Kernel::RrrProject(self.a_bits, pairs.plan);
        let bindings = [runs, codes, heads, reduced, pairs.lists, pairs.groups, pairs.slots, projected];
        recording.dispatch(kernel, &params, &bindings, work.grid, cost);
    }
}
