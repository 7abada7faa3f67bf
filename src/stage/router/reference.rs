//! The router's meaning: all centroids scored, sorted, the first `n_probe` taken.

use super::{Router, Vectors};
use crate::{
    block::{BLOCK, BlockQuery},
    network::conv,
    topk::compare,
};

/// The `n_probe` best lists, best first, and the scores of their centroids, or of what ranks them.
pub(crate) fn route(
    router: &Router,
    reduced: &[f32],
    query: &BlockQuery,
    n_probe: usize,
) -> Vec<(usize, f32)> {
    let n_blocks = router.n_lists.div_ceil(BLOCK);
    let score = |query: &BlockQuery, vectors: &Vectors, list: usize| {
        query.score_reference(vectors.shape, &vectors.blocks, n_blocks, list, vectors.factor)
    };
    let moved = router.network.as_ref().map(|networks| {
        let t = conv::reference::forward(networks.of(0), reduced);
        BlockQuery::quantise_reference(t[0], &t[1..], router.rank.shape.query_len())
    });
    let ranking = moved.as_ref().unwrap_or(query);
    let mut scored: Vec<(f32, u64)> =
        (0..router.n_lists).map(|list| (score(ranking, &router.rank, list), list as u64)).collect();
    scored.sort_by(|a, b| compare(*a, *b));
    scored.truncate(n_probe);
    let seen = |list: usize, ranked: f32| {
        router.centres.as_ref().map_or(ranked, |centres| score(query, centres, list))
    };
    let lists = scored.into_iter().filter_map(|(score, list)| Some((usize::try_from(list).ok()?, score)));
    lists.map(|(list, score)| (list, seen(list, score))).collect()
}
