//! The scorer by SIMD.

use std::ops::Range;

use super::Cnn;
use crate::{
    block::BlockQuery,
    network::conv,
    simd::{BlockRun, Simd},
    stage::scorer::ScorerQuery,
    topk::Candidates,
};

/// Memory that the queries of a list are moved in.
#[derive(Default)]
pub(crate) struct CnnScratch {
    network: conv::cpu::Room,
    q: Vec<f32>,
    t: Vec<f32>,
    codes: Vec<BlockQuery>,
}

/// Offers every point of a list to the candidates of each query; `range` are its positions.
pub(crate) fn scan<const N: usize>(
    simd: Simd,
    cnn: &Cnn,
    list: usize,
    range: Range<usize>,
    pairs: [(&ScorerQuery, &mut Candidates); N],
    scratch: &mut CnnScratch,
    id_of: &impl Fn(u32) -> u64,
) {
    if range.is_empty() {
        return;
    }
    let CnnScratch { network, q, t, codes } = scratch;
    let shape = cnn.shape.points;
    q.clear();
    for (query, _) in &pairs {
        q.extend_from_slice(&query.reduced);
    }
    t.resize(q.len(), 0.0);
    conv::cpu::forward(simd, cnn.networks.of(list), q, t, network);
    codes.resize(codes.len().max(N), BlockQuery::default());
    let Some(codes) = codes.first_chunk_mut::<N>() else { return };
    for (codes, t) in codes.iter_mut().zip(t.chunks_exact(cnn.shape.network.s)) {
        codes.quantise(simd, t, shape.query_len());
    }
    let run = BlockRun {
        shape,
        bytes: cnn.run(list),
        n_vectors: range.len(),
        queries: codes.each_ref(),
        factor: cnn.metric.product_factor(),
    };
    // Positions are below 2³²: an index holds no more points.
    let base = u32::try_from(range.start).unwrap_or(u32::MAX);
    simd.scan_blocks(run, base, pairs.map(|(_, kept)| kept), id_of);
}
