//! What a query takes on the device, by what its index is made of.

use super::{
    lane::Sizes,
    padded,
    plan::{BatchPlan, Bounds},
};
use crate::{
    codes::PqShape,
    frame::Frame,
    gpu::{GpuError, kernel::Plan, layout::Head},
    network::conv::gpu as conv,
    spec::{IndexSpec, TransformSpec},
    stage::{
        router::RouterShape,
        scorer::{cnn::CnnShape, rrr::RrrShape},
        transform::{cnt, gpu::Rooms, linear},
    },
};

/// Bytes of a buffer, at most: beyond 128 MiB it holds more candidates than a chunk of queries has use for.
pub(super) const BUFFER_MAX: u64 = 128 << 20;

/// What one query takes in each buffer.
pub(super) struct Widths {
    dim: usize,
    /// Reduced dimensions.
    pub s: usize,
    /// Codes of a reduced query, in 16s.
    pub steps: usize,
    n_lists: usize,
    has_transform: bool,
    splits_queries: bool,
    has_router: bool,
    has_copies: bool,
    /// Codes of a query as given, in 16s, where the transform wants them.
    query_steps: usize,
    /// Bytes that a network works in.
    network: Rooms<usize>,
    /// Bytes that convolutional networks work in: of a query's router, of a pair's scorer.
    router_rooms: conv::Rooms<usize>,
    scorer_rooms: conv::Rooms<usize>,
    /// Components a pair is projected to, and its codes, in 16s.
    t_len: usize,
    t_steps: usize,
    /// Lookup tables, and the entries of one.
    n_tables: usize,
    n_words: usize,
}

impl Widths {
    /// The widths for a resolved specification.
    pub fn of(spec: &IndexSpec, frame: &Frame, dim: usize, n_lists: usize) -> Self {
        let metric = frame.stages();
        let s = spec.scored_dims(dim);
        let is_int8 = spec.transform.is_some_and(TransformSpec::is_int8);
        let network = match spec.transform {
            Some(TransformSpec::Cnt { sizes, .. }) => Rooms::of(&cnt::Shape::new(dim, s, sizes)),
            _ => Rooms::default(),
        };
        let mut widths = Self {
            dim,
            s,
            steps: (s - 1).div_ceil(16),
            n_lists,
            has_transform: spec.transform.is_some(),
            splits_queries: frame.splits_queries(),
            has_router: spec.ivf.is_some(),
            has_copies: spec.n_copies() > 1,
            query_steps: if is_int8 { linear::query_len(dim).div_ceil(16) } else { 0 },
            network,
            router_rooms: conv::Rooms::default(),
            scorer_rooms: conv::Rooms::default(),
            t_len: 0,
            t_steps: 0,
            n_tables: 0,
            n_words: 0,
        };
        if let Some(shape) = RrrShape::of(spec, dim, metric) {
            (widths.t_len, widths.t_steps) = (shape.rank + 1, shape.b.query_len().div_ceil(16));
        }
        if let Some(shape) = CnnShape::of(spec, dim) {
            (widths.t_len, widths.t_steps) = (s, shape.points.query_len().div_ceil(16));
            widths.scorer_rooms = conv::Rooms::of(&shape.network);
        }
        let router = RouterShape::of(spec, dim, metric).and_then(RouterShape::network);
        widths.router_rooms = router.as_ref().map(conv::Rooms::of).unwrap_or_default();
        if let Some(shape) = PqShape::of(spec, dim, metric) {
            (widths.n_tables, widths.n_words) = (shape.n_tables(), shape.n_words());
        }
        widths
    }

    /// The bounds of chunks for lists whose p largest hold `largest[p]` points, buffers of at most `buffer` bytes and
    /// dispatches of at most `groups` workgroups.
    pub fn bounds(&self, largest: Vec<usize>, buffer: u64, groups: u64) -> Bounds {
        Bounds {
            largest,
            row_bytes: (padded(self.dim).max(padded(self.s)) * 4)
                .max(self.n_tables * self.n_words.max(4))
                .max(self.network.most())
                .max(self.router_rooms.wide),
            slot_bytes: (self.t_len * 4).max(self.t_steps * 16).max(self.scorer_rooms.wide).max(8),
            buffer,
            groups,
        }
    }

    /// The buffers of a chunk of `rows` queries.
    pub fn sizes(&self, plan: &BatchPlan, n_probe: usize, k: usize, rows: usize) -> Sizes {
        let n_lists = self.n_lists;
        let slots = rows * plan.rounds.iter().map(|round| round.n_probes).max().unwrap_or(1);
        let cluster = usize::from(plan.plan == Plan::ClusterMajor);
        let moves = usize::from(self.router_rooms.wide > 0);
        let routed = if self.has_router { rows * n_lists } else { 0 };
        Sizes {
            queries: rows * padded(self.dim) * 4,
            staged: if self.splits_queries { rows * padded(self.dim) * 4 } else { 0 },
            reduced: if self.has_transform { rows * padded(self.s) * 4 } else { 0 },
            query_codes: rows * self.query_steps * 16,
            query_heads: if self.query_steps > 0 { rows * size_of::<Head>() } else { 0 },
            net_wide: rows * self.network.wide,
            net_keys: rows * self.network.keys,
            net_hidden: rows * self.network.hidden,
            net_seen: rows * self.network.seen,
            conv_wide: (rows * self.router_rooms.wide).max(slots * self.scorer_rooms.wide),
            conv_between: (rows * self.router_rooms.between).max(slots * self.scorer_rooms.between),
            moved: moves * rows * self.s * 4,
            moved_codes: moves * rows * self.steps * 16,
            moved_heads: moves * rows * size_of::<Head>(),
            codes: rows * self.steps * 16,
            heads: rows * 16,
            candidates: (rows * plan.stride).max(routed) * 8,
            states: rows * 8,
            routed: rows * n_probe * 8,
            pair_counts: n_lists * 4,
            pair_ranks: cluster * slots * 4,
            groups: (n_lists + 1) * 8,
            slots: cluster * slots * 8,
            projected: slots * self.t_len * 4,
            t_codes: slots * self.t_steps * 16,
            t_heads: if self.t_len > 0 { slots * 16 } else { 0 },
            merged: if self.has_copies { rows * plan.keep * 8 } else { 0 },
            table_lows: rows * self.n_tables * 4,
            table_bytes: rows * self.n_tables * self.n_words,
            table_heads: if self.n_tables > 0 { rows * 8 } else { 0 },
            sorted: rows * k * 8,
        }
    }
}

/// Bytes of the scratch that `n` queries take on a device without a budget, for lists whose p largest hold `largest[p]`
/// positions.
///
/// # Errors
/// [`GpuError::TooLarge`] where not even one query fits.
pub(crate) fn scratch_bytes(
    (spec, frame, dim): (&IndexSpec, &Frame, usize),
    largest: Vec<usize>,
    (n, k): (usize, usize),
    (n_probe, n_rerank): (usize, usize),
) -> Result<u64, GpuError> {
    let widths = Widths::of(spec, frame, dim, largest.len() - 1);
    // What every device has: larger ones are not used otherwise.
    let groups = u64::from(wgpu::Limits::default().max_compute_workgroups_per_dimension).pow(2);
    let bounds = widths.bounds(largest, BUFFER_MAX, groups);
    let plan = bounds.plan_within(BUFFER_MAX, n, n_probe, n_rerank * spec.n_copies(), k)?;
    let rows = plan.rows.min(n);
    let results = ((rows * k * 8) as u64).next_power_of_two();
    let lane = widths.sizes(&plan, n_probe, k, rows).roomy(BUFFER_MAX) + results;
    Ok(if n > plan.rows { 2 * lane } else { lane })
}
