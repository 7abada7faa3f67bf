//! The regressions by SIMD: A and B are streams of blocks, scores never leave registers unless they survive.

use std::ops::Range;

use super::Rrr;
use crate::{
    block::BlockQuery,
    simd::{self, BlockRun, Simd},
    stage::scorer::ScorerQuery,
    topk::Candidates,
};

/// What a list's scan needs beside the query.
#[derive(Default)]
pub(crate) struct RrrScratch {
    t: Vec<f32>,
    rank: BlockQuery,
}

/// Asks for a list's A, and its B or the first two blocks of it.
pub(crate) fn prefetch(rrr: &Rrr, list: usize, whole: bool) {
    let bytes = rrr.shape.a_bytes();
    simd::prefetch(&rrr.a[list * bytes..(list + 1) * bytes]);
    let b = rrr.b_of(list);
    let head = b.len().min(2 * rrr.shape.b.code_bytes());
    simd::prefetch(&b[..if whole { b.len() } else { head }]);
}

/// Offers every point of a list to the candidates of each query; `range` are its positions. `room`: for as many queries
/// or more.
#[allow(clippy::too_many_arguments, reason = "the loop's state, one thing each")]
pub(crate) fn scan<const N: usize>(
    simd: Simd,
    rrr: &Rrr,
    list: usize,
    range: Range<usize>,
    pairs: [(&ScorerQuery, &mut Candidates); N],
    room: &mut [RrrScratch],
    id_of: &impl Fn(u32) -> u64,
) {
    let Some(room) = room.first_chunk_mut::<N>() else { return };
    if range.is_empty() {
        return;
    }
    let list_a = rrr.a_of(list);
    for scratch in room.iter_mut() {
        scratch.t.resize(rrr.shape.rank, 0.0);
        scratch.rank.codes.resize(rrr.shape.b.query_len(), 0);
    }
    let a = BlockRun {
        shape: rrr.shape.a,
        bytes: list_a.run,
        n_vectors: rrr.shape.rank,
        queries: pairs.each_ref().map(|(query, _)| &query.blocks),
        factor: 1.0,
    };
    simd.block_scores(a, room.each_mut().map(|scratch| &mut scratch.t[..]));
    for (scratch, (query, _)) in room.iter_mut().zip(&pairs) {
        let (q_first, q_rest) = (query.reduced[0], &query.reduced[1..]);
        let rest = simd.dot_u8(q_rest, list_a.column) - 128.0 * query.rest_sum;
        scratch.rank.first = q_first * list_a.first + list_a.scale * rest;
        (scratch.rank.scale, scratch.rank.sum) = simd.quantise(&scratch.t, &mut scratch.rank.codes);
    }
    let b = BlockRun {
        shape: rrr.shape.b,
        bytes: rrr.b_of(list),
        n_vectors: range.len(),
        queries: room.each_ref().map(|scratch| &scratch.rank),
        factor: rrr.metric.product_factor(),
    };
    // Positions are below 2³²: an index holds no more points.
    let base = u32::try_from(range.start).unwrap_or(u32::MAX);
    simd.scan_blocks(b, base, pairs.map(|(_, kept)| kept), id_of);
}
