//! The router's meaning: all centroids scored, sorted, the first `n_probe` taken.

use super::Router;
use crate::{
    block::{BLOCK, BlockQuery},
    topk::compare,
};

/// The `n_probe` best lists and their scores, best first.
pub(crate) fn route(router: &Router, query: &BlockQuery, n_probe: usize) -> Vec<(usize, f32)> {
    let mut scored: Vec<(f32, u64)> = (0..router.n_lists)
        .map(|list| {
            let n_blocks = router.n_lists.div_ceil(BLOCK);
            (query.score_reference(router.shape, &router.blocks, n_blocks, list, router.factor), list as u64)
        })
        .collect();
    scored.sort_by(|a, b| compare(*a, *b));
    scored.truncate(n_probe);
    scored.into_iter().filter_map(|(score, list)| Some((usize::try_from(list).ok()?, score))).collect()
}
