//! Queries that an index is tuned with, and what they should find.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use ndarray::{Array2, Axis};
use nearfield::{
    Index, Metric, NO_ID, OperatingPoint, QuerySource, Searcher, Tuner, Tuning, Vectors,
    eval::{self, Recall},
    tune,
};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

use crate::{error::CliError, report};

/// Queries of a sample, at most: half of them choose, and recall 0.95 is then known to 0.003 or so.
pub const QUERIES: usize = 1000;

/// Time between two lines where there is no terminal to show a bar on.
const SILENCE: Duration = Duration::from_secs(10);

/// Queries, and what they should find.
pub struct Sample {
    queries: Array2<f32>,
    truth: Array2<u64>,
    /// The queries' own ids, where they are points of the index.
    own: Option<Vec<u64>>,
    source: QuerySource,
}

/// The vectors of an index, and their ids.
pub struct Points<'a> {
    pub vectors: &'a dyn Vectors,
    pub id_of: &'a dyn Fn(usize) -> u64,
    pub metric: Metric,
}

/// Numbers below `n`, at most `most` of them, each once, in random order.
fn drawn(n: usize, most: usize, seed: u64) -> Vec<usize> {
    index::sample(&mut ChaCha8Rng::seed_from_u64(seed), n, most.min(n)).into_vec()
}

impl Sample {
    /// Some of the queries given, and their truth `[n, at least k]`.
    pub fn with_truth(queries: &dyn Vectors, truth: &Array2<u64>, most: usize, seed: u64) -> Self {
        let chosen = drawn(queries.n_rows().min(truth.nrows()), most, seed);
        let truth = truth.select(Axis(0), &chosen);
        Self { queries: rows_of(queries, &chosen), truth, own: None, source: QuerySource::Given }
    }

    /// Some of the queries, and their neighbours among the points.
    pub fn of_queries(
        queries: &dyn Vectors,
        source: QuerySource,
        points: &Points<'_>,
        k: usize,
        (most, seed): (usize, u64),
    ) -> Result<Self, CliError> {
        let queries = rows_of(queries, &drawn(queries.n_rows(), most, seed));
        let truth = points.nearest(&queries, k)?;
        Ok(Self { queries, truth, own: None, source })
    }

    /// Some of the points as queries, each left out of its own neighbours.
    pub fn of_points(points: &Points<'_>, k: usize, (most, seed): (usize, u64)) -> Result<Self, CliError> {
        let chosen = drawn(points.vectors.n_rows(), most, seed);
        let queries = rows_of(points.vectors, &chosen);
        let own: Vec<u64> = chosen.into_iter().map(points.id_of).collect();
        let truth = tune::without(&points.nearest(&queries, k + 1)?, &own);
        Ok(Self { queries, truth, own: Some(own), source: QuerySource::Rows })
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.nrows()
    }

    /// Prepares measuring an index by these queries; with the vectors of its ids, if these are row numbers, ties count.
    pub fn recall<'a>(
        &'a self,
        index: &'a Index,
        view: &'a ndarray::ArrayView2<'a, f32>,
        k: usize,
        base: Option<&'a dyn Vectors>,
    ) -> Result<Recall<'a>, CliError> {
        let recall = Recall::new(index, view, self.truth.view(), k)?;
        Ok(match base {
            Some(base) => recall.with_base(base)?,
            None => recall,
        })
    }

    /// The queries.
    pub fn queries(&self) -> ndarray::ArrayView2<'_, f32> {
        self.queries.view()
    }

    /// A tuner on these queries, every other of which only checks.
    pub fn tuner<'a>(
        &'a self,
        index: &'a Index,
        searcher: &'a Searcher,
        recall: &'a Recall<'a>,
        k: usize,
    ) -> Tuner<'a> {
        Tuner {
            searcher,
            index,
            queries: self.queries.view(),
            recall,
            k,
            batch: self.queries.nrows(),
            threads: 0,
            source: self.source,
            own: self.own.as_deref(),
            checks: self.queries.nrows() > 1,
            enough: tune::ENOUGH,
        }
    }
}

impl Points<'_> {
    /// Exact neighbours as ids.
    fn nearest(&self, queries: &Array2<f32>, k: usize) -> Result<Array2<u64>, CliError> {
        let n = self.vectors.n_rows();
        let bar = report::bar("truth", 1);
        let rows = eval::exact(self.vectors, &queries.view(), self.metric, k, &|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        Ok(rows?.mapv(|row| match usize::try_from(row) {
            Ok(row) if row < n => (self.id_of)(row),
            _ => NO_ID,
        }))
    }
}

/// Some rows as an array.
fn rows_of(vectors: &dyn Vectors, rows: &[usize]) -> Array2<f32> {
    let mut out = Array2::zeros((rows.len(), vectors.dim()));
    for (&row, mut out) in rows.iter().zip(out.outer_iter_mut()) {
        if let Some(out) = out.as_slice_mut() {
            vectors.read(row, out);
        }
    }
    out
}

/// Runs a tuner, with a bar on a terminal and a line every ten seconds elsewhere. `goes_on` is asked after every effort.
pub fn run(tuner: &Tuner<'_>, mut goes_on: impl FnMut(&OperatingPoint) -> bool) -> Result<Tuning, CliError> {
    let bar = report::bar("tune", 1000);
    let has_terminal = std::io::stderr().is_terminal();
    let (since, mut said, mut tried) = (Instant::now(), Instant::now(), 0);
    let tuning = tuner.run(&mut |point| {
        tried += 1;
        // How far the recall has come: most of the time goes into the last hundredth.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        bar.set_position((1000.0 * (1.0 - (1.0 - point.recall).sqrt())) as u64);
        if !has_terminal && said.elapsed() >= SILENCE {
            said = Instant::now();
            let (recall, seconds) = (point.recall, since.elapsed().as_secs());
            eprintln!("tune: {tried} efforts in {seconds} s, recall {recall:.4} so far");
        }
        goes_on(point)
    });
    bar.finish_and_clear();
    Ok(tuning?)
}

/// The effort for a recall, or the best there is, for programs.
pub fn summary(tuning: &Tuning, recall: f64) -> serde_json::Value {
    let point = tuning.cheapest(recall).or(tuning.points.last());
    serde_json::json!({
        "k": tuning.k, "queries": tuning.n_queries, "source": tuning.source, "recall": point.map(|p| p.recall),
        "held_out": point.and_then(|p| p.held_out), "n_probe": point.map(|p| p.n_probe),
        "n_rerank": point.map(|p| p.n_rerank),
    })
}

/// What a tuning says of a recall: the effort, and what the half of the queries found that chose nothing.
pub fn says(tuning: &Tuning, recall: f64) -> Option<String> {
    let point = tuning.cheapest(recall)?;
    let checked = point
        .held_out
        .map_or(String::new(), |found| format!("; the half that chose nothing found {found:.4}"));
    let (n_probe, n_rerank) = (point.n_probe, point.n_rerank);
    Some(format!("recall {recall}: n_probe {n_probe}, n_rerank {n_rerank}{checked}"))
}
