//! The router by SIMD: one scan of the centroid blocks against the running thresholds of several queries.

use super::Router;
use crate::{
    block::{BLOCK, BlockQuery},
    network::conv,
    simd::{BlockRun, Simd},
    topk::Candidates,
};

/// A query on its way through.
pub(crate) struct Routing<'a> {
    /// `[s]`.
    pub reduced: &'a [f32],
    pub codes: &'a BlockQuery,
    /// The best lists, best first, and the scores of their centroids, or of what ranks them.
    pub lists: &'a mut Vec<(u32, f32)>,
}

/// Memory that `N` queries are routed in.
pub(crate) struct Room<const N: usize> {
    kept: [Candidates; N],
    moved: [BlockQuery; N],
    network: conv::cpu::Room,
    q: Vec<f32>,
    t: Vec<f32>,
}

impl<const N: usize> Default for Room<N> {
    fn default() -> Self {
        Self {
            kept: std::array::from_fn(|_| Candidates::default()),
            moved: std::array::from_fn(|_| BlockQuery::default()),
            network: conv::cpu::Room::default(),
            q: Vec::new(),
            t: Vec::new(),
        }
    }
}

/// Finds the `n_probe` best lists of each query. `room`: for as many queries or more.
pub(crate) fn route<const N: usize, const M: usize>(
    simd: Simd,
    router: &Router,
    n_probe: usize,
    queries: &mut [Routing<'_>; N],
    room: &mut Room<M>,
) {
    let id_of = |list: u32| u64::from(list);
    let (Some(kept), Some(moved)) = (room.kept.first_chunk_mut::<N>(), room.moved.first_chunk_mut::<N>())
    else {
        return;
    };
    if let Some(networks) = &router.network {
        room.q.clear();
        for query in queries.iter() {
            room.q.extend_from_slice(query.reduced);
        }
        room.t.resize(room.q.len(), 0.0);
        conv::cpu::forward(simd, networks.of(0), &room.q, &mut room.t, &mut room.network);
        for (codes, t) in moved.iter_mut().zip(room.t.chunks_exact(networks.shape.s)) {
            codes.quantise(simd, t, router.rank.shape.query_len());
        }
    }
    for kept in kept.iter_mut() {
        kept.reset(simd, n_probe);
    }
    let run = BlockRun {
        shape: router.rank.shape,
        bytes: &router.rank.blocks,
        n_vectors: router.n_lists,
        queries: match router.network {
            Some(_) => moved.each_ref(),
            None => queries.each_ref().map(|query| query.codes),
        },
        factor: router.rank.factor,
    };
    simd.scan_blocks(run, 0, kept.each_mut(), &id_of);
    for (kept, query) in kept.iter_mut().zip(queries) {
        kept.cut(&id_of);
        kept.sort_into(&id_of, query.lists);
        if let Some(centres) = &router.centres {
            let n_blocks = router.n_lists.div_ceil(BLOCK);
            for (list, score) in query.lists.iter_mut() {
                let list = *list as usize;
                *score = query.codes.score(centres.shape, &centres.blocks, n_blocks, list, centres.factor);
            }
        }
    }
}
