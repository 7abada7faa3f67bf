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

/// Asks for a list's A and the head of its B, ahead of its scan.
pub(crate) fn prefetch(rrr: &Rrr, list: usize) {
    let bytes = rrr.shape.a_bytes();
    simd::prefetch(&rrr.a[list * bytes..(list + 1) * bytes]);
    let b = rrr.b_of(list);
    // Two blocks: from there on the hardware follows the stream.
    simd::prefetch(&b[..(2 * rrr.shape.b.code_bytes()).min(b.len())]);
}

/// Offers every point of a list; `range` are its positions.
#[allow(clippy::too_many_arguments, reason = "the loop's state, one thing each")]
pub(crate) fn scan(
    simd: Simd,
    rrr: &Rrr,
    list: usize,
    range: Range<usize>,
    query: &ScorerQuery,
    scratch: &mut RrrScratch,
    kept: &mut Candidates,
    id_of: &impl Fn(u32) -> u64,
) {
    if range.is_empty() {
        return;
    }
    let list_a = rrr.a_of(list);
    scratch.t.resize(rrr.shape.rank, 0.0);
    scratch.rank.codes.resize(rrr.shape.b.query_len(), 0);
    let a = BlockRun {
        shape: rrr.shape.a,
        bytes: list_a.run,
        n_vectors: rrr.shape.rank,
        query: &query.blocks,
        factor: 1.0,
    };
    simd.block_scores(a, &mut scratch.t);
    let (q_first, q_rest) = (query.reduced[0], &query.reduced[1..]);
    scratch.rank.first =
        q_first * list_a.first + list_a.scale * (simd.dot_u8(q_rest, list_a.column) - 128.0 * query.rest_sum);
    (scratch.rank.scale, scratch.rank.sum) = simd.quantise(&scratch.t, &mut scratch.rank.codes);
    let b = BlockRun {
        shape: rrr.shape.b,
        bytes: rrr.b_of(list),
        n_vectors: range.len(),
        query: &scratch.rank,
        factor: rrr.metric.product_factor(),
    };
    // Positions are below 2³²: an index holds no more points.
    simd.scan_blocks(b, u32::try_from(range.start).unwrap_or(u32::MAX), kept, id_of);
}
