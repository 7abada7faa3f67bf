//! Building an index: the stages are trained in pipeline order, then written into one image.
//!
//! Memory: the image, plus the vectors in the reduced space while lists and regressions are trained. These
//! are dropped before rows are written, and the image's pages take no memory before they are written,
//! so the peak stays below 2.5 times the vectors as f32. On top come, for transforms, some matrices of d × d, which count
//! where there are not many more vectors than dimensions, and for regressions five times the points of a list a thread,
//! which count where lists are few.

mod contents;
mod error;
mod objective;
mod partition;
mod plan;
mod progress;
mod source;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rayon::prelude::*;

pub(crate) use self::contents::ZERO_ROWS;
use self::source::{Asked, Checked, Role, Source, divide, widen};
use self::{contents::Contents, partition::Partition, progress::Clock};
pub use self::{
    error::BuildError,
    plan::Plan,
    progress::{Progress, StageTime},
};
use crate::{
    codes::PqShape,
    format::ImageBuilder,
    frame::Frame,
    index::Index,
    lists::{self, Arrangement},
    metric::Metric,
    rows::{self, REFINE_ROWS, Rounding, RowStore, SCORER_ROWS},
    spec::{CNN_POINTS_MAX, IndexSpec, IvfSpec, Milli, RowDtype, ScorerSpec, TransformSpec},
    stage::{
        router::{self, Router},
        scorer::{
            cnn::{self, CnnShape},
            pq,
            rrr::{self, RrrShape},
        },
        transform::train::{self as transform, TrainError, Trained},
    },
    topk::NO_ID,
    train::{ReadRows, generator, inrp::Training},
    vectors::{Vectors, check_shape},
};

/// What vectors are called in errors.
const VECTORS: &str = "vectors";
const TRAINING_QUERIES: &str = "training queries";

/// The metadata entry of how lists were tried, where they were.
const PARTITION: &str = "partition";

type Callback<'a> = dyn Fn(Progress) + Sync + 'a;

/// Options of a build; see [`Index::builder`].
pub struct IndexBuilder<'a> {
    spec: IndexSpec,
    metric: Metric,
    seed: u64,
    ids: Option<&'a [u64]>,
    train_queries: Option<&'a dyn Vectors>,
    progress: Option<&'a Callback<'a>>,
    cancel: Option<&'a AtomicBool>,
    training: Option<Training>,
    clock: Mutex<Clock>,
}

impl IndexBuilder<'static> {
    pub(crate) fn new(spec: IndexSpec) -> Self {
        Self {
            spec,
            metric: Metric::L2,
            seed: 0,
            ids: None,
            train_queries: None,
            progress: None,
            cancel: None,
            training: None,
            clock: Mutex::default(),
        }
    }
}

impl<'a> IndexBuilder<'a> {
    /// The metric; [`Metric::L2`] unless set.
    #[must_use]
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// Seed of every random choice: the same seed and data give the same bytes; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Ids of the rows, each once; row numbers unless set.
    #[must_use]
    pub fn ids(mut self, ids: &'a [u64]) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Queries like those to come, `[t, d]`, where they differ in kind from the points (out of
    /// distribution): the reduction and the regressions are fitted to them.
    #[must_use]
    pub fn train_queries(mut self, queries: &'a dyn Vectors) -> Self {
        self.train_queries = Some(queries);
        self
    }

    /// Called as the build goes on, from several threads.
    #[must_use]
    pub fn progress(mut self, callback: &'a Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// A flag that ends the build soon after somebody sets it: between iterations, steps of training, lists and rows.
    #[must_use]
    pub fn cancel(mut self, flag: &'a AtomicBool) -> Self {
        self.cancel = Some(flag);
        self
    }

    /// How `LIN` and `CNT` are trained; [`Training::of`] the transform unless set.
    #[must_use]
    pub fn training(mut self, training: Training) -> Self {
        self.training = Some(training);
        self
    }

    /// Builds the index on rayon's current thread pool.
    ///
    /// # Errors
    /// [`BuildError`] names the argument, what was expected and what was given.
    pub fn build(self, base: impl Vectors) -> Result<Index, BuildError> {
        Ok(self.build_timed(base)?.0)
    }

    /// [`IndexBuilder::build`], and how long its stages took, in their order.
    ///
    /// # Errors
    /// As [`IndexBuilder::build`].
    pub fn build_timed(self, base: impl Vectors) -> Result<(Index, Vec<StageTime>), BuildError> {
        let index = self.index(&base)?;
        Ok((index, self.clock.into_inner().unwrap_or_else(PoisonError::into_inner).stop()))
    }

    fn index(&self, base: &dyn Vectors) -> Result<Index, BuildError> {
        let (mut contents, range) = self.check(base)?;
        let Contents { mut spec, n, d, ref frame, .. } = contents;
        let metric = frame.stages();
        let rounding = Rounding { limit: contents.limit, unit: frame.unit_rest() };
        let queries = self.asked(base, frame);
        let base = Source { vectors: base, frame, role: Role::Point, what: VECTORS };

        let transform = spec.transform.map(|spec| self.find(spec, base.vectors, frame)).transpose()?;
        let s = spec.scored_dims(d);

        let (arrangement, partition) = match spec.ivf {
            Some(ivf) => {
                let (arrangement, partition) =
                    self.partition(spec, ivf, &base, queries.as_ref(), transform.as_ref());
                if let Some(outcome) = &partition.objective
                    && outcome.takes_distance()
                {
                    spec.ivf = Some(IvfSpec { threshold: Some(Milli(0)), ..ivf });
                }
                (arrangement, Some(partition))
            }
            None => (Arrangement::plain(n), None),
        };

        self.go_on()?;
        contents.spec = spec;
        let mut metadata = contents.metadata();
        if let Some(outcome) = partition.as_ref().and_then(|partition| partition.objective.as_ref()) {
            metadata.insert(PARTITION.to_owned(), outcome.to_string());
        }
        let found = transform.iter().flat_map(Trained::found);
        metadata.extend(found.map(|(key, value)| (key.to_owned(), value.to_owned())));
        if let Some(router) = partition.as_ref().and_then(|partition| partition.router.as_ref()) {
            metadata.insert(router::train::ROUTING.to_owned(), router.outcome.to_string());
        }
        if matches!(spec.scorer, ScorerSpec::Cnn { .. }) {
            if let Some(given) = arrangement.sizes().find(|&size| size > CNN_POINTS_MAX) {
                return Err(IndexSpec::list_too_large(given).into());
            }
            metadata.insert(cnn::NETWORKS_KEY.to_owned(), " ".repeat(cnn::NETWORKS_ROOM));
        }
        let mut image = ImageBuilder::new(metadata, contents.declare(arrangement.sizes()))?;
        let mut parts = image.parts();
        lists::write(&mut parts, &arrangement, |row| match self.ids {
            Some(ids) => ids[row as usize],
            None => u64::from(row),
        });
        frame.write(&mut parts);
        if let Some(transform) = &transform {
            transform.write(&mut parts);
        }
        if let Some(partition) = &partition {
            Router::write(&partition.centroids, metric, &mut parts);
            if let Some(router) = &partition.router {
                Router::write_trained(&router.weights, router.network.as_ref(), &mut parts);
            }
        }
        let mut trained = None;
        if let Some(shape) = CnnShape::of(&spec, d) {
            // The grammar asks for lists before networks.
            if let Some(partition) = partition {
                trained =
                    self.classify(shape, (&base, queries.as_ref()), &arrangement, &partition, &mut parts);
            }
        } else if let Some(shape) = RrrShape::of(&spec, d, metric) {
            // The grammar asks for lists before regressions.
            if let Some(partition) = partition {
                self.regress(shape, metric, &arrangement, &partition, &mut parts);
            }
        } else if let Some(shape) = PqShape::of(&spec, d, metric) {
            self.quantise(shape, spec, &base, transform.as_ref(), &arrangement, partition, &mut parts);
        } else if let Some(dtype) = spec.scorer_rows() {
            let rows = &arrangement.rows;
            if transform.is_some() {
                self.report("rows", 0, n as u64);
                let points = partition.map_or_else(|| base.reduced(transform.as_ref()), |p| p.points);
                let mut range = vec![(f32::INFINITY, f32::NEG_INFINITY); s];
                let mut row = Vec::new();
                for point in points.chunks_exact(s) {
                    row.clear();
                    row.extend_from_slice(point);
                    if let Some(limit) = contents.limit {
                        divide(&mut row, limit);
                    }
                    widen(&mut range, &row);
                }
                let rounding = Rounding { limit: contents.limit, unit: None };
                self.write_rows(&SCORER_ROWS, dtype, &mut parts, (&range, rounding), rows, |row, out| {
                    out.copy_from_slice(&points[row * s..(row + 1) * s]);
                });
            } else {
                drop(partition);
                self.write_rows(&SCORER_ROWS, dtype, &mut parts, (&range, rounding), rows, |row, out| {
                    base.read(row, out);
                });
            }
        }
        if let Some(dtype) = spec.refine {
            self.go_on()?;
            let rows = arrangement.by_point();
            self.write_rows(&REFINE_ROWS, dtype, &mut parts, (&range, rounding), rows, |row, out| {
                base.read(row, out);
            });
        }
        if let Some(trained) = trained {
            image.describe(cnn::NETWORKS_KEY, trained);
        }
        self.go_on()?;
        Ok(Index::from_image(image.finish()?)?)
    }

    /// How a transform is trained.
    fn training_of(&self, spec: TransformSpec) -> Training {
        self.training.clone().unwrap_or_else(|| Training::of(spec))
    }

    /// Training queries, where the stages do not see them as they see points.
    fn asked<'v>(&'v self, base: &'v dyn Vectors, frame: &'v Frame) -> Option<Asked<'v>> {
        let source = |vectors, what| Source { vectors, frame, role: Role::Query, what };
        match self.train_queries {
            Some(vectors) => Some(Asked { source: source(vectors, TRAINING_QUERIES), are_points: false }),
            None if frame.has_sides() => Some(Asked { source: source(base, VECTORS), are_points: true }),
            None => None,
        }
    }

    /// Finds the transform of vectors in their frame.
    pub(crate) fn find(
        &self,
        spec: TransformSpec,
        base: &dyn Vectors,
        frame: &Frame,
    ) -> Result<Trained, BuildError> {
        let queries = self.asked(base, frame);
        let base = Source { vectors: base, frame, role: Role::Point, what: VECTORS };
        let request = transform::Request {
            spec,
            metric: frame.stages(),
            seed: self.seed,
            points: &base,
            queries: queries.as_ref().map(|queries| &queries.source as &dyn ReadRows),
            are_points: queries.is_none_or(|queries| queries.are_points),
            training: &self.training_of(spec),
            report: &|stage, done, total| self.report(stage, done, total),
            step: &|done, total| self.report("training", done, total),
        };
        let found = transform::train(&request);
        self.report("transform", 1, 1);
        self.go_on()?;
        found.map_err(|e| match e {
            TrainError::Checkpoint(e) => BuildError::Checkpoint(e),
            TrainError::Memory(e) => BuildError::Memory(e),
            TrainError::Stopped => BuildError::Cancelled,
            TrainError::Invalid(e) => BuildError::Invalid(e),
            #[cfg(not(feature = "neural"))]
            TrainError::NoNeural => BuildError::NoNeural,
        })
    }

    /// Checks everything that is given; returns what the file will hold and each dimension's range.
    pub(crate) fn check(&self, base: &dyn Vectors) -> Result<(Contents, Vec<(f32, f32)>), BuildError> {
        let (n, d) = (base.n_rows(), base.dim());
        check_shape(VECTORS, n, d, None)?;
        let spec = self.spec.resolve(n, d)?;
        if let Some(training) = &self.training {
            let unfit = |(argument, expected, got)| BuildError::Training { argument, expected, got };
            training.validate().map_err(unfit)?;
        }
        if cfg!(not(feature = "neural")) && spec.has_networks() {
            return Err(BuildError::NoNeural);
        }
        let n_positions = n.saturating_mul(spec.n_copies());
        if n_positions >= u32::MAX as usize {
            return Err(BuildError::TooMany { got: n_positions });
        }
        if let Some(queries) = self.train_queries {
            check_shape(TRAINING_QUERIES, queries.n_rows(), queries.dim(), Some(d))?;
        }
        let widest = self.check_ids(n)?;
        let plain = Frame::plain(self.metric);
        let source = |vectors, frame, role, what| Source { vectors, frame, role, what };
        let frame = Frame::find(self.metric, &source(base, &plain, Role::Point, VECTORS), self.seed);
        let points = source(base, &frame, Role::Point, VECTORS);
        let is_bytes = spec.refine == Some(RowDtype::Sq8) || spec.scorer_rows() == Some(RowDtype::Sq8);
        let limit =
            is_bytes.then(|| rows::limit(points.usual_length(self.seed))).filter(|&limit| limit > 0.0);
        let Checked { range, scaled, n_zero_rows, has_long } = points.check(self, limit)?;
        self.go_on()?;
        let half = source::check_half(&range, points.usual_value(self.seed));
        if spec.refine == Some(RowDtype::F16) {
            half.clone()?;
        }
        if let Some(vectors) = self.train_queries {
            source(vectors, &frame, Role::Query, TRAINING_QUERIES).check(self, None)?;
        }
        let contents = Contents {
            spec,
            frame,
            limit: limit.filter(|_| has_long),
            fits_half: half.is_ok(),
            n,
            d,
            seed: self.seed,
            plain_ids: self.ids.is_none(),
            wide_ids: widest > u64::from(u32::MAX),
            n_zero_rows,
        };
        Ok((contents, if limit.is_some() { scaled } else { range }))
    }

    /// Tells how far the build is; returns whether it goes on.
    fn report(&self, stage: &'static str, done: u64, total: u64) -> bool {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).enter(stage);
        self.tell(Progress { stage, done, total });
        !self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn tell(&self, progress: Progress) {
        if let Some(callback) = self.progress {
            callback(progress);
        }
    }

    /// Ends the build where it is cancelled.
    fn go_on(&self) -> Result<(), BuildError> {
        match self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(BuildError::Cancelled),
            _ => Ok(()),
        }
    }

    /// Checks the ids; returns the largest.
    fn check_ids(&self, n: usize) -> Result<u64, BuildError> {
        let Some(ids) = self.ids else { return Ok(n as u64 - 1) };
        if ids.len() != n {
            return Err(BuildError::IdCount { expected: n, got: ids.len() });
        }
        let mut sorted = ids.to_vec();
        sorted.par_sort_unstable();
        let last = sorted.last().copied().unwrap_or_default();
        if last == NO_ID {
            return Err(BuildError::IdReserved);
        }
        match sorted.windows(2).find(|w| w[0] == w[1]) {
            Some(pair) => Err(BuildError::IdTwice { id: pair[0] }),
            None => Ok(last),
        }
    }

    fn regress(
        &self,
        shape: RrrShape,
        metric: Metric,
        arrangement: &Arrangement,
        lists: &Partition,
        parts: &mut BTreeMap<&'static str, &mut [u8]>,
    ) {
        let total = arrangement.offsets.len() as u64 - 1;
        let done = AtomicU64::new(0);
        self.report("regressions", 0, total);
        let [points, queries] = lists.grouped(arrangement);
        let mut rng = generator(self.seed, "regressions");
        let are_points = self.train_queries.is_none();
        rrr::train::write(shape, metric, &points, (&queries, are_points), &mut rng, parts, || {
            self.report("regressions", done.fetch_add(1, Ordering::Relaxed) + 1, total)
        });
    }

    /// Trains a network for each list; returns how that went.
    #[cfg(not(feature = "neural"))]
    fn classify(
        &self,
        _: CnnShape,
        _: (&Source<'_>, Option<&Asked<'_>>),
        _: &Arrangement,
        _: &Partition,
        _: &mut BTreeMap<&'static str, &mut [u8]>,
    ) -> Option<String> {
        // Refused when the specification was checked.
        None
    }

    /// Trains a network for each list; returns how that went.
    #[cfg(feature = "neural")]
    fn classify(
        &self,
        shape: CnnShape,
        (base, queries): (&Source<'_>, Option<&Asked<'_>>),
        arrangement: &Arrangement,
        lists: &Partition,
        parts: &mut BTreeMap<&'static str, &mut [u8]>,
    ) -> Option<String> {
        let total = arrangement.offsets.len() as u64 - 1;
        let done = AtomicU64::new(0);
        self.report("networks", 0, total);
        let [points, asked] = lists.grouped(arrangement);
        let input = cnn::train::Input {
            metric: base.frame.stages(),
            seed: self.seed,
            centroids: &lists.centroids.values,
            points,
            queries: asked,
            given_points: base,
            given_queries: queries.map_or(base as &dyn ReadRows, |queries| &queries.source),
            are_points: queries.is_none_or(|queries| queries.are_points),
        };
        let step = || {
            self.report("networks", done.fetch_add(1, Ordering::Relaxed) + 1, total);
        };
        let outcome = cnn::train::write(shape, &input, parts, step, || self.go_on().is_ok());
        Some(outcome.to_string())
    }

    /// Trains the codebooks and writes the codes.
    #[allow(clippy::too_many_arguments, reason = "what codes are made of, one thing each")]
    fn quantise(
        &self,
        shape: PqShape,
        spec: IndexSpec,
        base: &Source<'_>,
        transform: Option<&Trained>,
        arrangement: &Arrangement,
        partition: Option<Partition>,
        parts: &mut BTreeMap<&'static str, &mut [u8]>,
    ) {
        let (points, centres) = match partition {
            Some(partition) => {
                let centres = Router::rounded(&partition.centroids, base.frame.stages());
                (partition.points, Some(centres))
            }
            None => (base.reduced(transform), None),
        };
        let input = pq::train::Input::new(shape, &points, arrangement, centres.as_ref());
        let threshold = match spec.scorer {
            ScorerSpec::Pq { threshold, .. } => threshold.map(Milli::value),
            _ => None,
        };
        let mut rng = generator(self.seed, "codebooks");
        pq::train::write(shape, threshold, &input, &mut rng, parts, |stage, done, total| {
            self.report(stage, done, total)
        });
    }

    fn write_rows(
        &self,
        names: &crate::rows::RowNames,
        dtype: RowDtype,
        parts: &mut BTreeMap<&'static str, &mut [u8]>,
        (range, rounding): (&[(f32, f32)], Rounding<'_>),
        rows: &[u32],
        read: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let total = rows.len() as u64;
        let done = AtomicU64::new(0);
        let stops = AtomicBool::new(false);
        RowStore::write(names, dtype, parts, range, rounding, |position, out| {
            if stops.load(Ordering::Relaxed) {
                return;
            }
            read(rows[position] as usize, out);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if (done.is_multiple_of(1024) || done == total) && !self.report("rows", done, total) {
                stops.store(true, Ordering::Relaxed);
            }
        });
    }
}
