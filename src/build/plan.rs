//! What a build and its index will take, before anything is built.
//!
//! - The **file** is laid out like a real one; only the lists' sizes are taken from a sample, and they decide no more than
//!   how much padding there is.
//! - **Memory** follows from what the build holds at its fullest stages.
//! - **Time** is measured: samples of the rows are built, with lists as full as they will be and then with as many as there
//!   will be (which decides how long points take to find theirs), and each stage's seconds are scaled by the operations that
//!   it takes on all rows.

use super::{BuildError, Contents, IndexBuilder, Progress, StageTime};
use crate::{
    format::{TensorDecl, file_len},
    frame::Frame,
    index::Index,
    lists::ListSizes,
    metric::Metric,
    network::conv,
    search::{Memory, SearchParams},
    spec::{IndexSpec, ScorerSpec},
    stage::{
        router,
        scorer::{cnn::CnnShape, pq, rrr::RrrShape},
        transform::{self, train::SAMPLE},
    },
    train::{generator, grouped, inrp::Training, kmeans, sample, sample_size},
    vectors::{Rows, Vectors},
};

/// Lists that a sample has, at least, where there are as many.
const SAMPLE_LISTS: usize = 8;

/// Times that each sample is built: the faster time of a stage counts, for what else a machine does only ever adds to it.
const SAMPLES: usize = 2;

/// Share of a training's steps that a sample does.
const TRAINED: usize = 10;

/// Time of an f32 product of the reduction, in int8 products of the partition. (Fitted to 28 partitions of three sets into 32
/// to 2 048 lists, AVX-512 with VNNI: seven in eight are within a fifth.)
const FLOAT: f64 = 3.6;

/// Lists that a point meets in the time that reading and rounding it takes, in the partition and where copies are sought.
const MEETING: f64 = 650.0;
const SPILLING: f64 = 200.0;

/// Bytes from which on freed memory goes back to the system at once, in glibc.
const KEPT_MAX: usize = 32 << 20;

/// What a build will take, and the index it makes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The specification, with every number filled in.
    pub spec: IndexSpec,
    /// The metric.
    pub metric: Metric,
    /// Vectors.
    pub n: usize,
    /// Dimensions.
    pub dim: usize,
    /// Bytes of the index file.
    pub n_bytes: usize,
    /// Bytes that the build holds at its peak, the index included, the vectors not.
    pub build_bytes: usize,
    /// Seconds that the build will take on this thread pool, stage by stage; saving the file comes on top.
    pub stages: Vec<StageTime>,
    /// Rows that the seconds were measured on; all of them if there are few.
    pub n_sampled: usize,
    frame: Frame,
    scorer_bytes: usize,
    /// Bytes that a GPU holds of the index.
    #[cfg(feature = "gpu")]
    gpu_bytes: usize,
    list_sizes: Vec<usize>,
}

impl Plan {
    /// Seconds of all stages.
    #[must_use]
    pub fn build_seconds(&self) -> f64 {
        self.stages.iter().map(|time| time.seconds).sum()
    }

    /// Bytes that searching batches of `n_queries` takes on the CPU, results included and queries not: all of the index,
    /// which the system may drop where it is mapped, and what is on its way on `params.threads`. Nothing where a search would
    /// refuse so large a result.
    #[must_use]
    pub fn cpu_bytes(&self, n_queries: usize, params: SearchParams) -> Option<usize> {
        Some(self.n_bytes + self.memory().cpu_scratch(n_queries, params)?)
    }

    /// Bytes of the device that searching batches of `n_queries` takes on a GPU without a budget; nothing where the
    /// device cannot search so.
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn gpu_bytes(&self, n_queries: usize, params: SearchParams) -> Option<u64> {
        Some(self.gpu_bytes as u64 + self.memory().gpu_scratch(n_queries, params)?)
    }

    fn memory(&self) -> Memory<'_> {
        Memory {
            spec: &self.spec,
            frame: &self.frame,
            n: self.n,
            dim: self.dim,
            scorer_bytes: self.scorer_bytes,
            list_sizes: &self.list_sizes,
        }
    }
}

impl IndexBuilder<'_> {
    /// Says what [`IndexBuilder::build`] would take, by building samples of an eighth of the vectors, at most 65 536: on
    /// the same thread pool, for the time depends on it.
    ///
    /// # Errors
    /// As [`IndexBuilder::build`]: all vectors are checked.
    pub fn plan(self, base: impl Vectors) -> Result<Plan, BuildError> {
        self.plan_of(&base)
    }

    fn plan_of(self, base: &dyn Vectors) -> Result<Plan, BuildError> {
        let (contents, _) = self.check(base)?;
        let Contents { spec, n, d, .. } = contents;
        let t = self.train_queries.map_or(n, Vectors::n_rows);
        let ListSizes { n_lists, n_copies, .. } = contents.sizes();
        let training = spec.transform.map(|transform| self.training_of(transform)).unwrap_or_default();
        let steps = training.steps;
        let all = Load { n, t, n_lists: n_lists.unwrap_or(1), d, s: contents.s(), steps };
        let part = all.sample(n_copies);
        let mut rng = generator(self.seed, "plan");
        let rows = Rows { vectors: base, rows: sample(&mut rng, n, part.n) };
        let queries = self
            .train_queries
            .map(|vectors| Rows { vectors, rows: sample(&mut rng, vectors.n_rows(), part.t) });
        // Lists as full as they will be, and then as many, which decides how long points take to find theirs.
        let many = Load { n_lists: all.n_lists.min(part.n), ..part };
        let crowded = IndexSpec { scorer: ScorerSpec::Sq8, refine: None, ..spec.with_lists(many.n_lists) };
        // Training takes as long on few rows as on all: some of its steps, and of the other sample none that counts.
        let part = Load { steps: all.steps.div_ceil(TRAINED), ..part };
        let many = Load { steps: all.steps.min(1), ..many };
        let samples = [(false, part, spec.with_lists(part.n_lists)), (true, many, crowded)];
        let mut stages: Vec<StageTime> = Vec::new();
        let mut sizes = Vec::new();
        for (done, (is_crowded, load, sample_spec)) in
            samples.into_iter().cycle().take(2 * SAMPLES).enumerate()
        {
            self.tell(Progress { stage: "samples", done: done as u64, total: 2 * SAMPLES as u64 });
            if is_crowded && spec.ivf.is_none() {
                continue;
            }
            let training = Training { steps: load.steps, checkpoint: None, ..training.clone() };
            let mut builder =
                Index::builder(sample_spec).metric(self.metric).seed(self.seed).training(training);
            if let Some(flag) = self.cancel {
                builder = builder.cancel(flag);
            }
            if let Some(queries) = &queries {
                builder = builder.train_queries(queries);
            }
            let (index, times) = builder.build_timed(&rows)?;
            if !is_crowded {
                sizes = index.list_sizes();
            }
            for StageTime { stage, seconds } in times {
                let finds_lists =
                    matches!(stage, "partition" | "copies" | "neighbours" | "routing" | "network");
                let seconds = seconds * all.of(stage, &spec) / load.of(stage, &spec);
                let seconds = if finds_lists == is_crowded { seconds } else { f64::INFINITY };
                match stages.iter_mut().find(|best| best.stage == stage) {
                    Some(best) => best.seconds = best.seconds.min(seconds),
                    // The first sample has the stages of all vectors, in their order.
                    None if !is_crowded => stages.push(StageTime { stage, seconds }),
                    None => {}
                }
            }
        }
        let list_sizes = stretch(&sizes, all.n_lists, contents.sizes().n_positions());
        let decls = contents.declare(list_sizes.iter().copied());
        let bytes = Bytes::of(&decls);
        Ok(Plan {
            n_bytes: file_len(&contents.metadata(), decls),
            build_bytes: bytes.peak(
                &contents,
                &all,
                &list_sizes,
                self.train_queries.is_some() || contents.frame.has_sides(),
            ),
            scorer_bytes: bytes.scorer,
            #[cfg(feature = "gpu")]
            gpu_bytes: bytes.on_gpu(&contents),
            stages,
            n_sampled: part.n,
            list_sizes,
            spec,
            metric: self.metric,
            frame: contents.frame,
            n,
            dim: d,
        })
    }
}

/// What decides how long the stages take.
#[derive(Clone, Copy)]
struct Load {
    /// Points.
    n: usize,
    /// Training queries.
    t: usize,
    n_lists: usize,
    d: usize,
    s: usize,
    /// Steps of a training.
    steps: usize,
}

impl Load {
    /// A part of the points, with lists as full unless these are very few.
    fn sample(self, n_copies: usize) -> Self {
        let lists = SAMPLE_LISTS.max(n_copies).min(self.n_lists);
        let n = sample_size(self.n);
        let share = n as f64 / self.n as f64;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most what it is a share of"
        )]
        let part = |of: usize| (of as f64 * share).round() as usize;
        Self { n, t: part(self.t).max(1), n_lists: part(self.n_lists).clamp(lists, n), ..self }
    }

    /// Operations of a stage, in a unit of its own.
    fn of(self, stage: &str, spec: &IndexSpec) -> f64 {
        let [n, t, l, d, s] = [self.n, self.t, self.n_lists, self.d, self.s].map(|v| v as f64);
        match stage {
            "check" => (n + t) * d,
            "training" => self.steps.max(1) as f64,
            "transform" => t.min(SAMPLE as f64) * d * d + 10.0 * d * d * d,
            "partition" => {
                let products = |transform| transform::n_products(transform, self.d, self.s);
                let reduced = n * spec.transform.map_or(0, products) as f64;
                let rounds = kmeans::LIST_ROUNDS.iter();
                let met: f64 =
                    rounds.map(|&(rounds, points)| rounds as f64 * (points as f64 * l).min(n)).sum();
                FLOAT * reduced + (met + n.max(t)) * (l + MEETING) * s
            }
            "copies" => n * (l + SPILLING) * s,
            "neighbours" => t.min(router::train::QUERIES as f64) * n * d,
            // As many times over as it takes, which a sample tells.
            "routing" => t.min(router::train::QUERIES as f64) * l * s,
            "network" => t.min(router::train::QUERIES as f64),
            // Each query trains the networks of some lists.
            "networks" => t * l.min(grouped::TRAIN_LISTS as f64),
            // A list's second moments and their decomposition, then the products with its points.
            "regressions" => l * 14.0 * s * s * s + n * spec.n_copies() as f64 * 2.0 * s * s,
            "codebooks" => match spec.scorer {
                ScorerSpec::Pq { bits, .. } => pq::train::meetings(bits, self.n * spec.n_copies()) as f64,
                _ => 1.0,
            },
            _ => n,
        }
    }
}

/// The lists of a sample over and over, until there are `n_lists`, which together hold `n_positions`.
fn stretch(sizes: &[usize], n_lists: usize, n_positions: usize) -> Vec<usize> {
    let cycle = || sizes.iter().cycle().take(n_lists);
    let share = n_positions as f64 / cycle().sum::<usize>().max(1) as f64;
    let mut held = 0;
    let mut ends = 0;
    cycle()
        .map(|&size| {
            ends += size;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at most the positions"
            )]
            let end = ((ends as f64 * share).round() as usize).min(n_positions);
            let size = end - held;
            held = end;
            size
        })
        .collect()
}

/// Bytes of an index file's tensors.
struct Bytes {
    scorer: usize,
    refine: usize,
    all: usize,
}

impl Bytes {
    fn of(decls: &[TensorDecl]) -> Self {
        let of = |names: &[&str]| {
            let named = decls.iter().filter(|decl| names.iter().any(|name| decl.name().starts_with(name)));
            named.map(TensorDecl::n_bytes).sum()
        };
        Self { scorer: of(&["rrr.", "pq.codes", "cnn.", "rows."]), refine: of(&["refine."]), all: of(&[""]) }
    }

    /// What a build holds at its peak, beside the vectors.
    fn peak(&self, contents: &Contents, load: &Load, list_sizes: &[usize], has_queries: bool) -> usize {
        let Load { n, t, n_lists, d, s, .. } = *load;
        let spec = &contents.spec;
        let positions = contents.sizes().n_positions();
        let is_classified = CnnShape::of(spec, d).is_some();
        let is_regressed = matches!(spec.scorer, ScorerSpec::Rrr { .. }) || is_classified;
        let has_codes = matches!(spec.scorer, ScorerSpec::Pq { .. });
        let reduces = spec.transform.is_some() || has_codes || is_regressed;
        let threads = rayon::current_num_threads();

        let checked = if contents.plain_ids { 0 } else { 8 * n };
        // Queries that axes are found for, and matrices of d × d.
        let (seen, squares) = match spec.transform {
            Some(transform) => {
                let rows = if transform.is_trained() && has_queries {
                    n.min(SAMPLE / 2) + t.min(SAMPLE / 2)
                } else {
                    t.min(SAMPLE)
                };
                let seen = if transform.is_trained() {
                    // The sample as it is and as networks see it; then what comes out of it, and the training.
                    (4 * 2 * d * rows).max(4 * (d + s) * rows + transform::training_bytes(transform, d, s))
                } else {
                    4 * d * rows
                };
                (seen, (8 + threads) * 4 * d * d)
            }
            None => (0, 0),
        };
        // Rows as scorers see them; lists by point and points by list.
        let points = 4 * n * s;
        let arrangement = 4 * positions + if positions > n { 4 * n } else { 0 } + 16 * n_lists;
        // The nearest lists of each training query, and the queries of each list.
        let near = if is_regressed { 4 * t * grouped::TRAIN_LISTS.min(n_lists) } else { 0 };
        let is_learned = spec.ivf.is_some_and(|ivf| ivf.router.is_trained());
        let visitors = if has_queries && (is_regressed || is_learned) { 4 * t * s } else { 0 };
        // Points in int8, queries, their neighbours and the lists of these; weights, the best ones and AdamW's moments.
        let network = spec.ivf.and_then(|ivf| ivf.router.width());
        let network = network.map_or(0, |width| {
            conv::Shape { s, width, channels: 1 }.training_bytes(router::train::SCHEDULE.batch)
        });
        let routing = if is_learned {
            let asked = t.min(router::train::QUERIES);
            let lists = 4 * router::train::NEIGHBOURS * (1 + spec.n_copies());
            let scored = router::train::HELD_OUT.min(asked) + router::train::SCHEDULE.batch;
            n * (d + 6) + asked * (4 * (s + d) + lists) + 4 * n_lists * (6 * s + scored) + network
        } else {
            0
        };
        let centroids = 6 * n_lists * s;
        let classified = CnnShape::of(spec, d).map_or(0, |shape| {
            let largest = list_sizes.iter().copied().max().unwrap_or(0);
            threads * shape.training_bytes(largest, t * grouped::TRAIN_LISTS.min(n_lists) / n_lists.max(1), d)
        });
        let partition = match spec.ivf {
            Some(_) => points + visitors + arrangement + 4 * n + (2 * near).max(routing) + centroids,
            None => 0,
        };
        // Residuals that codebooks are trained on, and for the score-aware loss their directions.
        let trained = match spec.scorer {
            ScorerSpec::Pq { bits, threshold, .. } => {
                let floats = if threshold.is_some() { 2 } else { 1 };
                4 * floats * s * positions.min(pq::train::sample_rows(bits))
            }
            _ => 0,
        };
        let held = if reduces { points + visitors + near + centroids } else { 0 };
        // The points of a list, five times over, on every thread, of which not all are at their fullest at once.
        let mut largest = list_sizes.to_vec();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        let others: usize = largest.iter().take(threads).skip(1).sum();
        let fitted = RrrShape::of(spec, d, contents.frame.stages()).map_or(0, |shape| {
            4 * (5 * s + 2 * shape.rank) * (largest.first().copied().unwrap_or_default() + others / 2)
        });
        let scorer = held + arrangement + trained + fitted + classified + self.all - self.refine;
        let rows = arrangement + self.all;
        // Of what is freed in small pieces allocators keep some for later, where only part of it is of use.
        let small = |n_bytes: usize| if n_bytes < KEPT_MAX { n_bytes } else { 0 };
        let kept = (small(seen) + small(squares)) / 2;
        checked.max(seen + squares).max(kept + partition.max(scorer).max(rows))
    }

    /// What a GPU holds of the index: its tensors, ids in 32 bits, and by position as well where there are copies.
    #[cfg(feature = "gpu")]
    fn on_gpu(&self, contents: &Contents) -> usize {
        let ListSizes { n, n_copies, .. } = contents.sizes();
        let narrowed = if contents.wide_ids { 4 * n } else { 0 };
        let by_position = if n_copies > 1 { 4 * n * n_copies } else { 0 };
        self.all + by_position - narrowed
    }
}
