//! The pipeline on the CPU.

use super::{Request, SearchError};
use crate::{
    index::Model,
    rows::RowQuery,
    simd::Simd,
    stage::{
        rerank, router,
        scorer::{self, Scorer, ScorerQuery, pq, rrr},
        transform,
    },
    topk::{Candidates, compare},
    vectors::Vectors,
};

/// Queries in one piece of work, at most.
pub(super) const BATCH: usize = 256;

/// Memory that a query needs, kept from one query to the next.
#[derive(Default)]
pub(super) struct Scratch {
    q: Vec<f32>,
    query: ScorerQuery,
    routed: Candidates,
    /// Lists to read, and the router's scores of them.
    probes: Vec<(u32, f32)>,
    kept: Candidates,
    rrr: rrr::cpu::RrrScratch,
    exact_query: RowQuery,
    exact: Vec<(f32, u64)>,
}

pub(super) fn search<V: Vectors>(
    model: &Model,
    simd: Simd,
    request: &Request<'_, V>,
    first: usize,
    ids: &mut [u64],
    scores: &mut [f32],
    scratch: &mut Scratch,
) -> Result<(), SearchError> {
    for (i, (ids, scores)) in ids.chunks_mut(request.k).zip(scores.chunks_mut(request.k)).enumerate() {
        request.query(model, first + i, &mut scratch.q)?;
        one(model, simd, request, ids, scores, scratch);
    }
    Ok(())
}

/// Searches `scratch.q`.
fn one<V: Vectors>(
    model: &Model,
    simd: Simd,
    request: &Request<'_, V>,
    ids: &mut [u64],
    scores: &mut [f32],
    scratch: &mut Scratch,
) {
    let id_of = |position: u32| model.lists.id_at(position);
    match &model.transform {
        Some(pca) => transform::cpu::project(simd, pca, &scratch.q, &mut scratch.query.reduced),
        None => scratch.query.reduced.clone_from(&scratch.q),
    }
    let query = &mut scratch.query;
    let s = query.reduced.len();
    // Room for whole pairs of groups, as 4-bit blocks want it.
    query.blocks.codes.resize(s.next_multiple_of(8), 0);
    query.blocks.first = query.reduced[0];
    query.rest_sum = sum(&query.reduced[1..]);
    (query.blocks.scale, query.blocks.sum) = simd.quantise(&query.reduced[1..], &mut query.blocks.codes);
    match &model.router {
        Some(router) => {
            let n_probe = request.effort.n_probe;
            let asked = (n_probe + model.lists.n_empty()).min(model.lists.len());
            router::cpu::route(simd, router, &query.blocks, asked, &mut scratch.routed, &mut scratch.probes);
            if model.lists.n_empty() > 0 {
                scratch.probes.retain(|&(list, _)| !model.lists.range(list as usize).is_empty());
                scratch.probes.truncate(n_probe);
            }
        }
        None => {
            scratch.probes.clear();
            scratch.probes.push((0, 0.0));
        }
    }
    let (n_rerank, n_copies) = (request.effort.n_rerank, model.lists.sizes().n_copies);
    // Among so many positions there are n_rerank points.
    scratch.kept.reset(n_rerank * n_copies);
    match &model.scorer {
        Scorer::Rrr(rrr) => {
            for (i, &(list, _)) in scratch.probes.iter().enumerate() {
                if let Some(&(next, _)) = scratch.probes.get(i + 1) {
                    rrr::cpu::prefetch(rrr, next as usize);
                }
                let list = list as usize;
                let range = model.lists.range(list);
                rrr::cpu::scan(simd, rrr, list, range, query, &mut scratch.rrr, &mut scratch.kept, &id_of);
            }
        }
        Scorer::Pq(pq) => {
            query.tables.prepare(simd, pq, &query.reduced);
            for (i, &(list, base)) in scratch.probes.iter().enumerate() {
                if let Some(&(next, _)) = scratch.probes.get(i + 1) {
                    pq::cpu::prefetch(pq, next as usize);
                }
                let list = list as usize;
                let range = model.lists.range(list);
                pq::cpu::scan(simd, pq, list, range, &query.tables, base, &mut scratch.kept, &id_of);
            }
        }
        Scorer::Rows(rows) => {
            rows.prepare(model.metric, &query.reduced, &mut query.rows);
            for &(list, _) in &scratch.probes {
                let range = model.lists.range(list as usize);
                scorer::rows::cpu::scan(
                    simd,
                    rows,
                    model.metric,
                    &query.rows,
                    range,
                    &mut scratch.kept,
                    &id_of,
                );
            }
        }
    }
    scratch.kept.cut(&id_of);
    let id_of = |point: u32| model.lists.ids().get(point);
    if n_copies > 1 {
        scratch.kept.merge(n_rerank, |position| model.lists.point(position), &id_of);
    }
    let points = scratch.kept.positions();
    scratch.exact.clear();
    let exact = &mut scratch.exact;
    if let Some(rows) = &model.refine {
        rows.prepare(model.metric, &scratch.q, &mut scratch.exact_query);
        rerank::cpu::scores(simd, rows, model.metric, &scratch.exact_query, points, |point, score| {
            exact.push((score, id_of(u32::try_from(point).unwrap_or(u32::MAX))));
        });
    } else {
        let missing = if model.metric.is_l2() && model.scorer.omits_query_norm() {
            simd.dot_f32(&query.reduced, &query.reduced)
        } else {
            0.0
        };
        let found = points.iter().zip(scratch.kept.scores());
        exact.extend(found.map(|(&point, &score)| (score + missing, id_of(point))));
    }
    if exact.len() > request.k {
        exact.select_nth_unstable_by(request.k - 1, |a, b| compare(*a, *b));
        exact.truncate(request.k);
    }
    exact.sort_unstable_by(|a, b| compare(*a, *b));
    for ((id, score), found) in ids.iter_mut().zip(scores).zip(exact.iter()) {
        *id = found.1;
        *score = model.metric.public_score(found.0);
    }
}

/// Sum in eight interleaved parts, which compilers turn into vectors.
fn sum(values: &[f32]) -> f32 {
    let mut parts = [0.0; 8];
    for chunk in values.chunks(8) {
        for (part, v) in parts.iter_mut().zip(chunk) {
            *part += v;
        }
    }
    parts.iter().sum()
}
