//! What searches take, known from an index's specification and sizes alone.

use super::{SearchParams, cpu, places};
use crate::{codes::PqShape, frame::Frame, lists, spec::IndexSpec};

/// An index as far as the memory of its searches depends on it.
pub(crate) struct Memory<'a> {
    /// Resolved.
    pub spec: &'a IndexSpec,
    pub frame: &'a Frame,
    pub n: usize,
    pub dim: usize,
    /// Bytes of the scorer's lists.
    pub scorer_bytes: usize,
    /// Positions in each list.
    pub list_sizes: &'a [usize],
}

impl Memory<'_> {
    /// Bytes that a batch of `n_queries` takes on the CPU beside the index and the queries: what is on its way, on all
    /// threads, and the results; nothing where no search is so large.
    pub fn cpu_scratch(&self, n_queries: usize, params: SearchParams) -> Option<usize> {
        let places = places(n_queries, params.k)?;
        let effort = self.effort(params);
        let query_bytes =
            PqShape::of(self.spec, self.dim, self.frame.stages()).map_or(0, PqShape::query_bytes);
        let slot = cpu::slot_bytes(self.dim, self.spec.n_copies(), effort, query_bytes);
        let threads = if params.threads == 0 { rayon::current_num_threads() } else { params.threads };
        let rows = if threads == 1 { n_queries } else { cpu::piece_rows(n_queries, threads) };
        let busy = threads.min(n_queries.div_ceil(rows.max(1)));
        Some(busy * rows.min(cpu::at_once(self.scorer_bytes, slot)) * slot + places * 12)
    }

    /// Bytes that a batch of `n_queries` takes on a GPU without a budget, beside the index; nothing where it does not fit.
    #[cfg(feature = "gpu")]
    pub fn gpu_scratch(&self, n_queries: usize, params: SearchParams) -> Option<u64> {
        places(n_queries, params.k).filter(|&places| places > 0)?;
        let effort = self.effort(params);
        let mut sizes = self.list_sizes.to_vec();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut largest = vec![0];
        largest.extend(sizes.iter().scan(0, |sum, size| {
            *sum += size;
            Some(*sum)
        }));
        let index = (self.spec, self.frame, self.dim);
        super::gpu::scratch_bytes(index, largest, (n_queries, params.k), (effort.n_probe, effort.n_rerank))
            .ok()
    }

    fn effort(&self, params: SearchParams) -> super::Effort {
        let smallest = lists::smallest(self.list_sizes.iter().copied());
        let n_filling = lists::n_filling(&smallest, params.k.saturating_mul(self.spec.n_copies()));
        params.filled_in(self.list_sizes.len(), n_filling, self.n, self.spec.refine.is_some())
    }
}
