//! The pipeline's meaning: every stage by its reference, everything scored, everything sorted.

use std::collections::HashSet;

use super::{Request, SearchError};
use crate::{
    block::BlockQuery,
    index::Model,
    stage::{
        rerank, router,
        scorer::{Scorer, cnn, pq, rrr},
        transform,
    },
    topk::compare,
};

pub(super) fn search(
    model: &Model,
    request: &Request<'_>,
    first: usize,
    ids: &mut [u64],
    scores: &mut [f32],
) -> Result<(), SearchError> {
    let mut q = vec![0.0; model.dim];
    for (i, (ids, scores)) in ids.chunks_mut(request.k).zip(scores.chunks_mut(request.k)).enumerate() {
        request.query(model, first + i, &mut q)?;
        let mut staged = q.clone();
        model.frame.staged(&mut staged);
        let reduced: Vec<f32> = match &model.transform {
            Some(transform) => transform::reference::project(transform, &staged),
            None => staged,
        };
        let blocks =
            BlockQuery::quantise_reference(reduced[0], &reduced[1..], reduced.len().next_multiple_of(8));
        let lists = match &model.router {
            Some(router) => {
                let all = router::reference::route(router, &reduced, &blocks, model.lists.len());
                let filled = all.into_iter().filter(|&(list, _)| !model.lists.range(list).is_empty());
                filled.take(request.effort.n_probe).collect()
            }
            None => vec![(0, 0.0)],
        };
        let tables = match &model.scorer {
            Scorer::Pq(pq) => Some(pq::reference::tables(pq, &reduced)),
            _ => None,
        };
        let mut found: Vec<(f32, u64, u32)> = Vec::new();
        for (list, base) in lists {
            let range = model.lists.range(list);
            let scores: Vec<f32> = match &model.scorer {
                Scorer::Pq(pq) => {
                    let tables =
                        tables.as_ref().map(|t| pq::reference::scores(pq, list, range.len(), t, base));
                    tables.unwrap_or_default()
                }
                Scorer::Rrr(rrr) => rrr::reference::scores(rrr, list, range.len(), &reduced, &blocks),
                Scorer::Cnn(cnn) => cnn::reference::scores(cnn, list, range.len(), &reduced),
                Scorer::Rows(rows) => {
                    let q = if model.transform.is_some() { &reduced } else { &q };
                    range.clone().map(|p| rows.score_reference(model.rows_metric(), q, p)).collect()
                }
            };
            for (position, score) in range.zip(scores) {
                let point = model.lists.point(u32::try_from(position).unwrap_or(u32::MAX));
                found.push((score, model.lists.ids().get(point), point));
            }
        }
        found.sort_by(|a, b| compare((a.0, a.1), (b.0, b.1)));
        // Of a point's copies the best.
        let mut seen = HashSet::new();
        found.retain(|&(_, id, _)| seen.insert(id));
        found.truncate(request.effort.n_rerank);
        if let Some(rows) = &model.refine {
            let points: Vec<u32> = found.iter().map(|f| f.2).collect();
            let exact = rerank::reference::scores(rows, model.frame.metric(), &q, &points);
            for (found, exact) in found.iter_mut().zip(exact) {
                found.0 = exact;
            }
            found.sort_by(|a, b| compare((a.0, a.1), (b.0, b.1)));
        } else if model.frame.stages().is_l2() && model.scorer.omits_query_norm() {
            let norm: f32 = reduced.iter().map(|v| v * v).sum();
            for found in &mut found {
                found.0 += norm;
            }
            // The sum may round different scores to one: equal ones stand by id.
            found.sort_by(|a, b| compare((a.0, a.1), (b.0, b.1)));
        }
        let common = model.frame.common_product(&q);
        for ((id, score), found) in ids.iter_mut().zip(scores).zip(found) {
            *id = found.1;
            *score = model.frame.public_score(found.0, model.scores_rows(), common);
        }
    }
    Ok(())
}
