//! Choosing a specification by trying: what is fastest on a sample at the recall wanted.
//!
//! Scorers are tried first, with sizes that suit most data; then the sizes of the best one, and of a second that comes close,
//! are changed one at a time, and what is faster is kept. A sample has lists as full as all vectors will have them, so that
//! scoring a list costs what it will cost; there are fewer lists to choose from, which all candidates share. Queries are rows
//! held out of the sample, or training queries where there are any: then those decide, and with them what suits queries of
//! another kind.

use ndarray::{Array2, s};

use crate::{
    build::BuildError,
    device::{Device, DeviceError},
    eval::{self, EvalError, Recall},
    index::Index,
    metric::Metric,
    search::SearchError,
    spec::{AxesDtype, IndexSpec, IvfSpec, Milli, RANK_STEP, RowDtype, SpecError, SpillSpec, TransformSpec},
    train::{generator, sample},
    tune::{OperatingPoint, QuerySource, Tuner},
    vectors::{Rows, Vectors},
};

/// Queries that candidates are compared by, at most.
const QUERIES: usize = 500;

/// Speeds whose ratio is less are taken for the same: two runs of one specification differ by as much.
pub const NOISE: f64 = 1.08;

/// How much faster a change of sizes must be to be taken: clocks differ by less.
const FASTER: f64 = 1.03;

/// Scorers whose sizes are changed, at most, and how much faster the best may be than another of them.
const FINALISTS: usize = 2;
const CLOSE: f64 = 1.3;

/// Vectors up to which comparing all is tried, too.
const FEW: usize = 10_000;

/// What a specification is chosen for.
pub struct Auto<'a> {
    /// The metric.
    pub metric: Metric,
    /// Seed of the sample and of its builds.
    pub seed: u64,
    /// Queries like those to come, where they are of another kind than the vectors.
    pub train_queries: Option<&'a dyn Vectors>,
    /// Neighbours a query.
    pub k: usize,
    /// Recall to reach.
    pub recall: f64,
}

impl Auto<'_> {
    /// For 0.95 of the 10 nearest.
    #[must_use]
    pub fn new(metric: Metric) -> Self {
        Self { metric, seed: 0, train_queries: None, k: 10, recall: 0.95 }
    }
}

/// A specification that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The specification, numbers as for all vectors.
    pub spec: IndexSpec,
    /// Vectors it was tried on.
    pub n_sampled: usize,
    /// Queries it was tried with.
    pub n_queries: usize,
    /// The recall wanted, or its best where that is less.
    pub recall: f64,
    /// Queries a second at that recall, between the efforts measured.
    pub qps: f64,
    /// Bytes of the sample's index by vector.
    pub bytes_per_vector: f64,
    /// Seconds that the sample's index was built in.
    pub build_seconds: f64,
}

/// A choice that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AutoError {
    /// The vectors cannot be indexed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The processor cannot search.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The training queries cannot be searched.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// There is no exact truth.
    #[error(transparent)]
    Truth(#[from] EvalError),
    /// Too few vectors to hold any out.
    #[error(
        "vectors: expected more than k = {k} and one held out as a query, got {n}: a specification must be given"
    )]
    TooFew {
        /// Neighbours a query.
        k: usize,
        /// Vectors given.
        n: usize,
    },
}

impl From<SpecError> for AutoError {
    fn from(e: SpecError) -> Self {
        Self::Build(e.into())
    }
}

impl Auto<'_> {
    /// Tries specifications on the CPU, on rayon's current pool; the best comes first, the others in the order of their
    /// trials. `step` is called with each as it ends and says whether to go on.
    ///
    /// # Errors
    /// [`AutoError`], above all for vectors and queries that cannot be indexed or searched.
    pub fn run(
        &self,
        base: &dyn Vectors,
        step: &mut dyn FnMut(&Trial) -> bool,
    ) -> Result<Vec<Trial>, AutoError> {
        let (n, d) = (base.n_rows(), base.dim());
        // All of them, for errors that name their rows.
        let mut builder = Index::builder("Flat".parse()?).metric(self.metric);
        if let Some(queries) = self.train_queries {
            builder = builder.train_queries(queries);
        }
        let (contents, _) = builder.check(base)?;
        if !(self.recall > 0.0 && self.recall <= 1.0) {
            return Err(SearchError::RecallRange { given: self.recall.to_string() }.into());
        }
        if self.k == 0 {
            return Err(SearchError::Zero { name: "k" }.into());
        }
        if n <= self.k.saturating_add(1) {
            return Err(AutoError::TooFew { k: self.k, n });
        }
        let bench = Bench::new(self, base)?;
        let mut trials: Vec<Trial> = Vec::new();
        let mut goes_on = true;
        // Rows as short as they may be.
        let rows = if contents.fits_half { RowDtype::F16 } else { RowDtype::F32 };
        let mut attempt = |spec: IndexSpec, trials: &mut Vec<Trial>| -> Result<bool, AutoError> {
            // Not every candidate suits every shape.
            let Ok(spec) = spec.resolve(n, d) else { return Ok(false) };
            if !goes_on || trials.iter().any(|trial| trial.spec == spec) {
                return Ok(false);
            }
            let trial = bench.measure(spec)?;
            goes_on = step(&trial);
            trials.push(trial);
            Ok(true)
        };
        for spec in scorers(n, d, self.metric) {
            let spec: IndexSpec = spec.parse()?;
            attempt(IndexSpec { refine: spec.refine.map(|_| rows), ..spec }, &mut trials)?;
        }
        let mut scorers: Vec<usize> = (0..trials.len()).collect();
        scorers.sort_by(|&a, &b| self.order(&trials[b], &trials[a]));
        let first = trials[scorers[0]].clone();
        scorers.truncate(FINALISTS);
        scorers.retain(|&at| !self.beats(&first, &trials[at], CLOSE));
        let mut best = scorers[0];
        for mut at in scorers {
            for change in CHANGES {
                if let Some(spec) = change(trials[at].spec, d, self.train_queries.is_some())
                    && attempt(spec, &mut trials)?
                    && self.beats(&trials[trials.len() - 1], &trials[at], FASTER)
                {
                    at = trials.len() - 1;
                }
            }
            if self.beats(&trials[at], &trials[best], 1.0) {
                best = at;
            }
        }
        let chosen = trials.remove(self.smallest(&trials, best));
        trials.insert(0, chosen);
        Ok(trials)
    }

    /// The trial of the fewest bytes among those about as fast as the best, of which clocks cannot tell which is faster.
    fn smallest(&self, trials: &[Trial], best: usize) -> usize {
        let reached = |trial: &Trial| trial.recall.min(self.recall);
        let fit = |&at: &usize| {
            reached(&trials[at]) >= reached(&trials[best]) && trials[at].qps * NOISE >= trials[best].qps
        };
        let bytes = |at: usize| trials[at].bytes_per_vector;
        (0..trials.len()).filter(fit).min_by(|&a, &b| bytes(a).total_cmp(&bytes(b))).unwrap_or(best)
    }

    /// The better trial is the greater: the faster of those that reach the recall, else the one that comes nearer.
    fn order(&self, a: &Trial, b: &Trial) -> std::cmp::Ordering {
        let reached = |trial: &Trial| trial.recall.min(self.recall);
        reached(a).total_cmp(&reached(b)).then(a.qps.total_cmp(&b.qps))
    }

    /// Whether a trial is `faster` times as fast as another, or nearer to the recall where that does not reach it.
    fn beats(&self, trial: &Trial, other: &Trial, faster: f64) -> bool {
        if other.recall < self.recall {
            trial.recall > other.recall
        } else {
            trial.recall >= self.recall && trial.qps > faster * other.qps
        }
    }
}

/// Vectors of a sample: half of them, all if there are few, at most 131 072. (An eighth of 115 659 made lists too few and
/// neighbours too far: what was fastest on it was a quarter slower than the best on all, and a third for queries of another
/// kind.)
fn sampled(n: usize) -> usize {
    (n / 2).clamp(16_384, 131_072).min(n)
}

/// One specification for each way to score.
fn scorers(n: usize, d: usize, metric: Metric) -> Vec<String> {
    // Copies pay for products, not for distances (README).
    let (soar, pq) = if metric.is_l2() { ("", "PQ") } else { ("(soar)", "APQ") };
    let (reduce, s) = match d {
        ..160 => (String::new(), d),
        160..=1000 => ("PCA128x8,".to_owned(), 128),
        _ => ("PCA256x8,".to_owned(), 256),
    };
    // Reduced dimensions carry more each: two a code of a dimension as given, three of a reduced one.
    let codes = if reduce.is_empty() { s.div_ceil(2) } else { s.div_ceil(3) };
    // As much rank as there are dimensions for; below 16 there is none, and no such candidate.
    let rank = |wanted: usize| wanted.min(s / RANK_STEP * RANK_STEP).max(RANK_STEP);
    let mut specs = vec![
        format!("{reduce}IVF,RRR{},Refine(f16)", rank(32)),
        format!("{reduce}IVF{soar},RRR{}x4,Refine(f16)", rank(64)),
        format!("{reduce}IVF{soar},{pq}{codes}x4,Refine(f16)"),
        format!("{reduce}IVF,SQ8,Refine(f16)"),
    ];
    if n <= FEW {
        specs.push("Flat".to_owned());
    }
    specs
}

type Change = fn(IndexSpec, usize, bool) -> Option<IndexSpec>;

/// Changes of one size each; what does not apply is nothing.
const CHANGES: [Change; 8] = [
    |spec, _, _| times_lists(spec, 2, 1),
    |spec, _, _| times_lists(spec, 1, 2),
    |spec, d, _| reduced(spec, d, 3, 2),
    |spec, d, _| reduced(spec, d, 3, 4),
    |spec, _, _| copies(spec, 1),
    // Further copies are for queries of another kind than the points.
    |spec, _, is_foreign| if is_foreign { copies(spec, 3) } else { None },
    |spec, _, _| spec.refine.map(|_| IndexSpec { refine: Some(RowDtype::Sq8), ..spec }),
    |spec, _, _| match spec.transform {
        Some(TransformSpec::Linear { map, dims, dtype: AxesDtype::Int8 }) => {
            let transform = TransformSpec::Linear { map, dims, dtype: AxesDtype::F16 };
            Some(IndexSpec { transform: Some(transform), ..spec })
        }
        _ => None,
    },
];

fn times_lists(spec: IndexSpec, up: usize, down: usize) -> Option<IndexSpec> {
    Some(spec.with_lists((spec.ivf?.n_lists? * up / down).max(1)))
}

fn reduced(spec: IndexSpec, d: usize, up: usize, down: usize) -> Option<IndexSpec> {
    let transform = spec.transform?;
    let dims = (transform.dims()? * up / down).next_multiple_of(16).min(d);
    Some(IndexSpec { transform: Some(transform.with_dims(dims)), ..spec })
}

/// So many copies, or none where there are as many.
fn copies(spec: IndexSpec, n: usize) -> Option<IndexSpec> {
    let ivf = spec.ivf?;
    let held = ivf.spill.and_then(|spill| spill.copies);
    let spill = (held != Some(n)).then_some(SpillSpec { copies: Some(n), lambda: Milli(1000) });
    Some(IndexSpec { ivf: Some(IvfSpec { spill, ..ivf }), ..spec })
}

/// What candidates are measured on.
struct Bench<'a> {
    auto: &'a Auto<'a>,
    /// All vectors.
    n: usize,
    rows: Rows<'a>,
    queries: Array2<f32>,
    truth: Array2<u64>,
    /// Training queries that are not searched.
    train: Option<Rows<'a>>,
}

impl<'a> Bench<'a> {
    fn new(auto: &'a Auto<'a>, base: &'a dyn Vectors) -> Result<Self, AutoError> {
        let n = base.n_rows();
        let mut rng = generator(auto.seed, "auto");
        let held_out = if auto.train_queries.is_some() { 0 } else { QUERIES.min(n / 10).max(1) };
        let chosen = sample(&mut rng, n, (sampled(n) + held_out).min(n));
        // Queries evenly among the rows, so that both come from all over.
        let (mut rows, mut asked) = (Vec::new(), Vec::new());
        for (i, row) in chosen.iter().enumerate() {
            let is_query = (i + 1) * held_out / chosen.len() > i * held_out / chosen.len();
            if is_query { asked.push(*row) } else { rows.push(*row) }
        }
        let rows = Rows { vectors: base, rows };
        let (queries, train) = match auto.train_queries {
            None => (gather(&Rows { vectors: base, rows: asked }), None),
            Some(vectors) => {
                let all: Vec<usize> = sample(&mut rng, vectors.n_rows(), usize::MAX);
                let n_asked = QUERIES.min(all.len().div_ceil(2));
                let (asked, rest): (Vec<usize>, Vec<usize>) =
                    all.iter().partition(|&&i| (i + 1) * n_asked / all.len() > i * n_asked / all.len());
                let train = (!rest.is_empty()).then_some(Rows { vectors, rows: rest });
                (gather(&Rows { vectors, rows: asked }), train)
            }
        };
        let truth = eval::exact(&rows, &queries.view(), auto.metric, auto.k, &|_, _| ())?;
        Ok(Self { auto, n, rows, queries, truth, train })
    }

    /// Builds a specification for all vectors on the sample, and searches how fast it reaches the recall.
    fn measure(&self, spec: IndexSpec) -> Result<Trial, AutoError> {
        let n_sampled = self.rows.n_rows();
        let mut small = spec;
        if let Some(n_lists) = spec.ivf.and_then(|ivf| ivf.n_lists) {
            let scaled = (n_lists * n_sampled).div_ceil(self.n);
            small = spec.with_lists(scaled.max(spec.n_copies()).min(n_sampled));
        }
        let mut builder = Index::builder(small).metric(self.auto.metric).seed(self.auto.seed);
        if let Some(train) = &self.train {
            builder = builder.train_queries(train);
        }
        let (index, times) = builder.build_timed(&self.rows)?;
        let searcher = index.searcher(Device::cpu())?;
        let view = self.queries.view();
        let recall = Recall::new(&index, &view, self.truth.view(), self.auto.k)?;
        let tuner = Tuner {
            searcher: &searcher,
            index: &index,
            queries: view,
            recall: &recall,
            k: self.auto.k,
            batch: self.queries.nrows(),
            threads: 0,
            source: QuerySource::Given,
            own: None,
            checks: false,
            enough: self.auto.recall,
        };
        let points = tuner.run(&mut |_| true)?.points;
        let (recall, qps) = speed_at(&points, self.auto.recall);
        Ok(Trial {
            spec,
            n_sampled,
            n_queries: self.queries.nrows(),
            recall,
            qps,
            bytes_per_vector: index.n_bytes() as f64 / n_sampled as f64,
            build_seconds: times.iter().map(|time| time.seconds).sum(),
        })
    }
}

/// All rows as an array.
fn gather(rows: &dyn Vectors) -> Array2<f32> {
    let mut out = Array2::zeros((rows.n_rows(), rows.dim()));
    for row in 0..rows.n_rows() {
        if let Some(out) = out.slice_mut(s![row, ..]).as_slice_mut() {
            rows.read(row, out);
        }
    }
    out
}

/// The recall wanted and the speed there, by the time a query takes between the two points around it; the best recall and
/// its speed where it is not reached.
fn speed_at(points: &[OperatingPoint], recall: f64) -> (f64, f64) {
    let Some(above) = points.iter().position(|point| point.recall >= recall) else {
        return points.last().map_or((0.0, 0.0), |point| (point.recall, point.qps));
    };
    let right = points[above];
    let Some(left) = above.checked_sub(1).map(|below| points[below]) else { return (recall, right.qps) };
    let part = (recall - left.recall) / (right.recall - left.recall);
    (recall, 1.0 / ((1.0 - part) / left.qps + part / right.qps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_interpolated_in_time() {
        let point = |recall, qps| OperatingPoint { n_probe: 1, n_rerank: 10, recall, held_out: None, qps };
        let points = [point(0.8, 1000.0), point(0.9, 500.0), point(1.0, 100.0)];
        assert_eq!(speed_at(&points, 0.9), (0.9, 500.0));
        let (_, qps) = speed_at(&points, 0.85);
        assert!((qps - 1.0 / 0.0015).abs() < 1e-9, "{qps}");
        assert_eq!(speed_at(&points[..1], 0.9), (0.8, 1000.0));
        assert_eq!(speed_at(&points, 0.5), (0.5, 1000.0));
        assert_eq!(speed_at(&[], 0.5), (0.0, 0.0));
    }

    #[test]
    fn candidates_suit_their_shape() {
        for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
            for d in [1, 20, 100, 384, 784, 1536, 4096] {
                let mut n_fit = 0;
                for text in scorers(100_000, d, metric) {
                    let spec: IndexSpec = text.parse().unwrap();
                    let Ok(spec) = spec.resolve(100_000, d) else { continue };
                    n_fit += 1;
                    for change in CHANGES {
                        if let Some(changed) = change(spec, d, true) {
                            assert_ne!(changed, spec, "{text}");
                        }
                    }
                }
                assert!(n_fit >= if d >= 16 { 4 } else { 2 }, "{d}: {n_fit}");
            }
        }
    }
}
