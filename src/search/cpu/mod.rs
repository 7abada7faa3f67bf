//! The pipeline on the CPU.
//!
//! A query on its way is a [`Slot`]. One query goes through the stages by itself; of many, [`batch`] takes each stage for
//! all, list by list. Both give the same answers to the last bit.

mod batch;
mod clock;

pub(super) use batch::{Scratch, at_once, piece_rows, search, slot_bytes};
use clock::Clock;

use crate::{
    block::BlockQuery,
    frame::Frame,
    index::Model,
    profile::Cost,
    rows::RowQuery,
    simd::Simd,
    stage::{
        rerank, router,
        scorer::{self, Scorer, ScorerQuery, cnn, pq, rrr},
        transform,
    },
    topk::Candidates,
};

/// A query, and what the stages have found for it.
#[derive(Default)]
struct Slot {
    /// As stored rows meet it.
    q: Vec<f32>,
    /// As the stages see it, where that is something else.
    staged: Vec<f32>,
    /// What its products have in common.
    common: Option<f32>,
    /// Room for its codes, where the transform wants them.
    codes: BlockQuery,
    query: ScorerQuery,
    /// Lists to read, and the router's scores of them, best first.
    probes: Vec<(u32, f32)>,
    kept: Candidates,
}

impl Slot {
    /// Works out what the frame makes of the query.
    fn enter(&mut self, frame: &Frame) {
        self.common = frame.common_product(&self.q);
        if frame.splits_queries() {
            self.staged.clone_from(&self.q);
            frame.staged(&mut self.staged);
        }
    }
}

/// Memory that no result lives in.
#[derive(Default)]
struct Room {
    network: transform::cnt::cpu::Room,
    routed: router::cpu::Room<TOGETHER>,
    rrr: [rrr::cpu::RrrScratch; TOGETHER],
    cnn: cnn::cpu::CnnScratch,
    exact_query: RowQuery,
    exact: Candidates,
    best: Vec<(u32, f32)>,
    clock: Clock,
}

/// Bytes of lists up to which they are taken to stay in the last-level cache, which has 16 to 64 MiB on today's processors.
/// Lists from memory are better asked for whole (a million points, 85 MB of lists: 12 to 16 % more queries one at a time),
/// lists from the cache not (2 to 4 % fewer).
const CACHED_MAX: usize = 32 << 20;

/// Queries that go through a kernel together, at most.
const TOGETHER: usize = 4;

/// One backend's view of an index.
#[derive(Clone, Copy)]
struct Pipeline<'a> {
    model: &'a Model,
    simd: Simd,
    n_probe: usize,
    n_rerank: usize,
}

impl Pipeline<'_> {
    /// Searches a query by itself.
    fn one(self, slot: &mut Slot, room: &mut Room, ids: &mut [u64], scores: &mut [f32]) {
        self.project([slot], room);
        self.prepare(slot, room);
        self.route([slot], room);
        self.scan_own(slot, room);
        room.clock.stage("score", self.scores_floats(), 1, || self.cost_of(slot));
        self.select(slot, room);
        self.rerank(slot, room, ids, scores);
    }

    /// Scans the lists of one query, the best one first.
    fn scan_own(self, slot: &mut Slot, room: &mut Room) {
        let whole = !self.is_cached();
        if let Some(&(first, _)) = slot.probes.first() {
            self.prefetch(first as usize, whole);
        }
        for i in 0..slot.probes.len() {
            if let Some(&(next, _)) = slot.probes.get(i + 1) {
                self.prefetch(next as usize, whole);
            }
            let (list, base) = slot.probes[i];
            self.scan(list as usize, [(slot, base)], room);
        }
    }

    /// Whether points are scored in f32.
    fn scores_floats(self) -> bool {
        matches!(self.model.scorer, Scorer::Rows(_) | Scorer::Cnn(_))
    }

    /// What it takes to score a query's lists.
    fn cost_of(self, slot: &Slot) -> Cost {
        let costs = slot.probes.iter().map(|&(list, _)| self.cost_of_list(list as usize));
        costs.fold(Cost::default(), |sum, cost| Cost {
            bytes: sum.bytes + cost.bytes,
            ops: sum.ops + cost.ops,
        })
    }

    /// What it takes to score a list for one query.
    fn cost_of_list(self, list: usize) -> Cost {
        let n = self.model.lists.range(list).len();
        match &self.model.scorer {
            Scorer::Rrr(rrr) => rrr.cost(list, n),
            Scorer::Pq(pq) => pq.cost(list, n),
            Scorer::Cnn(cnn) => cnn.cost(list, n),
            Scorer::Rows(rows) => Cost::of(n * rows.row_bytes(0).len(), 2 * n * rows.dim()),
        }
    }

    /// Reduces queries to the dimensions that are scored.
    fn project<const N: usize>(self, slots: [&mut Slot; N], room: &mut Room) {
        match &self.model.transform {
            Some(transform) => {
                let splits = self.model.frame.splits_queries();
                let queries = slots.map(|Slot { q, staged, codes, query, .. }| transform::cpu::Projection {
                    q: if splits { staged } else { q },
                    codes,
                    reduced: &mut query.reduced,
                });
                transform::cpu::project(self.simd, transform, queries, &mut room.network);
                room.clock.stage("project", transform.is_float(), N, || transform.cost(N));
            }
            None => {
                for slot in slots {
                    let splits = self.model.frame.splits_queries();
                    slot.query.reduced.clone_from(if splits { &slot.staged } else { &slot.q });
                }
            }
        }
    }

    /// Works out what router and scorer want to know of a reduced query.
    fn prepare(self, slot: &mut Slot, room: &mut Room) {
        let query = &mut slot.query;
        let s = query.reduced.len();
        // Room for whole pairs of groups, as 4-bit blocks want it.
        query.blocks.quantise(self.simd, &query.reduced, s.next_multiple_of(8));
        query.rest_sum = sum(&query.reduced[1..]);
        match &self.model.scorer {
            Scorer::Rrr(_) | Scorer::Cnn(_) => {}
            Scorer::Pq(pq) => query.tables.prepare(self.simd, pq, &query.reduced),
            Scorer::Rows(rows) => {
                let q = if self.model.transform.is_some() { &query.reduced } else { &slot.q };
                rows.prepare(self.model.rows_metric(), q, &mut query.rows);
            }
        }
        // Among so many positions there are n_rerank points.
        slot.kept.reset(self.simd, self.n_rerank * self.model.lists.sizes().n_copies);
        room.clock.stage("prepare", true, 1, Cost::default);
    }

    /// Finds the lists to read.
    fn route<const N: usize>(self, slots: [&mut Slot; N], room: &mut Room) {
        let lists = &self.model.lists;
        let Some(router) = &self.model.router else {
            for slot in slots {
                slot.probes.clear();
                slot.probes.push((0, 0.0));
            }
            return;
        };
        let asked = (self.n_probe + lists.n_empty()).min(lists.len());
        let mut queries = slots.map(|slot| router::cpu::Routing {
            reduced: &slot.query.reduced,
            codes: &slot.query.blocks,
            lists: &mut slot.probes,
        });
        router::cpu::route(self.simd, router, asked, &mut queries, &mut room.routed);
        if lists.n_empty() > 0 {
            for router::cpu::Routing { lists: probes, .. } in queries {
                probes.retain(|&(list, _)| !lists.range(list as usize).is_empty());
                probes.truncate(self.n_probe);
            }
        }
        room.clock.stage("route", router.is_float(), N, || router.cost(N));
    }

    /// Whether lists stay in the last-level cache.
    fn is_cached(self) -> bool {
        self.model.scorer.n_bytes() <= CACHED_MAX
    }

    /// Asks for a list ahead of its scan: for all of it, or for as much as it takes until the hardware follows the stream.
    fn prefetch(self, list: usize, whole: bool) {
        match &self.model.scorer {
            Scorer::Rrr(rrr) => rrr::cpu::prefetch(rrr, list, whole),
            Scorer::Pq(pq) => pq::cpu::prefetch(pq, list, whole),
            Scorer::Cnn(_) | Scorer::Rows(_) => {}
        }
    }

    /// Offers every point of a list to queries that read it, each with the router's score of the list.
    fn scan<const N: usize>(self, list: usize, slots: [(&mut Slot, f32); N], room: &mut Room) {
        let (model, simd) = (self.model, self.simd);
        let range = model.lists.range(list);
        let id_of = |position: u32| model.lists.id_at(position);
        match &model.scorer {
            Scorer::Rrr(rrr) => {
                let pairs = slots.map(|(slot, _)| (&slot.query, &mut slot.kept));
                rrr::cpu::scan(simd, rrr, list, range, pairs, &mut room.rrr, &id_of);
            }
            Scorer::Pq(pq) => {
                for (slot, base) in slots {
                    let tables = &slot.query.tables;
                    pq::cpu::scan(simd, pq, list, range.clone(), tables, base, &mut slot.kept, &id_of);
                }
            }
            Scorer::Cnn(cnn) => {
                let pairs = slots.map(|(slot, _)| (&slot.query, &mut slot.kept));
                cnn::cpu::scan(simd, cnn, list, range, pairs, &mut room.cnn, &id_of);
            }
            Scorer::Rows(rows) => {
                for (slot, _) in slots {
                    let (query, kept) = (&slot.query.rows, &mut slot.kept);
                    scorer::rows::cpu::scan(
                        simd,
                        rows,
                        model.rows_metric(),
                        query,
                        range.clone(),
                        kept,
                        &id_of,
                    );
                }
            }
        }
    }

    /// Cuts the candidates down to `n_rerank` points.
    fn select(self, slot: &mut Slot, room: &mut Room) {
        let lists = &self.model.lists;
        slot.kept.cut(&|position| lists.id_at(position));
        if lists.sizes().n_copies > 1 {
            slot.kept.merge(self.n_rerank, |position| lists.point(position), &|point| lists.ids().get(point));
        }
        room.clock.stage("select", true, 1, Cost::default);
    }

    /// Asks for the rows that [`Pipeline::rerank`] begins with.
    fn prefetch_rows(self, slot: &Slot) {
        if let Some(rows) = &self.model.refine {
            rerank::cpu::prefetch(rows, slot.kept.positions());
        }
    }

    /// Scores the candidates exactly, if rows are stored, and writes the best of them.
    fn rerank(self, slot: &Slot, room: &mut Room, ids: &mut [u64], scores: &mut [f32]) {
        let (model, points) = (self.model, slot.kept.positions());
        let id_of = |point: u32| model.lists.ids().get(point);
        let exact = &mut room.exact;
        exact.reset(self.simd, ids.len().min(points.len()));
        if let Some(rows) = &model.refine {
            let metric = model.frame.metric();
            rows.prepare(metric, &slot.q, &mut room.exact_query);
            rerank::cpu::scores(self.simd, rows, metric, &room.exact_query, points, |point, score| {
                exact.push(score, u32::try_from(point).unwrap_or(u32::MAX), &id_of);
            });
        } else {
            let missing = if model.frame.stages().is_l2() && model.scorer.omits_query_norm() {
                self.simd.dot_f32(&slot.query.reduced, &slot.query.reduced)
            } else {
                0.0
            };
            for (&point, &score) in points.iter().zip(slot.kept.scores()) {
                exact.push(score + missing, point, &id_of);
            }
        }
        exact.cut(&id_of);
        exact.sort_into(&id_of, &mut room.best);
        for ((id, score), &(point, found)) in ids.iter_mut().zip(scores).zip(&room.best) {
            *id = id_of(point);
            *score = model.frame.public_score(found, model.scores_rows(), slot.common);
        }
        room.clock.stage("rerank", true, 1, || {
            let bytes = model.refine.as_ref().map_or(0, |rows| rows.row_bytes(0).len());
            Cost::of(points.len() * bytes, 2 * points.len() * slot.q.len())
        });
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
