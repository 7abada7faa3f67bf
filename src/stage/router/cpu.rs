//! The router by SIMD: one scan of the centroid blocks against the running thresholds of several queries.

use super::Router;
use crate::{
    block::{BLOCK, BlockQuery},
    simd::{BlockRun, Simd},
    topk::Candidates,
};

/// The `n_probe` best lists of each query, best first, and the scores of their centroids, or of what ranks them. `room`: for as many queries or more.
pub(crate) fn route<const N: usize>(
    simd: Simd,
    router: &Router,
    n_probe: usize,
    pairs: &mut [(&BlockQuery, &mut Vec<(u32, f32)>); N],
    room: &mut [Candidates],
) {
    let id_of = |list: u32| u64::from(list);
    let Some(kept) = room.first_chunk_mut::<N>() else { return };
    for kept in kept.iter_mut() {
        kept.reset(simd, n_probe);
    }
    let run = BlockRun {
        shape: router.rank.shape,
        bytes: &router.rank.blocks,
        n_vectors: router.n_lists,
        queries: pairs.each_ref().map(|(query, _)| *query),
        factor: router.rank.factor,
    };
    simd.scan_blocks(run, 0, kept.each_mut(), &id_of);
    for (kept, (query, lists)) in kept.iter_mut().zip(pairs) {
        kept.cut(&id_of);
        kept.sort_into(&id_of, lists);
        if let Some(centres) = &router.centres {
            let n_blocks = router.n_lists.div_ceil(BLOCK);
            for (list, score) in lists.iter_mut() {
                *score =
                    query.score(centres.shape, &centres.blocks, n_blocks, *list as usize, centres.factor);
            }
        }
    }
}
