//! The router by SIMD: one scan of the centroid blocks against the running threshold.

use super::Router;
use crate::{
    block::BlockQuery,
    simd::{BlockRun, Simd},
    topk::Candidates,
};

/// The `n_probe` best lists and their scores, best first.
pub(crate) fn route(
    simd: Simd,
    router: &Router,
    query: &BlockQuery,
    n_probe: usize,
    kept: &mut Candidates,
    lists: &mut Vec<(u32, f32)>,
) {
    let run = BlockRun {
        shape: router.shape,
        bytes: &router.blocks,
        n_vectors: router.n_lists,
        query,
        factor: router.metric.product_factor(),
    };
    kept.reset(n_probe);
    simd.scan_blocks(run, 0, kept, &|list| u64::from(list));
    kept.cut(&|list| u64::from(list));
    kept.sort_into(lists);
}
