//! A chunk of queries, recorded: all four stages as dispatches.

use std::ops::Range;

use super::{BatchPlan, GpuScorer, GpuSearcher, lane::Scratch, padded, plan::Round};
use crate::{
    gpu::{
        Buffer, GpuError,
        kernel::{Plan, SORT_MAX, TILE_POINTS, Tie},
        layout::{ScanParams, narrow},
        pages::PageId,
        primitives::{self, PageWork, PairBuffers, PairInputs, Rows},
        recording::{Grid, Recording},
    },
    index::Model,
    network::conv::gpu::{Rooms, Weights, Work},
    profile::Profile,
    stage::{
        rerank,
        scorer::{
            self,
            cnn::gpu::GpuCnn,
            gpu::GpuRuns,
            pq::gpu::{GpuPq, Tables},
            rrr::gpu::GpuRrr,
        },
        transform::gpu as transform,
    },
};

/// Operations in one submission, about: a tenth of a second at 1 T a second. Systems reset a device that is busy for
/// seconds; only exhaustive scorers come near.
const OPS_MAX: f64 = 1e11;

/// A chunk being recorded.
pub(super) struct Chunk<'a> {
    pub searcher: &'a GpuSearcher,
    pub model: &'a Model,
    pub recording: Recording,
    pub params: &'a mut Option<Buffer>,
    pub profile: Option<&'a mut Profile>,
    pub scratch: Scratch,
    pub plan: &'a BatchPlan,
    pub n_rows: usize,
    pub n_probe: usize,
    /// Points kept of the plan's positions.
    pub n_rerank: usize,
    pub k: usize,
}

impl Chunk<'_> {
    /// All four stages.
    pub fn record(&mut self) -> Result<(), GpuError> {
        self.transform();
        self.route();
        self.recording.clear(&self.scratch.states, self.n_rows as u64 * 8);
        for (i, round) in self.plan.rounds.iter().enumerate() {
            if self.recording.ops() > OPS_MAX {
                self.recording.submit(self.params, self.profile.as_deref_mut())?;
            }
            self.score(round)?;
            // Between rounds, and in the end: the best that were found so far, and the floor for what follows.
            let is_last = i + 1 == self.plan.rounds.len();
            if !is_last || self.selects() {
                let expected = self.expected(round.n_probes).min(self.plan.stride as f64);
                let rows = points(self.searcher, &self.scratch, self.plan, self.n_rows);
                primitives::select(&mut self.recording, rows, self.plan.keep, expected);
            }
        }
        self.merge();
        self.rerank()?;
        self.finish();
        Ok(())
    }

    /// Whether the candidates are cut to the best before they are put in order.
    fn selects(&self) -> bool {
        let finishes = self.searcher.refine.is_none() && self.searcher.points.is_none() && !self.lacks_norm();
        !finishes || self.plan.stride > SORT_MAX
    }

    /// Whether approximate scores are the results and lack the query's norm.
    fn lacks_norm(&self) -> bool {
        self.searcher.refine.is_none()
            && self.model.frame.stages().is_l2()
            && self.model.scorer.omits_query_norm()
    }

    fn transform(&mut self) {
        let searcher = self.searcher;
        let (s, stride) = (searcher.widths.s, padded(searcher.widths.s));
        if let Some(transform) = &searcher.transform {
            let Self { scratch, recording, model, n_rows, .. } = &mut *self;
            let queries = (staged(model, scratch), padded(model.dim));
            let rooms = transform::Rooms {
                wide: &scratch.net_wide,
                keys: &scratch.net_keys,
                hidden: &scratch.net_hidden,
                seen: &scratch.net_seen,
            };
            let work = transform::Scratch { codes: (&scratch.query_codes, &scratch.query_heads), rooms };
            transform.project(recording, *n_rows, queries, work, (&scratch.reduced, stride));
        }
        let Self { scratch, recording, model, .. } = self;
        let rows = (reduced(model, scratch), s, stride);
        let codes = (&scratch.codes, searcher.widths.steps);
        primitives::quantise(recording, self.n_rows, rows, codes, &scratch.heads);
        if let GpuScorer::Pq(pq) = &searcher.scorer {
            pq.prepare(recording, self.n_rows, (reduced(model, scratch), stride), tables(scratch));
        }
    }

    fn route(&mut self) {
        let (searcher, scratch) = (self.searcher, &self.scratch);
        let n_lists = self.model.lists.len();
        let Some(router) = &searcher.router else {
            // Zeros: every query reads list 0.
            self.recording.clear(&scratch.routed, (self.n_rows * self.n_probe * 8) as u64);
            return;
        };
        let mut ranking = (&scratch.codes, &scratch.heads);
        if router.moves() {
            let (recording, n_rows, s) = (&mut self.recording, self.n_rows, searcher.widths.s);
            let queries = (reduced(self.model, scratch), padded(s));
            router.move_queries(recording, n_rows, queries, rooms(scratch), &scratch.moved);
            let codes = (&scratch.moved_codes, searcher.widths.steps);
            primitives::quantise(recording, n_rows, (&scratch.moved, s, s), codes, &scratch.moved_heads);
            ranking = (&scratch.moved_codes, &scratch.moved_heads);
        }
        router.score(
            &mut self.recording,
            self.n_rows,
            ranking,
            &searcher.lists,
            (&scratch.candidates, &scratch.states),
        );
        let rows = Rows {
            candidates: &scratch.candidates,
            states: &scratch.states,
            n_rows: self.n_rows,
            stride: n_lists,
            tie: Tie::Item,
            ties: &searcher.ties.by_point,
        };
        // Up to what a small workgroup sorts, sorting takes no longer than selecting first.
        let len = if n_lists > 128 && self.n_probe < n_lists {
            primitives::select(&mut self.recording, rows, self.n_probe, n_lists as f64);
            self.n_probe
        } else {
            n_lists
        };
        let sorted = (&scratch.routed, self.n_probe);
        primitives::sort(&mut self.recording, rows, len, sorted, &scratch.heads, false);
        let queries = (&scratch.codes, &scratch.heads);
        router.base(&mut self.recording, (self.n_rows, self.n_probe), queries, &scratch.routed);
    }

    fn n_positions(&self) -> usize {
        self.model.lists.sizes().n_positions()
    }

    /// Points a query meets in some probes, on average.
    fn expected(&self, n_probes: usize) -> f64 {
        n_probes as f64 * self.n_positions() as f64 / self.model.lists.len() as f64
    }

    /// A page of the index on the device; what is recorded may have to run first, to make room.
    fn page(&mut self, id: PageId) -> Result<Buffer, GpuError> {
        let Self { searcher, recording, params, profile, .. } = self;
        searcher.pages.get(id, &mut || {
            let submission = recording.submit(params, profile.as_deref_mut())?;
            recording.gpu().wait("pages", Some(submission))
        })
    }

    /// One page's part of a round. `points`: scores the round makes, and reads points for, about, on all pages.
    fn work(
        &mut self,
        base: &ScanParams,
        positions: &Range<usize>,
        tile_points: u32,
        (points, read): (f64, f64),
    ) -> PageWork {
        let params = ScanParams {
            page_from: narrow(positions.start),
            page_to: narrow(positions.end),
            tile_points,
            max_tiles: (base.round_to - base.round_from).div_ceil(tile_points).max(1),
            ..*base
        };
        let grid = match self.plan.plan {
            Plan::QueryMajor => Grid::Groups(u64::from(params.n_slots) * u64::from(params.max_tiles)),
            Plan::ClusterMajor => {
                let (searcher, scratch) = (self.searcher, &self.scratch);
                primitives::scan(&mut self.recording, &params, pairs(searcher, scratch));
                Grid::Indirect(scratch.grid.clone())
            }
        };
        let share = positions.len() as f64 / self.n_positions() as f64;
        PageWork { params, grid, points: points * share, read: read * share }
    }

    fn score(&mut self, round: &Round) -> Result<(), GpuError> {
        let searcher = self.searcher;
        let base = ScanParams {
            grid_width: self.recording.gpu().grid_width(),
            n_lists: narrow(self.model.lists.len()),
            n_probe: narrow(self.n_probe),
            n_probes: narrow(round.n_probes),
            probe_from: narrow(round.probe_from),
            n_slots: narrow(self.n_rows * round.n_probes),
            page_from: 0,
            page_to: narrow(self.n_positions()),
            round_from: narrow(round.points.0),
            round_to: narrow(round.points.1),
            tile_points: narrow(TILE_POINTS),
            query_stride: narrow(padded(searcher.widths.s)),
            stride: narrow(self.plan.stride),
            ..Default::default()
        };
        if self.plan.plan == Plan::ClusterMajor {
            primitives::group(&mut self.recording, &base, pairs(searcher, &self.scratch));
        }
        let points = self.n_rows as f64 * self.expected(round.n_probes);
        let read = match self.plan.plan {
            Plan::QueryMajor => points,
            Plan::ClusterMajor => points.min(self.n_positions() as f64),
        };
        match &searcher.scorer {
            GpuScorer::Rrr(rrr) => self.score_rrr(rrr, round, &base, (points, read)),
            GpuScorer::Pq(pq) => self.score_pq(pq, round, &base, (points, read)),
            GpuScorer::Cnn(cnn) => self.score_cnn(cnn, round, &base, (points, read)),
            GpuScorer::Rows(rows) => {
                for page in &rows.pages {
                    if !searcher.touches(self.model, round, &page.positions) {
                        continue;
                    }
                    let buffer = self.page(page.id)?;
                    let work = self.work(&base, &page.positions, narrow(TILE_POINTS), (points, read));
                    let Self { scratch, recording, model, .. } = self;
                    scorer::rows::gpu::score(
                        recording,
                        rows,
                        work,
                        &buffer,
                        rows_queries(model, scratch),
                        inputs(searcher, scratch, self.plan.plan),
                        (&scratch.candidates, &scratch.states),
                    );
                }
                Ok(())
            }
        }
    }

    fn score_rrr(
        &mut self,
        rrr: &GpuRrr,
        round: &Round,
        base: &ScanParams,
        load: (f64, f64),
    ) -> Result<(), GpuError> {
        let searcher = self.searcher;
        for page in &rrr.a {
            if !searcher.touches(self.model, round, &page.positions) {
                continue;
            }
            let buffer = self.page(page.id)?;
            // One tile a list, whatever its length.
            let work = self.work(base, &page.positions, u32::MAX >> 1, load);
            let Self { scratch, recording, model, .. } = self;
            rrr.project(
                recording,
                work,
                (page, &buffer),
                (&scratch.codes, &scratch.heads, reduced(model, scratch)),
                inputs(searcher, scratch, self.plan.plan),
                &scratch.projected,
            );
        }
        self.score_runs(&rrr.b, round, base, load)
    }

    fn score_cnn(
        &mut self,
        cnn: &GpuCnn,
        round: &Round,
        base: &ScanParams,
        load: (f64, f64),
    ) -> Result<(), GpuError> {
        let searcher = self.searcher;
        for page in &cnn.weights {
            if !searcher.touches(self.model, round, &page.positions) {
                continue;
            }
            let buffer = self.page(page.id)?;
            let weights = Weights { buffer: &buffer, list_from: page.list_from, list_to: page.list_to };
            let Self { scratch, recording, model, plan, .. } = self;
            let work = Work::Pairs(base, inputs(searcher, scratch, plan.plan));
            let queries = (reduced(model, scratch), padded(searcher.widths.s));
            cnn.networks.forward(recording, work, weights, queries, rooms(scratch), &scratch.projected);
        }
        self.score_runs(&cnn.points, round, base, load)
    }

    /// Scores points by runs, for pairs that have been projected.
    fn score_runs(
        &mut self,
        runs: &GpuRuns,
        round: &Round,
        base: &ScanParams,
        load: (f64, f64),
    ) -> Result<(), GpuError> {
        let searcher = self.searcher;
        primitives::quantise(
            &mut self.recording,
            base.n_slots as usize,
            (&self.scratch.projected, runs.t_len, runs.t_len),
            (&self.scratch.t_codes, runs.t_steps),
            &self.scratch.t_heads,
        );
        for page in &runs.pages {
            if !searcher.touches(self.model, round, &page.positions) {
                continue;
            }
            let buffer = self.page(page.id)?;
            let work = self.work(base, &page.positions, narrow(TILE_POINTS), load);
            let Self { scratch, recording, .. } = self;
            runs.score(
                recording,
                work,
                (page, &buffer),
                (&scratch.t_codes, &scratch.t_heads),
                inputs(searcher, scratch, self.plan.plan),
                (&scratch.candidates, &scratch.states),
            );
        }
        Ok(())
    }

    fn score_pq(
        &mut self,
        pq: &GpuPq,
        round: &Round,
        base: &ScanParams,
        load: (f64, f64),
    ) -> Result<(), GpuError> {
        let searcher = self.searcher;
        for page in &pq.pages {
            if !searcher.touches(self.model, round, &page.positions) {
                continue;
            }
            let buffer = self.page(page.id)?;
            let work = self.work(base, &page.positions, narrow(TILE_POINTS), load);
            let Self { scratch, recording, .. } = self;
            pq.score(
                recording,
                work,
                (page, &buffer),
                tables(scratch),
                inputs(searcher, scratch, self.plan.plan),
                (&scratch.candidates, &scratch.states),
            );
        }
        Ok(())
    }

    /// From positions to points, each once.
    fn merge(&mut self) {
        let Some(positions) = &self.searcher.points else { return };
        let scratch = &self.scratch;
        let room = (&scratch.merged, &scratch.heads);
        let rows = points(self.searcher, scratch, self.plan, self.n_rows);
        primitives::merge(&mut self.recording, rows, self.plan.keep, positions, room);
        let rows = by_point(self.searcher, rows);
        primitives::select(&mut self.recording, rows, self.n_rerank, self.plan.keep as f64);
    }

    fn rerank(&mut self) -> Result<(), GpuError> {
        let Some(rows) = &self.searcher.refine else { return Ok(()) };
        for page in &rows.pages {
            let buffer = self.page(page.id)?;
            rerank::gpu::score(
                &mut self.recording,
                rows,
                (page, &buffer),
                (&self.scratch.queries, padded(self.model.dim)),
                (&self.scratch.candidates, &self.scratch.states),
                (self.n_rows, self.plan.stride, self.n_rerank),
            );
        }
        if self.n_rerank > SORT_MAX && self.k < self.n_rerank {
            let rows = points(self.searcher, &self.scratch, self.plan, self.n_rows);
            let rows = by_point(self.searcher, rows);
            primitives::select(&mut self.recording, rows, self.k, self.n_rerank as f64);
        }
        Ok(())
    }

    /// Puts the best in order and adds what the scores still lack.
    fn finish(&mut self) {
        let len = match self.selects() {
            true if self.n_rerank > SORT_MAX => self.n_rerank.min(self.k),
            true => self.n_rerank,
            false => self.plan.stride,
        };
        let add_norm = self.lacks_norm();
        let scratch = &self.scratch;
        let rows = by_point(self.searcher, points(self.searcher, scratch, self.plan, self.n_rows));
        let sorted = (&scratch.sorted, self.k);
        primitives::sort(&mut self.recording, rows, len, sorted, &scratch.heads, add_norm);
    }
}

/// The candidates among the positions.
fn points<'a>(searcher: &'a GpuSearcher, scratch: &'a Scratch, plan: &BatchPlan, n_rows: usize) -> Rows<'a> {
    Rows {
        candidates: &scratch.candidates,
        states: &scratch.states,
        n_rows,
        stride: plan.stride,
        tie: searcher.tie,
        ties: &searcher.ties.by_position,
    }
}

/// The same candidates once their positions are points.
fn by_point<'a>(searcher: &'a GpuSearcher, rows: Rows<'a>) -> Rows<'a> {
    Rows { ties: &searcher.ties.by_point, ..rows }
}

/// What layers of convolutional networks live in.
fn rooms(scratch: &Scratch) -> Rooms<&Buffer> {
    Rooms { wide: &scratch.conv_wide, between: &scratch.conv_between }
}

/// The batch's lookup tables.
fn tables(scratch: &Scratch) -> Tables<'_> {
    Tables { lows: &scratch.table_lows, bytes: &scratch.table_bytes, heads: &scratch.table_heads }
}

/// The queries that the transform sees.
fn staged<'a>(model: &Model, scratch: &'a Scratch) -> &'a Buffer {
    if model.frame.splits_queries() { &scratch.staged } else { &scratch.queries }
}

/// The queries that router and scorer see.
fn reduced<'a>(model: &Model, scratch: &'a Scratch) -> &'a Buffer {
    if model.transform.is_some() { &scratch.reduced } else { staged(model, scratch) }
}

/// The queries that a scorer's own rows meet.
fn rows_queries<'a>(model: &Model, scratch: &'a Scratch) -> &'a Buffer {
    if model.transform.is_some() { &scratch.reduced } else { &scratch.queries }
}

/// A round's pairs as the plan has them.
fn inputs<'a>(searcher: &'a GpuSearcher, scratch: &'a Scratch, plan: Plan) -> PairInputs<'a> {
    let slots = match plan {
        Plan::QueryMajor => &scratch.routed,
        Plan::ClusterMajor => &scratch.slots,
    };
    PairInputs { lists: &searcher.lists, groups: &scratch.groups, slots, plan }
}

fn pairs<'a>(searcher: &'a GpuSearcher, scratch: &'a Scratch) -> PairBuffers<'a> {
    PairBuffers {
        routed: &scratch.routed,
        lists: &searcher.lists,
        counts: &scratch.pair_counts,
        ranks: &scratch.pair_ranks,
        groups: &scratch.groups,
        grid: &scratch.grid,
        slots: &scratch.slots,
    }
}
