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

mod chunk;
mod lane;
mod plan;
mod widths;

pub(crate) use self::widths::scratch_bytes;
use self::{
    chunk::Chunk,
    lane::{Lane, ScratchPool},
    plan::{BatchPlan, Bounds, Round},
    widths::{BUFFER_MAX, Widths},
};
use super::{Request, SearchError};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError, Submission,
        kernel::Tie,
        layout::narrow,
        pages::{Pages, upload},
        recording::{Recording, finish_read_back, start_read_back},
    },
    index::Model,
    lists::Ids,
    profile::Profile,
    rows::gpu::GpuRows,
    stage::{
        router::{Router, gpu::GpuRouter},
        scorer::{Scorer, cnn::gpu::GpuCnn, pq::gpu::GpuPq, rrr::gpu::GpuRrr},
        transform::gpu::GpuTransform,
    },
    topk::{NO_ID, key_score},
    vectors::VectorError,
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
    transform: Option<GpuTransform>,
    router: Option<GpuRouter>,
    scorer: GpuScorer,
    refine: Option<GpuRows>,
    /// Position and run of each list, `[n_lists + 1]`.
    lists: Buffer,
    /// What equal scores stand by: ids, whose order by position and by point is in `ties`, or positions where they are the
    /// ids.
    tie: Tie,
    ties: Ties,
    /// The point at each position, where lists hold copies.
    points: Option<Buffer>,
    /// Ids by their order, where they need 64 bits.
    wide_ids: Option<Vec<u64>>,
    bounds: Bounds,
    widths: Widths,
    scratch: ScratchPool,
}

/// What orders equal scores, by position and by point.
struct Ties {
    by_position: Buffer,
    by_point: Buffer,
}

enum GpuScorer {
    Rrr(Box<GpuRrr>),
    Pq(Box<GpuPq>),
    Cnn(Box<GpuCnn>),
    Rows(GpuRows),
}

impl GpuSearcher {
    /// Uploads an index, as far as the device's memory budget allows.
    pub fn new(model: &Model, gpu: Gpu) -> Result<Self, GpuError> {
        let n_lists = model.lists.len();
        let sizes = model.lists.sizes();
        let widths = Widths::of(&model.spec, &model.frame, model.dim, n_lists);
        let s = widths.s;
        let n_positions = sizes.n_positions();
        // Ids by point; where there are copies, points and ids by position.
        let ids = if sizes.n_copies > 1 { sizes.n * 4 + n_positions * 8 } else { sizes.n * 4 };
        let axes = model.transform.as_ref().map_or(0, crate::stage::transform::Transform::n_bytes);
        let routes = model.router.as_ref().map_or(0, Router::n_bytes);
        let fixed = (ids + n_lists * (s + 16) + routes + axes) as u64;
        // Half of a budget for what is always there and for pages, the rest for the scratch of two chunks.
        let budget = match gpu.memory() {
            None => None,
            Some(memory) if memory / 2 > fixed => Some(memory / 2 - fixed),
            Some(allowed) => {
                let what = "an index's ids, lists and maps, beside its pages and scratch,".to_owned();
                return Err(GpuError::TooLarge { what, needed: fixed * 2 + 1, allowed });
            }
        };
        let page_bytes = budget.map_or(u64::MAX, |bytes| (bytes / 4).max(1)).min(gpu.max_binding());
        let mut pages = Pages::new(&gpu, budget);
        let transform = model.transform.as_ref();
        let transform = transform.map(|transform| GpuTransform::new(&gpu, transform)).transpose()?;
        let router = model.router.as_ref().map(|router| GpuRouter::new(&gpu, router)).transpose()?;
        let mut run_starts = vec![0; n_lists + 1];
        let scorer = match &model.scorer {
            Scorer::Rrr(rrr) => {
                run_starts = GpuRrr::run_starts(rrr).collect();
                GpuScorer::Rrr(Box::new(GpuRrr::new(&mut pages, rrr, &model.lists, page_bytes)?))
            }
            Scorer::Pq(pq) => {
                run_starts = GpuPq::run_starts(pq).collect();
                let has_base = router.is_some();
                let pq = GpuPq::new(&gpu, &mut pages, pq, &model.lists, has_base, page_bytes)?;
                GpuScorer::Pq(Box::new(pq))
            }
            Scorer::Cnn(cnn) => {
                run_starts = GpuCnn::run_starts(cnn).collect();
                GpuScorer::Cnn(Box::new(GpuCnn::new(&gpu, &mut pages, cnn, &model.lists, page_bytes)?))
            }
            Scorer::Rows(rows) => GpuScorer::Rows(GpuRows::new(
                &gpu,
                &mut pages,
                rows,
                n_positions,
                model.rows_metric(),
                page_bytes,
            )?),
        };
        let refine = match &model.refine {
            Some(rows) => {
                Some(GpuRows::new(&gpu, &mut pages, rows, model.n, model.frame.metric(), page_bytes)?)
            }
            None => None,
        };
        let mut lengths: Vec<usize> = (0..n_lists).map(|list| model.lists.range(list).len()).collect();
        let mut lists: Vec<[u32; 2]> = (0..n_lists)
            .map(|list| [narrow(model.lists.range(list).start), narrow(run_starts[list])])
            .collect();
        lists.push([narrow(n_positions), narrow(run_starts[n_lists])]);
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let mut largest = vec![0; n_lists + 1];
        for (i, length) in lengths.iter().enumerate() {
            largest[i + 1] = largest[i] + length;
        }
        let (tie, ties, wide_ids) = ties(model.lists.ids());
        let scratch = gpu.memory().map_or(u64::MAX, |memory| memory / 4);
        let buffer = gpu.max_binding().min(BUFFER_MAX).min(scratch);
        let by_point = upload(&gpu, "ids", bytemuck::cast_slice(&ties))?;
        let (mut points, mut by_position) = (None, by_point.clone());
        if let Some(at) = model.lists.points() {
            by_position = upload(&gpu, "ids by position", bytemuck::cast_slice(&ranks(&ties, at)))?;
            points = Some(upload(&gpu, "points", bytemuck::cast_slice(at))?);
        }
        let searcher = Self {
            lists: upload(&gpu, "lists", bytemuck::cast_slice(&lists))?,
            ties: Ties { by_position, by_point },
            points,
            tie,
            wide_ids,
            bounds: widths.bounds(largest, buffer, u64::from(gpu.grid_width()).pow(2)),
            widths,
            transform,
            router,
            scorer,
            refine,
            pages,
            scratch: ScratchPool::new(gpu.memory()),
            gpu,
        };
        searcher.pages.fill()?;
        Ok(searcher)
    }

    /// Whether any list has points of a round at these positions.
    fn touches(&self, model: &Model, round: &Round, positions: &std::ops::Range<usize>) -> bool {
        // Every list is read from its start in most rounds, and then every page is touched.
        (0..model.lists.len()).any(|list| {
            let range = model.lists.range(list);
            let (from, to) = (range.start + round.points.0, range.end.min(range.start + round.points.1));
            from.max(positions.start) < to.min(positions.end)
        })
    }

    /// What the device and the index say about each other, if anything is out of the ordinary.
    pub fn note(&self) -> String {
        if self.pages.stream() {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            format!(
                "; {:.1} MiB of the index stream through the {:.1} MiB that a budget of {:.1} MiB leaves beside scratch",
                mib(self.pages.total()),
                mib(self.pages.budget().unwrap_or_default()),
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
    pub fn search(
        &self,
        model: &Model,
        request: &Request<'_>,
        ids: &mut [u64],
        scores: &mut [f32],
        threads: usize,
        mut profile: Option<&mut Profile>,
    ) -> Result<(), SearchError> {
        let n = request.queries.n_rows();
        let effort = request.effort;
        let n_probe = effort.n_probe.min(model.lists.len() - model.lists.n_empty());
        // Among so many positions there are n_rerank points.
        let keep = effort.n_rerank * model.lists.sizes().n_copies;
        let plan = self.plan(n, n_probe, keep, request.k)?;
        let sizes = self.widths.sizes(&plan, n_probe, request.k, plan.rows.min(n));
        let _share = self.scratch.take(sizes.total() * if n > plan.rows { 2 } else { 1 });
        let mut in_flight: Option<(usize, usize, Lane, Submission)> = None;
        let mut first = 0;
        while first < n || in_flight.is_some() {
            let mut next = None;
            if first < n {
                let rows = plan.rows.min(n - first);
                let mut lane = self.scratch.lane();
                read_queries(model, request, first, threads, rows, &mut lane)?;
                let submission = self.submit(
                    model,
                    (&plan, n_probe, effort.n_rerank, request.k),
                    rows,
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
                self.scratch.give_back(lane);
            }
            in_flight = next;
        }
        Ok(())
    }

    /// How a batch runs, such that two chunks' scratch fits its half of a memory budget.
    fn plan(&self, n: usize, n_probe: usize, keep: usize, k: usize) -> Result<BatchPlan, GpuError> {
        let mut buffer = self.bounds.buffer;
        loop {
            let plan = self.bounds.plan_within(buffer, n, n_probe, keep, k)?;
            let lane =
                self.widths.sizes(&plan, n_probe, k, plan.rows.min(n)).total() + (plan.rows * k * 8) as u64;
            match self.gpu.memory() {
                Some(memory) if lane > memory / 4 => buffer = buffer / 4 * 3,
                _ => return Ok(plan),
            }
        }
    }

    /// Reads a chunk's results.
    #[allow(clippy::too_many_arguments, reason = "a chunk and where its results go")]
    fn take(
        &self,
        model: &Model,
        k: usize,
        rows: usize,
        lane: &Lane,
        submission: Submission,
        ids: &mut [u64],
        scores: &mut [f32],
    ) -> Result<(), GpuError> {
        let Some(read) = &lane.read else { return Ok(()) };
        let found: Vec<[u32; 2]> = finish_read_back(&self.gpu, read, rows * k, Some(submission))?;
        let by_rows = model.scores_rows();
        let common = lane.common.iter().flat_map(|&common| std::iter::repeat_n(common, k));
        for (((id, score), [key, tie]), common) in ids.iter_mut().zip(scores).zip(found).zip(common) {
            if key == NO_KEY {
                (*id, *score) = (NO_ID, model.frame.metric().worst_score());
                continue;
            }
            *id = match &self.wide_ids {
                Some(wide) => wide.get(tie as usize).copied().unwrap_or(NO_ID),
                None => u64::from(tie),
            };
            *score = model.frame.public_score(key_score(key), by_rows, common);
        }
        Ok(())
    }

    /// Records and submits a chunk.
    fn submit(
        &self,
        model: &Model,
        (plan, n_probe, n_rerank, k): (&BatchPlan, usize, usize, usize),
        rows: usize,
        lane: &mut Lane,
        profile: Option<&mut Profile>,
    ) -> Result<Submission, GpuError> {
        let scratch = lane.fit(&self.gpu, &self.widths.sizes(plan, n_probe, k, rows))?;
        let read_bytes = (rows * k * 8) as u64;
        if lane.read.as_ref().is_none_or(|read| read.size() < read_bytes) {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            lane.read = Some(self.gpu.create("results", read_bytes.next_power_of_two(), usage)?);
        }
        self.gpu.scoped("queries", || {
            self.gpu.queue().write_buffer(&scratch.queries, 0, bytemuck::cast_slice(&lane.host));
            if model.frame.splits_queries() {
                self.gpu.queue().write_buffer(&scratch.staged, 0, bytemuck::cast_slice(&lane.staged_host));
            }
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
            n_rerank,
            k,
        };
        chunk.record()?;
        let Chunk { mut recording, params, scratch, profile, .. } = chunk;
        if let Some(read) = &lane.read {
            recording.copy(&scratch.sorted, read, read_bytes);
        }
        let submission = recording.submit(params, profile)?;
        if let Some(read) = &lane.read {
            start_read_back::<[u32; 2]>(read, rows * k);
        }
        Ok(submission)
    }
}

/// Where a query enters the frame.
struct Entering<'a> {
    given: &'a mut [f32],
    common: &'a mut Option<f32>,
    /// Empty where the stages see what rows do.
    staged: &'a mut [f32],
}

/// Reads and checks a chunk's queries and brings them into the frame, rows padded to whole quads.
fn read_queries(
    model: &Model,
    request: &Request<'_>,
    first: usize,
    threads: usize,
    rows: usize,
    lane: &mut Lane,
) -> Result<(), SearchError> {
    use rayon::prelude::*;
    // A lane belongs to one index, so what pads its rows is zero from the first time on.
    let width = padded(model.dim);
    let Lane { host, staged_host, common, .. } = lane;
    host.resize(rows * width, 0.0);
    staged_host.resize(if model.frame.splits_queries() { rows * width } else { 0 }, 0.0);
    common.clear();
    common.resize(rows, None);
    let mut staged = staged_host.chunks_mut(width);
    let given = host.chunks_mut(width).zip(common);
    let queries: Vec<Entering<'_>> = given
        .map(|(given, common)| Entering { given, common, staged: staged.next().unwrap_or_default() })
        .collect();
    let read = |(i, Entering { given, common, staged }): (usize, Entering<'_>)| {
        request.query(model, first + i, &mut given[..model.dim])?;
        *common = model.frame.common_product(&given[..model.dim]);
        if !staged.is_empty() {
            staged.copy_from_slice(given);
            model.frame.staged(&mut staged[..model.dim]);
        }
        Ok::<(), VectorError>(())
    };
    if rows < 64 || threads == 1 {
        return Ok(queries.into_iter().enumerate().try_for_each(read)?);
    }
    // The first error in query order, whichever thread met one first.
    let done: Vec<_> = queries.into_par_iter().enumerate().map(read).collect();
    Ok(done.into_iter().collect::<Result<(), _>>()?)
}

/// The rank of each position by the tie of its point, copies of a point by position: selecting wants no two alike.
fn ranks(ties: &[u32], points: &[u32]) -> Vec<u32> {
    use rayon::prelude::*;
    let mut order: Vec<u32> = (0..narrow(points.len())).collect();
    order.par_sort_unstable_by_key(|&position| (ties[points[position as usize] as usize], position));
    let mut ranks = vec![0; order.len()];
    for (rank, position) in (0..).zip(order) {
        ranks[position as usize] = rank;
    }
    ranks
}

/// What orders equal scores: positions, or ids where they have 32 bits, else their ranks and the ids by rank.
fn ties(ids: &Ids) -> (Tie, Vec<u32>, Option<Vec<u64>>) {
    match ids {
        Ids::Points => (Tie::Item, Vec::new(), None),
        Ids::U32(ids) => (Tie::Id, ids.to_vec(), None),
        Ids::U64(ids) => {
            let mut wide: Vec<u64> = ids.to_vec();
            wide.sort_unstable();
            let rank = |id: &u64| narrow(wide.partition_point(|other| other < id));
            (Tie::Id, ids.iter().map(rank).collect(), Some(wide))
        }
    }
}
