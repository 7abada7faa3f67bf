//! Tuning: which effort reaches which recall, measured once and kept in the index file.
//!
//! Recall and speed both grow with the lists read and the candidates reranked, and how fast depends on the data. From the
//! least effort on, [`Tuner::run`] raises whichever of the two brings more recall for the time it takes, so only efforts near
//! the best trade are ever searched. What is left is the Pareto frontier: efforts that no other beats in both. It is
//! stored in the index ([`Index::with_tuning`]), and [`SearchParams::recall`] then stands for the fastest that suffices.

use std::time::Instant;

use ndarray::{Array2, ArrayView2, s};
use serde::{Deserialize, Serialize};

use crate::{
    eval::Recall,
    index::Index,
    search::{Effort, SearchError, SearchParams, Searcher},
    topk::NO_ID,
};

/// The metadata entry that holds an index's tunings.
pub(crate) const KEY: &str = "tuning";

/// Recall beyond which more effort brings nothing that sample queries could tell.
pub const ENOUGH: f64 = 0.9995;

/// The recall that a search without numbers stands for, where an index is tuned.
pub const USUAL: f64 = 0.95;

/// Neighbours that other queries of the same kind miss for one that rows of the index miss, or queries that it was trained with: lists
/// were made and regressions fitted with these. (Between recalls of 0.85 and 0.99, nine specifications: glosses 0.88 to 1.1, images
/// 0.88 to 1.25, word vectors 1.08 to 1.33.)
const FAMILIAR: f64 = 1.3;

/// The same for queries whose very neighbours a router was trained to find: 1.9 with `router=linear`, out-of-distribution queries and
/// recall 0.95.
const REMEMBERED: f64 = 2.0;

/// Steps in a row that may bring next to nothing before the search ends.
const IDLE_MAX: usize = 6;

/// Recall that is next to nothing.
const IDLE: f64 = 0.0002;

/// Seconds that an effort is searched for, at least; three runs in any case.
const SECONDS: f64 = 0.05;

/// An effort and what it was measured to bring.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// Lists read a query.
    pub n_probe: usize,
    /// Candidates scored exactly.
    pub n_rerank: usize,
    /// Share of the k true neighbours that other queries will find at least: what the sample found, less a standard error and what
    /// rows that stand in for queries find too easily.
    pub recall: f64,
    /// Share that the half of the sample found by which nothing was chosen, as it was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// Queries a second, in the fastest of the runs.
    pub qps: f64,
}

/// The queries that an index was tuned with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QuerySource {
    /// An older table, which does not say.
    #[default]
    Unknown,
    /// Queries given for it.
    Given,
    /// Queries that the index was trained with.
    Training,
    /// Rows of the index, each left out of its own neighbours.
    Rows,
}

impl QuerySource {
    /// Neighbours that other queries of the kind miss for one that these miss.
    fn familiar(self, has_trained_router: bool) -> f64 {
        match self {
            Self::Training if has_trained_router => REMEMBERED,
            Self::Rows | Self::Training => FAMILIAR,
            Self::Given | Self::Unknown => 1.0,
        }
    }
}

impl std::fmt::Display for QuerySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "queries",
            Self::Given => "queries given",
            Self::Training => "training queries",
            Self::Rows => "rows as queries",
        })
    }
}

/// The frontier of recall and speed for one `k` on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// Neighbours a query.
    pub k: usize,
    /// The device it was measured on, as [`crate::DeviceInfo`] names it.
    pub device: String,
    /// Queries it was measured with.
    pub n_queries: usize,
    /// The kind of these queries.
    #[serde(default)]
    pub source: QuerySource,
    /// Queries a call.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Efforts, recall and cost ascending.
    pub points: Vec<OperatingPoint>,
}

impl Tuning {
    /// The same with one effort more, as far as no other beats it.
    #[must_use]
    pub fn with(mut self, point: OperatingPoint) -> Self {
        self.points.push(point);
        self.points = frontier(self.points);
        self
    }

    /// The fastest effort whose recall is `recall` or more.
    #[must_use]
    pub fn cheapest(&self, recall: f64) -> Option<&OperatingPoint> {
        self.points.iter().find(|point| point.recall >= recall)
    }

    /// One of its efforts as a choice.
    fn choice(&self, point: &OperatingPoint) -> Choice {
        Choice {
            effort: Effort { n_probe: point.n_probe, n_rerank: point.n_rerank },
            recall: point.recall,
            k: self.k,
            device: self.device.clone(),
            source: self.source,
        }
    }

    /// `cpu`, `gpu` or `reference`.
    fn kind(&self) -> &str {
        kind(&self.device)
    }

    /// Whether it can stand in an index of so many lists and points.
    fn fits(&self, n_lists: usize, n: usize) -> bool {
        let sound = |point: &OperatingPoint| {
            (1..=n_lists).contains(&point.n_probe)
                && (1..=n).contains(&point.n_rerank)
                && (0.0..=1.0).contains(&point.recall)
                && point.held_out.is_none_or(|held_out| (0.0..=1.0).contains(&held_out))
                && point.qps >= 0.0
        };
        let is_plain = self.device.len() <= 200 && !self.device.contains(char::is_control);
        self.k > 0
            && is_plain
            && self.points.iter().all(sound)
            && self.points.is_sorted_by(|a, b| a.recall <= b.recall)
    }
}

fn kind(device: &str) -> &str {
    device.split(':').next().unwrap_or_default()
}

/// Reads the tunings of an index; entries that make no sense for it are refused.
pub(crate) fn parse(text: Option<&str>, n_lists: usize, n: usize) -> Option<Vec<Tuning>> {
    let Some(text) = text else { return Some(Vec::new()) };
    let tunings: Vec<Tuning> = serde_json::from_str(text).ok()?;
    tunings.iter().all(|tuning| tuning.fits(n_lists, n)).then_some(tunings)
}

/// The text that [`parse`] reads.
pub(crate) fn text(tunings: &[Tuning]) -> String {
    serde_json::json!(tunings).to_string()
}

/// Puts a tuning in the place of the one for the same `k` on the same kind of device.
pub(crate) fn replace(tunings: &mut Vec<Tuning>, tuning: Tuning) {
    tunings.retain(|old| old.k != tuning.k || old.kind() != tuning.kind());
    tunings.push(tuning);
    tunings.sort_by(|a, b| a.k.cmp(&b.k).then_with(|| a.device.cmp(&b.device)));
}

/// A choice of effort, and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The effort.
    pub effort: Effort,
    /// The recall measured for it.
    pub recall: f64,
    /// The `k` that it was measured for: the one asked for, or the next larger one that was tuned.
    pub k: usize,
    /// The device that it was measured on.
    pub device: String,
    /// The queries that it was measured with.
    pub source: QuerySource,
}

/// The best there is for [`USUAL`], if the index is tuned for `k`: an effort that reaches it, else the one that comes nearest.
pub(crate) fn usual(tunings: &[Tuning], device: &str, k: usize) -> Option<Choice> {
    match choose(tunings, device, k, USUAL) {
        Ok(choice) => Some(choice),
        Err(_) => {
            let tuning = nearest(tunings, device, k)?;
            tuning.points.last().map(|point| tuning.choice(point))
        }
    }
}

/// What the largest `k` that an index is tuned for takes, scaled to a larger one.
pub(crate) fn beyond(tunings: &[Tuning], device: &str, k: usize) -> Option<Effort> {
    let largest = tunings.iter().map(|tuning| tuning.k).max()?;
    let Effort { n_probe, n_rerank } = usual(tunings, device, largest)?.effort;
    Some(Effort { n_probe, n_rerank: n_rerank.saturating_mul(k) / largest.max(1) })
}

/// The tuning for the least k that suffices, of this kind of device if there is one.
fn nearest<'t>(tunings: &'t [Tuning], device: &str, k: usize) -> Option<&'t Tuning> {
    let fits = tunings.iter().filter(|tuning| tuning.k >= k);
    fits.min_by_key(|tuning| (tuning.k, tuning.kind() != kind(device)))
}

/// Chooses the cheapest effort for a recall: by the tuning for the least `k` that suffices, of this kind of device if there is
/// one, else of another.
pub(crate) fn choose(tunings: &[Tuning], device: &str, k: usize, recall: f64) -> Result<Choice, SearchError> {
    if !(recall > 0.0 && recall <= 1.0) {
        return Err(SearchError::RecallRange { given: recall.to_string() });
    }
    let Some(tuning) = nearest(tunings, device, k) else {
        let tuned = tunings.iter().map(|tuning| tuning.k).max();
        return Err(SearchError::NotTuned { k, tuned });
    };
    match tuning.cheapest(recall) {
        Some(point) => Ok(tuning.choice(point)),
        None => {
            let best = tuning.points.last().map_or(0.0, |point| point.recall);
            Err(SearchError::RecallTooHigh {
                given: recall.to_string(),
                best: format!("{best:.4}"),
                k: tuning.k,
            })
        }
    }
}

/// What a tuning is measured with.
pub struct Tuner<'a> {
    /// The index on the device to tune for.
    pub searcher: &'a Searcher,
    /// Its index.
    pub index: &'a Index,
    /// Sample queries, `[n_queries, d]`.
    pub queries: ArrayView2<'a, f32>,
    /// What they should find.
    pub recall: &'a Recall<'a>,
    /// Neighbours a query.
    pub k: usize,
    /// Queries a call.
    pub batch: usize,
    /// Threads for a batch: 0 takes rayon's current pool.
    pub threads: usize,
    /// The kind of the queries: rows of the index, and queries that it was trained with, find more than others of their kind, and
    /// recall is reported accordingly.
    pub source: QuerySource,
    /// Where the queries are points of the index: their ids, which do not count among their own neighbours.
    pub own: Option<&'a [u64]>,
    /// Whether every other query only checks what the rest say.
    pub checks: bool,
    /// Recall from which on more effort is not tried: [`ENOUGH`], or less.
    pub enough: f64,
}

impl Tuner<'_> {
    /// Searches the frontier. `step` is called with every effort measured and says whether to go on.
    ///
    /// # Errors
    /// As [`Searcher::search`].
    pub fn run(&self, step: &mut dyn FnMut(&OperatingPoint) -> bool) -> Result<Tuning, SearchError> {
        let n_lists = self.index.n_lists();
        let reranks = self.index.spec().refine.is_some();
        let k = self.k.min(self.index.len());
        let most = if reranks { self.index.len().min(100 * k.max(10)) } else { k };
        let mut measured: Vec<Measured> = Vec::new();
        let mut at = self.measure_with_mean(1, k)?;
        let mut goes_on = step(&at.point);
        measured.push(at);
        let mut idle = 0;
        while goes_on && at.point.recall < self.enough && idle < IDLE_MAX {
            let mut next: Option<(f64, Measured)> = None;
            let OperatingPoint { n_probe, n_rerank, qps, .. } = at.point;
            for effort in
                [(raised(n_probe, 4, 1).min(n_lists), n_rerank), (n_probe, raised(n_rerank, 3, 5).min(most))]
            {
                if effort == (n_probe, n_rerank) {
                    continue;
                }
                let known = measured.iter().find(|m| (m.point.n_probe, m.point.n_rerank) == effort);
                let tried = match known {
                    Some(known) => *known,
                    None => {
                        let tried = self.measure_with_mean(effort.0, effort.1)?;
                        goes_on &= step(&tried.point);
                        measured.push(tried);
                        tried
                    }
                };
                // Recall for the time it takes; never less than a hundredth more, which is what clocks are good for. What was found,
                // not what is counted, which may be nothing for long.
                let time = (1.0 / tried.point.qps - 1.0 / qps).max(0.01 / qps);
                let gain = (tried.mean - at.mean) / time;
                if next.is_none_or(|(best, _)| gain > best) {
                    next = Some((gain, tried));
                }
            }
            let Some((_, tried)) = next else { break };
            idle = if tried.mean > at.mean + IDLE { 0 } else { idle + 1 };
            at = tried;
        }
        Ok(Tuning {
            k: self.k,
            device: self.searcher.device().name.clone(),
            n_queries: self.queries.nrows(),
            source: self.source,
            batch: self.batch,
            threads: if self.threads == 0 { rayon::current_num_threads() } else { self.threads },
            points: frontier(measured.into_iter().map(|measured| measured.point).collect()),
        })
    }

    /// Measures one effort.
    ///
    /// # Errors
    /// As [`Searcher::search`].
    pub fn measure(&self, n_probe: usize, n_rerank: usize) -> Result<OperatingPoint, SearchError> {
        Ok(self.measure_with_mean(n_probe, n_rerank)?.point)
    }

    fn measure_with_mean(&self, n_probe: usize, n_rerank: usize) -> Result<Measured, SearchError> {
        // One more where the query itself is found first.
        let k = self.k + usize::from(self.own.is_some());
        let mut params = SearchParams::new(k).n_probe(n_probe).threads(self.threads);
        params.n_rerank = Some(n_rerank.max(k));
        let n = self.queries.nrows();
        let mut runs = Vec::new();
        let mut ids = Array2::from_elem((n, k), NO_ID);
        let since = Instant::now();
        while runs.len() < 4 || since.elapsed().as_secs_f64() < SECONDS {
            let run = Instant::now();
            for start in (0..n).step_by(self.batch.max(1)) {
                let rows = start..n.min(start + self.batch.max(1));
                let hits = self.searcher.search(self.queries.slice(s![rows.clone(), ..]), params)?;
                ids.slice_mut(s![rows, ..]).assign(&hits.ids);
            }
            runs.push(run.elapsed().as_secs_f64());
        }
        // What else the machine does only ever adds time.
        let fastest = runs.into_iter().fold(f64::INFINITY, f64::min);
        if let Some(own) = self.own {
            ids = without(&ids, own);
        }
        let found = self.recall.each(ids.view());
        let chooses = |i: &usize| !self.checks || i.is_multiple_of(2);
        let (choosing, checking): (Vec<usize>, Vec<usize>) = (0..n).partition(chooses);
        let of = |rows: &[usize]| rows.iter().map(|&i| found[i]).sum::<f64>() / rows.len().max(1) as f64;
        let mean = of(&choosing);
        let square: f64 = choosing.iter().map(|&i| (found[i] - mean).powi(2)).sum();
        let error = square.sqrt() / choosing.len().max(1) as f64;
        let router = self.index.spec().ivf.map(|ivf| ivf.router).unwrap_or_default();
        let familiar = self.source.familiar(router.is_trained());
        let recall = (1.0 - familiar * (1.0 - mean) - error).max(0.0);
        // As many digits as mean something, which is also what a file gives back.
        let rounded = |v: f64| (v * 1e6).round() / 1e6;
        let point = OperatingPoint {
            n_probe,
            n_rerank,
            recall: rounded(recall),
            held_out: (!checking.is_empty()).then(|| rounded(of(&checking))),
            qps: (n as f64 / fastest.max(1e-9)).round().max(1.0),
        };
        Ok(Measured { point, mean })
    }
}

/// An effort, and the recall of the queries that choose, as it was counted.
#[derive(Clone, Copy)]
struct Measured {
    point: OperatingPoint,
    mean: f64,
}

/// `value` and a `1/share` of it, at least `step` more.
fn raised(value: usize, share: usize, step: usize) -> usize {
    value + (value / share).max(step)
}

/// Each row without its own id, one place narrower.
pub fn without(ids: &Array2<u64>, own: &[u64]) -> Array2<u64> {
    let width = ids.ncols().saturating_sub(1);
    let mut out = Array2::from_elem((ids.nrows(), width), NO_ID);
    for ((row, mut out), own) in ids.outer_iter().zip(out.outer_iter_mut()).zip(own) {
        for (out, id) in out.iter_mut().zip(row.iter().filter(|id| *id != own)) {
            *out = *id;
        }
    }
    out
}

/// The points that no other beats in recall and speed, recall ascending.
fn frontier(mut points: Vec<OperatingPoint>) -> Vec<OperatingPoint> {
    points.sort_by(|a, b| b.recall.total_cmp(&a.recall).then(b.qps.total_cmp(&a.qps)));
    let mut fastest = 0.0;
    points.retain(|point| {
        let beats = point.qps > fastest;
        fastest = point.qps.max(fastest);
        beats
    });
    points.reverse();
    points
}
