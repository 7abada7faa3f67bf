//! The pipeline on the GPU: everything from the queries' upload to k ids and scores stays on the device.
//!
//! ```text
//! upload → project → quantise → router_score → select, sort: n_probe lists a query
//!   rounds:  group pairs by list (cluster-major) → rrr_project → quantise → score → survivors → select
//!   → rerank → select → sort → read back
//! ```
//!
//! A chunk of queries is one submission, except where pages of the index must make room for each other. Two chunks
//! are in flight: while the device works on one, the next is checked and uploaded and the last is read back.

mod lane;
mod plan;

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use self::{
    lane::{Lane, Scratch, Sizes},
    plan::{BatchPlan, Bounds, Round},
};
use super::{Request, SearchError};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError, Profile, Submission,
        kernel::{Plan, SORT_MAX, TILE_POINTS, Tie},
        layout::{ScanParams, narrow},
        pages::{PageId, Pages, upload},
        primitives::{self, PageWork, PairBuffers, PairInputs, Rows},
        recording::{Grid, Recording, finish_read_back, start_read_back},
    },
    index::Model,
    lists::Ids,
    rows::gpu::GpuRows,
    stage::{
        rerank,
        router::gpu::GpuRouter,
        scorer::{self, Scorer, rrr::gpu::GpuRrr},
        transform::gpu::GpuPca,
    },
    topk::{NO_ID, key_score},
    vectors::Vectors,
};

/// A key greater than every score's.
const NO_KEY: u32 = u32::MAX;

/// Values of a row padded to whole quads.
fn padded(n: usize) -> usize {
    n.next_multiple_of(4)
}

/// An index on a device, and scratch for its searches.
pub(super) struct GpuSearcher {
    gpu: Gpu,
    pages: Pages,
    pca: Option<GpuPca>,
    router: Option<GpuRouter>,
    scorer: GpuScorer,
    refine: Option<GpuRows>,
    /// Position and run of each list, `[n_lists + 1]`.
    lists: Buffer,
    /// Order of ids by position.
    ties: Buffer,
    /// Ids by their order, where they need 64 bits.
    wide_ids: Option<Vec<u64>>,
    bounds: Bounds,
    /// Reduced dimensions.
    s: usize,
    /// Codes of a reduced query, in 16s.
    steps: usize,
    lanes: Mutex<Vec<Lane>>,
}

enum GpuScorer {
    Rrr(Box<GpuRrr>),
    Rows(GpuRows),
}

impl GpuSearcher {
    /// Uploads an index, as far as the device's memory budget allows.
    pub fn new(model: &Model, gpu: Gpu) -> Result<Self, GpuError> {
        let n_lists = model.lists.len();
        let s = model.scored_dims();
        let fixed = (model.n * 4 + n_lists * (2 * s + 16) + model.dim * s * 2) as u64;
        // A quarter of a budget for scratch, the rest for what is always there and for pages.
        let budget = gpu.memory().map(|memory| (memory - memory / 4).saturating_sub(fixed));
        let page_bytes = budget.map_or(u64::MAX, |bytes| (bytes / 4).max(1)).min(gpu.max_binding());
        let mut pages = Pages::new(&gpu, budget);
        let pca = model.transform.as_ref().map(|pca| GpuPca::new(&gpu, pca, model.dim)).transpose()?;
        let router = model.router.as_ref().map(|router| GpuRouter::new(&gpu, router)).transpose()?;
        let mut run_starts = vec![0; n_lists + 1];
        let scorer = match &model.scorer {
            Scorer::Rrr(rrr) => {
                run_starts = GpuRrr::run_starts(rrr).collect();
                GpuScorer::Rrr(Box::new(GpuRrr::new(&mut pages, rrr, &model.lists, page_bytes)?))
            }
            Scorer::Rows(rows) => {
                GpuScorer::Rows(GpuRows::new(&gpu, &mut pages, rows, model.n, model.metric, page_bytes)?)
            }
        };
        let refine = match &model.refine {
            Some(rows) => Some(GpuRows::new(&gpu, &mut pages, rows, model.n, model.metric, page_bytes)?),
            None => None,
        };
        let mut sizes: Vec<usize> = (0..n_lists).map(|list| model.lists.range(list).len()).collect();
        let mut lists: Vec<[u32; 2]> = (0..n_lists)
            .map(|list| [narrow(model.lists.range(list).start), narrow(run_starts[list])])
            .collect();
        lists.push([narrow(model.n), narrow(run_starts[n_lists])]);
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut largest = vec![0; n_lists + 1];
        for (i, size) in sizes.iter().enumerate() {
            largest[i + 1] = largest[i] + size;
        }
        let (ties, wide_ids) = ties(model.lists.ids(), model.n);
        let slot_bytes = match &scorer {
            GpuScorer::Rrr(rrr) => (rrr.t_len * 4).max(rrr.t_steps * 16),
            GpuScorer::Rows(_) => 8,
        };
        let scratch = gpu.memory().map_or(u64::MAX, |memory| memory / 4 / 8).max(1 << 16);
        // Beyond 128 MiB a buffer holds more candidates than a chunk of queries has use for.
        let buffer = gpu.max_binding().min(128 << 20).min(scratch);
        let searcher = Self {
            lists: upload(&gpu, "lists", bytemuck::cast_slice(&lists))?,
            ties: upload(&gpu, "ids", bytemuck::cast_slice(&ties))?,
            wide_ids,
            bounds: Bounds {
                largest,
                row_bytes: padded(model.dim).max(padded(s)) * 4,
                slot_bytes,
                buffer,
                groups: u64::from(gpu.grid_width()).pow(2),
            },
            s,
            steps: s.saturating_sub(1).div_ceil(16),
            pca,
            router,
            scorer,
            refine,
            pages,
            gpu,
            lanes: Mutex::default(),
        };
        searcher.pages.fill()?;
        Ok(searcher)
    }

    /// What the device and the index say about each other, if anything is out of the ordinary.
    pub fn note(&self) -> String {
        if self.pages.stream() {
            let mib = |bytes: u64| bytes >> 20;
            format!(
                "; the index's {} MiB exceed the memory budget of {} MiB and stream through",
                mib(self.pages.total()),
                mib(self.gpu.memory().unwrap_or_default())
            )
        } else {
            String::new()
        }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Searches all queries of a request.
    pub fn search<V: Vectors>(
        &self,
        model: &Model,
        request: &Request<'_, V>,
        ids: &mut [u64],
        scores: &mut [f32],
        mut profile: Option<&mut Profile>,
    ) -> Result<(), SearchError> {
        let n = request.queries.n_rows();
        let effort = request.effort;
        let n_probe = effort.n_probe.min(model.lists.len() - model.lists.n_empty());
        let plan = self.bounds.plan(n, n_probe, effort.n_rerank, request.k)?;
        let mut in_flight: Option<(usize, usize, Lane, Option<Submission>)> = None;
        let mut first = 0;
        while first < n || in_flight.is_some() {
            let mut next = None;
            if first < n {
                let rows = plan.rows.min(n - first);
                let queries = read_queries(model, request, first, rows)?;
                let mut lane =
                    self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
                let submission = self.submit(
                    model,
                    (&plan, n_probe, effort.n_rerank, request.k),
                    rows,
                    &queries,
                    &mut lane,
                    profile.as_deref_mut(),
                )?;
                next = Some((first, rows, lane, submission));
                first += rows;
            }
            if let Some((from, rows, lane, submission)) = in_flight.take() {
                let places = from * request.k..(from + rows) * request.k;
                self.take(
                    model,
                    request.k,
                    rows,
                    &lane,
                    submission,
                    &mut ids[places.clone()],
                    &mut scores[places],
                )?;
                self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
            }
            in_flight = next;
        }
        Ok(())
    }

    /// Reads a chunk's results.
    #[allow(clippy::too_many_arguments, reason = "a chunk and where its results go")]
    fn take(
        &self,
        model: &Model,
        k: usize,
        rows: usize,
        lane: &Lane,
        submission: Option<Submission>,
        ids: &mut [u64],
        scores: &mut [f32],
    ) -> Result<(), GpuError> {
        let Some(read) = &lane.read else { return Ok(()) };
        let bytes = finish_read_back(&self.gpu, read, (rows * k * 8) as u64, submission)?;
        let found: Vec<[u32; 2]> = bytemuck::pod_collect_to_vec(&bytes);
        for ((id, score), [key, tie]) in ids.iter_mut().zip(scores).zip(found) {
            if key == NO_KEY {
                (*id, *score) = (NO_ID, model.metric.worst_score());
                continue;
            }
            *id = match &self.wide_ids {
                Some(wide) => wide.get(tie as usize).copied().unwrap_or(NO_ID),
                None => u64::from(tie),
            };
            *score = model.metric.public_score(key_score(key));
        }
        Ok(())
    }

    /// Records and submits a chunk.
    fn submit(
        &self,
        model: &Model,
        (plan, n_probe, keep, k): (&BatchPlan, usize, usize, usize),
        rows: usize,
        queries: &[f32],
        lane: &mut Lane,
        profile: Option<&mut Profile>,
    ) -> Result<Option<Submission>, GpuError> {
        let scratch = lane.fit(&self.gpu, &self.sizes(model, plan, n_probe, k, rows))?;
        let read_bytes = (rows * k * 8) as u64;
        if lane.read.as_ref().is_none_or(|read| read.size() < read_bytes) {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            lane.read = Some(self.gpu.create("results", read_bytes.next_power_of_two(), usage)?);
        }
        self.gpu.scoped("queries", || {
            self.gpu.queue().write_buffer(&scratch.queries, 0, bytemuck::cast_slice(queries));
        })?;
        let mut chunk = Chunk {
            searcher: self,
            model,
            recording: Recording::new(&self.gpu),
            params: &mut lane.params,
            profile,
            scratch,
            plan,
            n_rows: rows,
            n_probe,
            keep,
            k,
        };
        chunk.record()?;
        let Chunk { mut recording, params, scratch, profile, .. } = chunk;
        if let Some(read) = &lane.read {
            recording.copy(&scratch.sorted, read, read_bytes);
        }
        let submission = recording.submit(params, profile)?;
        if let Some(read) = &lane.read {
            start_read_back(read, read_bytes);
        }
        Ok(submission)
    }

    fn sizes(&self, model: &Model, plan: &BatchPlan, n_probe: usize, k: usize, rows: usize) -> Sizes {
        let n_lists = model.lists.len();
        let slots = rows * plan.rounds.iter().map(|round| round.n_probes).max().unwrap_or(1);
        let (t_len, t_steps) = match &self.scorer {
            GpuScorer::Rrr(rrr) => (rrr.t_len, rrr.t_steps),
            GpuScorer::Rows(_) => (0, 0),
        };
        let cluster = usize::from(plan.plan == Plan::ClusterMajor);
        let routed = if self.router.is_some() { rows * n_lists } else { 0 };
        Sizes {
            queries: rows * padded(model.dim) * 4,
            reduced: if self.pca.is_some() { rows * padded(self.s) * 4 } else { 0 },
            codes: rows * self.steps * 16,
            heads: rows * 16,
            candidates: (rows * plan.stride).max(routed) * 8,
            states: rows * 8,
            routed: rows * n_probe * 8,
            pair_counts: n_lists * 4,
            pair_ranks: cluster * slots * 4,
            groups: (n_lists + 1) * 8,
            grid: 16,
            slots: cluster * slots * 8,
            projected: slots * t_len * 4,
            t_codes: slots * t_steps * 16,
            t_heads: if t_len > 0 { slots * 16 } else { 0 },
            sorted: rows * k * 8,
        }
    }
}

/// Reads, checks and scales a chunk's queries, rows padded to whole quads.
fn read_queries<V: Vectors>(
    model: &Model,
    request: &Request<'_, V>,
    first: usize,
    rows: usize,
) -> Result<Vec<f32>, SearchError> {
    use rayon::prelude::*;
    let width = padded(model.dim);
    let mut values = vec![0.0; rows * width];
    let read = |(i, out): (usize, &mut [f32])| request.query_into(model, first + i, &mut out[..model.dim]);
    if rows < 64 {
        values.chunks_mut(width).enumerate().try_for_each(read)?;
    } else {
        // The first error in query order, whichever thread met one first.
        let done: Vec<_> = values.par_chunks_mut(width).enumerate().map(read).collect();
        done.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(values)
}

/// What orders equal scores: ids where they have 32 bits, else their ranks and the ids by rank.
fn ties(ids: &Ids, n: usize) -> (Vec<u32>, Option<Vec<u64>>) {
    match ids {
        Ids::Positions => ((0..narrow(n)).collect(), None),
        Ids::U32(ids) => (ids.to_vec(), None),
        Ids::U64(ids) => {
            let mut wide: Vec<u64> = ids.to_vec();
            wide.sort_unstable();
            let rank = |id: &u64| narrow(wide.partition_point(|other| other < id));
            (ids.iter().map(rank).collect(), Some(wide))
        }
    }
}

/// A chunk being recorded.
struct Chunk<'a> {
    searcher: &'a GpuSearcher,
    model: &'a Model,
    recording: Recording,
    params: &'a mut Option<Buffer>,
    profile: Option<&'a mut Profile>,
    scratch: Scratch,
    plan: &'a BatchPlan,
    n_rows: usize,
    n_probe: usize,
    keep: usize,
    k: usize,
}

impl Chunk<'_> {
    /// All four stages.
    fn record(&mut self) -> Result<(), GpuError> {
        self.transform();
        self.route();
        self.recording.clear(&self.scratch.states, self.n_rows as u64 * 8);
        for (i, round) in self.plan.rounds.iter().enumerate() {
            self.score(round)?;
            // Between rounds, and in the end: the best that were found so far, and the floor for what follows.
            let is_last = i + 1 == self.plan.rounds.len();
            if !is_last || self.selects() {
                let expected = self.expected(round.n_probes).min(self.plan.stride as f64);
                let rows = points(self.searcher, &self.scratch, self.plan, self.n_rows);
                primitives::select(&mut self.recording, rows, self.keep, expected);
            }
        }
        self.rerank()?;
        self.finish();
        Ok(())
    }

    /// Whether the candidates are cut to the best before they are put in order.
    fn selects(&self) -> bool {
        self.searcher.refine.is_some() || self.lacks_norm() || self.plan.stride > SORT_MAX
    }

    /// Whether approximate scores are the results and lack the query's norm.
    fn lacks_norm(&self) -> bool {
        self.searcher.refine.is_none() && self.model.metric.is_l2() && self.model.scorer.omits_query_norm()
    }

    fn transform(&mut self) {
        let searcher = self.searcher;
        let (s, stride) = (searcher.s, padded(searcher.s));
        if let Some(pca) = &searcher.pca {
            let queries = (&self.scratch.queries, padded(self.model.dim));
            pca.project(&mut self.recording, self.n_rows, queries, (&self.scratch.reduced, stride));
        }
        let Self { scratch, recording, .. } = self;
        let rows = (reduced(searcher, scratch), s, stride);
        let codes = (&scratch.codes, searcher.steps);
        primitives::quantise(recording, self.n_rows, rows, codes, &scratch.heads);
    }

    fn route(&mut self) {
        let (searcher, scratch) = (self.searcher, &self.scratch);
        let n_lists = self.model.lists.len();
        let Some(router) = &searcher.router else {
            // Zeros: every query reads list 0.
            self.recording.clear(&scratch.routed, (self.n_rows * self.n_probe * 8) as u64);
            return;
        };
        router.score(
            &mut self.recording,
            self.n_rows,
            (&scratch.codes, &scratch.heads),
            &searcher.lists,
            (&scratch.candidates, &scratch.states),
        );
        let rows = Rows {
            candidates: &scratch.candidates,
            states: &scratch.states,
            n_rows: self.n_rows,
            stride: n_lists,
            tie: Tie::Item,
            ties: &searcher.ties,
        };
        // Up to a workgroup's worth of lists sorting takes no longer than selecting first.
        let len = if n_lists > 256 && self.n_probe < n_lists {
            primitives::select(&mut self.recording, rows, self.n_probe, n_lists as f64);
            self.n_probe
        } else {
            n_lists
        };
        let sorted = (&scratch.routed, self.n_probe);
        primitives::sort(&mut self.recording, rows, len, sorted, &scratch.heads, false);
    }

    /// Points a query meets in some probes, on average.
    fn expected(&self, n_probes: usize) -> f64 {
        n_probes as f64 * self.model.n as f64 / self.model.lists.len() as f64
    }

    /// A page of the index on the device; what is recorded may have to run first, to make room.
    fn page(&mut self, id: PageId) -> Result<Buffer, GpuError> {
        let Self { searcher, recording, params, profile, .. } = self;
        searcher.pages.get(id, &mut || {
            let submission = recording.submit(params, profile.as_deref_mut())?;
            recording.gpu().wait("pages", submission)
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
        let share = positions.len() as f64 / self.model.n as f64;
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
            page_to: narrow(self.model.n),
            round_from: narrow(round.points.0),
            round_to: narrow(round.points.1),
            tile_points: narrow(TILE_POINTS),
            query_stride: narrow(padded(searcher.s)),
            stride: narrow(self.plan.stride),
            ..Default::default()
        };
        if self.plan.plan == Plan::ClusterMajor {
            primitives::group(&mut self.recording, &base, pairs(searcher, &self.scratch));
        }
        let points = self.n_rows as f64 * self.expected(round.n_probes);
        let read = match self.plan.plan {
            Plan::QueryMajor => points,
            Plan::ClusterMajor => points.min(self.model.n as f64),
        };
        match &searcher.scorer {
            GpuScorer::Rrr(rrr) => self.score_rrr(rrr, &base, (points, read)),
            GpuScorer::Rows(rows) => {
                for page in &rows.pages {
                    let buffer = self.page(page.id)?;
                    let work = self.work(&base, &page.positions, narrow(TILE_POINTS), (points, read));
                    let Self { scratch, recording, .. } = self;
                    scorer::rows::gpu::score(
                        recording,
                        rows,
                        work,
                        &buffer,
                        reduced(searcher, scratch),
                        inputs(searcher, scratch, self.plan.plan),
                        (&scratch.candidates, &scratch.states),
                    );
                }
                Ok(())
            }
        }
    }

    fn score_rrr(&mut self, rrr: &GpuRrr, base: &ScanParams, load: (f64, f64)) -> Result<(), GpuError> {
        let searcher = self.searcher;
        for page in &rrr.a {
            let buffer = self.page(page.id)?;
            // One tile a list, whatever its length.
            let work = self.work(base, &page.positions, u32::MAX >> 1, load);
            let Self { scratch, recording, .. } = self;
            rrr.project(
                recording,
                work,
                (page, &buffer),
                (&scratch.codes, &scratch.heads, reduced(searcher, scratch)),
                inputs(searcher, scratch, self.plan.plan),
                &scratch.projected,
            );
        }
        primitives::quantise(
            &mut self.recording,
            base.n_slots as usize,
            (&self.scratch.projected, rrr.t_len, rrr.t_len),
            (&self.scratch.t_codes, rrr.t_steps),
            &self.scratch.t_heads,
        );
        for page in &rrr.b {
            let buffer = self.page(page.id)?;
            let work = self.work(base, &page.positions, narrow(TILE_POINTS), load);
            let Self { scratch, recording, .. } = self;
            rrr.score(
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
                (self.n_rows, self.plan.stride, self.keep),
            );
        }
        if self.keep > SORT_MAX && self.k < self.keep {
            let rows = points(self.searcher, &self.scratch, self.plan, self.n_rows);
            primitives::select(&mut self.recording, rows, self.k, self.keep as f64);
        }
        Ok(())
    }

    /// Puts the best in order and adds what the scores still lack.
    fn finish(&mut self) {
        let len = match self.selects() {
            true if self.keep > SORT_MAX => self.keep.min(self.k),
            true => self.keep,
            false => self.plan.stride,
        };
        let add_norm = self.lacks_norm();
        let scratch = &self.scratch;
        let rows = points(self.searcher, scratch, self.plan, self.n_rows);
        let sorted = (&scratch.sorted, self.k);
        primitives::sort(&mut self.recording, rows, len, sorted, &scratch.heads, add_norm);
    }
}

/// The candidates among the points.
fn points<'a>(searcher: &'a GpuSearcher, scratch: &'a Scratch, plan: &BatchPlan, n_rows: usize) -> Rows<'a> {
    Rows {
        candidates: &scratch.candidates,
        states: &scratch.states,
        n_rows,
        stride: plan.stride,
        tie: Tie::Id,
        ties: &searcher.ties,
    }
}

/// The queries that router and scorer see.
fn reduced<'a>(searcher: &GpuSearcher, scratch: &'a Scratch) -> &'a Buffer {
    if searcher.pca.is_some() { &scratch.reduced } else { &scratch.queries }
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
