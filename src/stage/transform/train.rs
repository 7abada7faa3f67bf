//! Finding transforms.

use std::{collections::BTreeMap, sync::Arc};

use faer::{Mat, MatRef};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Kind, Transform, cnt, linear, scales_queries};
use crate::{
    format::{Image, ImageBuilder, OpenError, PLAIN},
    frame::Frame,
    metric::Metric,
    simd::Simd,
    spec::{LinearMap, TransformSpec},
    train::{
        ReadRows, generator,
        inrp::{self, CheckpointError, Standard, Training},
        linalg, sample,
    },
};

/// Rows that principal axes are found on, at most, as in LoRANN: 16 384 fix a second moment.
pub(crate) const SAMPLE: usize = 16_384;

/// Pairs that the mean distance is taken of.
const PAIRS: usize = 10_000;

/// Points, queries and neighbours that decide whether lengths are kept.
const TRIED_POINTS: usize = 2048;
const TRIED_QUERIES: usize = 512;
const TRIED_NEIGHBOURS: usize = 10;

/// The metadata entry of how a transform was trained.
const TRAINING: &str = "training";

/// The metadata entry of whether points are scaled to the length that they had.
const LENGTHS: &str = "lengths";

/// Its value where they are.
const KEPT: &str = "kept";

/// Rows that a network is run on together.
const CHUNK: usize = 64;

/// What a transform is found for, and from.
pub(crate) struct Request<'a> {
    /// Resolved.
    pub spec: TransformSpec,
    pub metric: Metric,
    pub seed: u64,
    pub points: &'a dyn ReadRows,
    /// Queries of another kind than the points.
    pub queries: Option<&'a dyn ReadRows>,
    /// The queries are the points, row by row, as the stages see queries.
    pub are_points: bool,
    pub training: &'a Training,
    /// Told of each step of a stage; `false` stops, and then the result is of no use.
    pub report: &'a dyn Fn(&'static str, u64, u64) -> bool,
    /// The same for steps of training.
    pub step: &'a dyn Fn(u64, u64) -> bool,
}

/// A transform that cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrainError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{0}")]
    Memory(#[from] std::io::Error),
    #[error("stopped")]
    Stopped,
    #[error(transparent)]
    Invalid(#[from] OpenError),
    #[cfg(not(feature = "neural"))]
    #[error("CNT is trained by builds with the feature `neural` only")]
    NoNeural,
}

/// A transform, in an image of its own until an index takes it over.
#[derive(Clone)]
pub(crate) struct Trained {
    pub image: Arc<Image>,
    pub transform: Arc<Transform>,
    /// W of a linear map, which many rows meet in f32.
    matrix: Option<Arc<[f32]>>,
    /// Points are scaled to the length that they had, and whatever else goes through [`Trained::reduce`].
    scales_points: bool,
}

impl Trained {
    /// Reads a transform's own file.
    pub fn open(image: Arc<Image>) -> Result<(Self, TransformSpec, Metric), OpenError> {
        let spec: TransformSpec = image.parsed("transform", "a transform")?;
        let metric: Metric = image.parsed("metric", "ip, cosine or l2")?;
        let d: usize = image.parsed("dim", "a number of dimensions")?;
        let unfit = |expected: String| OpenError::Metadata {
            key: "transform",
            expected,
            got: image.metadata("transform").map(str::to_owned),
        };
        let s = spec.dims().filter(|&s| s <= d && d <= crate::spec::DIM_MAX);
        let s = s.ok_or_else(|| unfit(format!("at most the vectors' {d} dimensions, written out")))?;
        let transform = Transform::open(&image, spec, metric, d, s)?;
        Ok((Self::new(image, transform), spec, metric))
    }

    /// A transform of an image, ready for many rows.
    pub fn new(image: Arc<Image>, transform: Transform) -> Self {
        let matrix = match &transform.kind {
            Kind::Linear(linear) => Some(linear.matrix(transform.d).into()),
            Kind::Cnt(_) => None,
        };
        let scales_points = transform.scales_queries || image.metadata(LENGTHS) == Some(KEPT);
        Self { image, transform: Arc::new(transform), matrix, scales_points }
    }

    /// Dimensions of what comes out.
    pub fn s(&self) -> usize {
        self.transform.s
    }

    /// Reduces `rows`, `[m, d]`, on the calling thread.
    pub fn reduce(&self, rows: &[f32], out: &mut [f32]) {
        let (simd, d, s) = (Simd::detect(), self.transform.d, self.transform.s);
        match (&self.transform.kind, &self.matrix) {
            (Kind::Cnt(cnt), _) => {
                let mut room = cnt::cpu::Room::default();
                for (rows, out) in rows.chunks(CHUNK * d).zip(out.chunks_mut(CHUNK * s)) {
                    cnt::cpu::forward(simd, cnt.weights(), rows, out, &mut room);
                }
            }
            (Kind::Linear(_), Some(w)) => {
                linalg::product(linalg::rows(rows, rows.len() / d, d), linalg::rows(w, d, s), out);
            }
            (Kind::Linear(_), None) => {}
        }
        if self.scales_points {
            for (x, y) in rows.chunks_exact(d).zip(out.chunks_exact_mut(s)) {
                super::cpu::keep_length(simd, x, y);
            }
        }
    }

    /// An image of the transform alone.
    pub fn alone(&self, spec: TransformSpec, frame: &Frame) -> std::io::Result<Arc<Image>> {
        let Transform { d, s, .. } = *self.transform;
        let of = |key| self.image.metadata(key).unwrap_or_default().to_owned();
        let mut image = ImageBuilder::new(
            metadata(spec, frame.metric(), d, &of("seed"), frame.version(), self.found()),
            Transform::declare(spec, d, s).into_iter().chain(frame.declare()).collect(),
        )?;
        let mut parts = image.parts();
        frame.write(&mut parts);
        self.write(&mut parts);
        image.finish()
    }

    /// How it was trained, where it was.
    pub fn training(&self) -> Option<&str> {
        self.image.metadata(TRAINING)
    }

    /// The metadata entries of what was found.
    pub fn found(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [TRAINING, LENGTHS].into_iter().filter_map(|key| Some((key, self.image.metadata(key)?)))
    }

    /// Copies the tensors to those of an index.
    pub fn write(&self, parts: &mut BTreeMap<&'static str, &mut [u8]>) {
        for (name, place) in self.image.tensors() {
            if let Some(out) = parts.get_mut(name.as_str()) {
                out.copy_from_slice(&self.image.bytes()[place.bytes.clone()]);
            }
        }
    }
}

/// Finds a transform.
///
/// # Errors
/// [`TrainError`]: a checkpoint that cannot be used, or a network where there is nothing to train it with.
pub(crate) fn train(request: &Request<'_>) -> Result<Trained, TrainError> {
    let (spec, d) = (request.spec, request.points.dim());
    let s = spec.dims().unwrap_or(d);
    go_on(request)?;
    let mut rng = generator(request.seed, "transform");
    let source = request.queries.unwrap_or(request.points);
    match spec {
        TransformSpec::Linear { map, dtype, .. } => {
            let mut training = None;
            let mut keeps_lengths = !request.metric.is_l2();
            let w = match map {
                LinearMap::Pca => {
                    let rows = source.gather(&sample(&mut rng, source.n_rows(), SAMPLE));
                    let w = linear::train::pca(&rows, d, s, &mut rng);
                    drop(rows);
                    keeps_lengths = keeps_lengths && scaled_finds_more(request, w.as_ref());
                    w
                }
                LinearMap::Srp => {
                    let w = linear::train::srp(d, s, &mut rng);
                    let rows = source.gather(&sample(&mut rng, source.n_rows(), SAMPLE));
                    let y = linalg::par_product(&rows, w.as_ref());
                    &w * turn(&y, s, &mut rng)
                }
                LinearMap::Lin => {
                    let start = Start::new(request, &mut rng);
                    let network =
                        linear::train::LinearNetwork { start: row_major(start.axes.as_ref()), d, s };
                    let mut trained = inrp::train(&network, &start.task(request))?;
                    go_on(request)?;
                    training = Some(trained.to_string());
                    let w = trained.values.remove(0);
                    let w = linalg::rows(&w, d, s);
                    // Not around the centre, which is the same for all rows: distances do not see it.
                    let y = linalg::par_product(&start.rows, w);
                    w * turn(&y, s, &mut rng)
                }
            };
            image(request, training.as_deref(), keeps_lengths, |parts| {
                linear::write(w.as_ref(), dtype, parts)
            })
        }
        #[cfg(not(feature = "neural"))]
        TransformSpec::Cnt { .. } => Err(TrainError::NoNeural),
        #[cfg(feature = "neural")]
        TransformSpec::Cnt { sizes, .. } => {
            let start = Start::new(request, &mut rng);
            let shape = cnt::Shape::new(d, s, sizes);
            // Spread over all of them, for they come in the order of their numbers, queries last.
            let every = (start.rows.len() / d).div_ceil(cnt::STATISTICS);
            let mut sample: Vec<f32> = start.rows.chunks_exact(d).step_by(every).flatten().copied().collect();
            start.standard.apply(&mut sample);
            let network = cnt::train::CntNetwork::new(shape, start.axes.as_ref(), sample, &mut rng);
            let trained = inrp::train(&network, &start.task(request))?;
            go_on(request)?;
            let (training, values) = (trained.to_string(), trained.values);
            let straight = network.weights(&values, None, Some(&start.standard));
            let mut y = vec![0.0; start.rows.len() / d * s];
            y.par_chunks_mut(CHUNK * s).zip(start.rows.par_chunks(CHUNK * d)).for_each(|(y, rows)| {
                cnt::cpu::forward(Simd::detect(), straight.view(), rows, y, &mut cnt::cpu::Room::default());
            });
            let turned =
                network.weights(&values, Some(turn(&y, s, &mut rng).as_ref()), Some(&start.standard));
            image(request, Some(&training), !request.metric.is_l2(), |parts| turned.write(parts))
        }
    }
}

/// Tells that a transform is being found; an error where that is to stop.
fn go_on(request: &Request<'_>) -> Result<(), TrainError> {
    if (request.report)("transform", 0, 1) { Ok(()) } else { Err(TrainError::Stopped) }
}

/// What trained transforms start from.
struct Start {
    /// A sample, as given.
    rows: Vec<f32>,
    standard: Standard,
    /// Principal axes, scaled so that distances come out as they should by the least squared error.
    axes: Mat<f32>,
    mean_distance: f32,
}

impl Start {
    fn new(request: &Request<'_>, rng: &mut ChaCha8Rng) -> Self {
        let d = request.points.dim();
        let s = request.spec.dims().unwrap_or(d);
        let keeps_length = scales_queries(request.spec, request.metric);
        let amount = if request.queries.is_some() { SAMPLE / 2 } else { SAMPLE };
        let mut gather = |source: &dyn ReadRows| source.gather(&sample(rng, source.n_rows(), amount));
        let mut rows = gather(request.points);
        let n_points = rows.len() / d;
        rows.extend(request.queries.map(&mut gather).unwrap_or_default());
        // Lengths are of use only from where they are measured.
        let standard = Standard::of(&rows, d, !keeps_length);
        let mut x = rows.clone();
        standard.apply(&mut x);
        let mut axes = linear::train::top_axes(&x, d, s);
        let n = x.len() / d;
        let pairs: Vec<[usize; 2]> = (0..PAIRS)
            .map(|_| {
                let i = rng.random_range(0..n_points);
                // A query where there are any, else another point.
                let first = if n_points < n { n_points } else { 0 };
                [i, rng.random_range(first..n)]
            })
            .filter(|[i, j]| i != j)
            .collect();
        let distances = |x: &[f32], d: usize| -> Vec<f64> {
            let distance = |&[i, j]: &[usize; 2]| {
                let both = x[i * d..(i + 1) * d].iter().zip(&x[j * d..(j + 1) * d]);
                both.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
            };
            pairs.iter().map(distance).collect()
        };
        let given = distances(&x, d);
        if !keeps_length {
            let found = distances(&linalg::par_product(&x, axes.as_ref()), s);
            let products: f64 = given.iter().zip(&found).map(|(a, b)| a * b).sum();
            let squares: f64 = found.iter().map(|v| v * v).sum();
            if squares > 0.0 {
                axes *= faer::Scale(narrow(products / squares));
            }
        }
        let mean = given.iter().sum::<f64>() / given.len().max(1) as f64;
        Self { rows, standard, axes, mean_distance: if mean > 0.0 { narrow(mean) } else { 1.0 } }
    }

    fn task<'a>(&'a self, request: &'a Request<'_>) -> inrp::Task<'a> {
        inrp::Task {
            points: request.points,
            queries: request.queries,
            standard: &self.standard,
            mean_distance: self.mean_distance,
            keeps_length: scales_queries(request.spec, request.metric),
            seed: request.seed,
            training: request.training,
            identity: format!("{}, {}, {} dimensions", request.spec, request.metric, request.points.dim()),
            report: request.step,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
fn narrow(v: f64) -> f32 {
    v as f32
}

fn row_major(w: MatRef<'_, f32>) -> Vec<f32> {
    let s = w.ncols();
    (0..w.nrows() * s).map(|i| w[(i / s, i % s)]).collect()
}

/// A rotation of outputs `y`, `[n, s]`, into what int8 codes want: coordinate 0, which stays in f32, along the direction of most
/// energy, the others mixed at random.
fn turn(y: &[f32], s: usize, rng: &mut ChaCha8Rng) -> Mat<f32> {
    linear::train::mixed(linear::train::top_axes(y, s, s).as_ref(), rng)
}

/// Whether more of the largest products of a sample of queries are found after points are scaled to the length that they had.
fn scaled_finds_more(request: &Request<'_>, w: MatRef<'_, f32>) -> bool {
    let (d, s) = (w.nrows(), w.ncols());
    let mut rng = generator(request.seed, "lengths");
    let rows = sample(&mut rng, request.points.n_rows(), TRIED_POINTS);
    let (points, queries) = match request.queries {
        Some(queries) if !request.are_points => {
            (request.points.gather(&rows), queries.gather(&sample(&mut rng, queries.n_rows(), TRIED_QUERIES)))
        }
        // Some of the points, which then are none.
        own => {
            let every = TRIED_POINTS / TRIED_QUERIES;
            let (queries, points): (Vec<_>, Vec<_>) =
                rows.iter().enumerate().partition(|(i, _)| i.is_multiple_of(every));
            let gather = |source: &dyn ReadRows, rows: Vec<(usize, &usize)>| {
                let rows: Vec<usize> = rows.into_iter().map(|(_, row)| *row).collect();
                source.gather(&rows)
            };
            (gather(request.points, points), gather(own.unwrap_or(request.points), queries))
        }
    };
    if points.is_empty() {
        return true;
    }
    let best = |points: &[f32], queries: &[f32], d: usize| -> Vec<Vec<u32>> {
        let n = points.len() / d;
        let best = |queries: &[f32]| -> Vec<Vec<u32>> {
            let mut scores = vec![0.0; queries.len() / d * n];
            let all = linalg::rows(points, n, d).transpose();
            linalg::product(linalg::rows(queries, queries.len() / d, d), all, &mut scores);
            let best = |scores: &mut [f32]| {
                let mut best = vec![0; TRIED_NEIGHBOURS.min(n)];
                Simd::detect().largest(scores, &mut best);
                best
            };
            scores.chunks_exact_mut(n).map(best).collect()
        };
        queries.par_chunks(CHUNK * d).flat_map(best).collect()
    };
    let want = best(&points, &queries, d);
    let queries = linalg::par_product(&queries, w);
    let mut reduced = linalg::par_product(&points, w);
    let found = |reduced: &[f32]| -> usize {
        let found = best(reduced, &queries, s);
        found.iter().zip(&want).map(|(found, want)| want.iter().filter(|id| found.contains(id)).count()).sum()
    };
    let as_they_are = found(&reduced);
    for (x, y) in points.chunks_exact(d).zip(reduced.chunks_exact_mut(s)) {
        super::cpu::keep_length(Simd::detect(), x, y);
    }
    found(&reduced) >= as_they_are
}

/// An image of a transform alone.
fn image(
    request: &Request<'_>,
    training: Option<&str>,
    keeps_lengths: bool,
    write: impl FnOnce(&mut BTreeMap<&'static str, &mut [u8]>),
) -> Result<Trained, TrainError> {
    let Request { spec, metric, seed, .. } = *request;
    let d = request.points.dim();
    let s = spec.dims().unwrap_or(d);
    let found = training.map(|training| (TRAINING, training));
    let found = found.into_iter().chain(keeps_lengths.then_some((LENGTHS, KEPT)));
    let entries = metadata(spec, metric, d, &seed.to_string(), PLAIN, found);
    let mut image = ImageBuilder::new(entries, Transform::declare(spec, d, s))?;
    write(&mut image.parts());
    Ok(Trained::open(image.finish()?)?.0)
}

/// The entries of the header of a transform alone.
fn metadata<'a>(
    spec: TransformSpec,
    metric: Metric,
    d: usize,
    seed: &str,
    version: u32,
    found: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> BTreeMap<String, String> {
    let entries = [
        ("format", "nearfield".to_owned()),
        ("version", version.to_string()),
        ("builder", concat!("nearfield ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("transform", spec.to_string()),
        ("metric", metric.to_string()),
        ("dim", d.to_string()),
        ("seed", seed.to_owned()),
    ];
    let found = found.into_iter().map(|(key, value)| (key, value.to_owned()));
    entries.into_iter().chain(found).map(|(key, value)| (key.to_owned(), value)).collect()
}
