//! Training what ranks lists: weights and a bias each, `⟨t, w⟩ − b`, which cost what centroids cost, and a network in front of them.
//!
//! Weights and biases begin as the centroids', and t is the query until there is a network (`train/classes.rs`). What they learn to find
//! are the lists that hold a query's true neighbours, or, as in the paper on convolutional routers, the list that the query
//! falls into by the centroids: that they know to begin with.
//!
//! Neighbours are found among the points as they are given, in int8. Where no queries are given points are asked for themselves, and
//! they themselves do not count.
//!
//! What is kept is what did best on queries held out; of network, weights and centroids each only where those before it do not read
//! fewer lists for any of three shares of the neighbours.

use std::{
    borrow::Cow,
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{
    block::{BLOCK, BlockQuery},
    metric::Metric,
    network::OwnValues,
    simd::{BlockRun, Simd},
    spec::RouterTarget,
    topk::Candidates,
    train::{
        ReadRows,
        classes::{self, Classes, Examples, Front, Schedule},
        kmeans::{Centroids, squared_norm},
        sample,
    },
};
#[cfg(feature = "neural")]
use crate::{
    network::conv,
    train::conv::{ConvNetwork, deviation},
};

/// The metadata entry of how a router was trained.
pub(crate) const ROUTING: &str = "routing";

/// Training queries, at most.
pub(crate) const QUERIES: usize = 65_536;

/// True neighbours of each.
pub(crate) const NEIGHBOURS: usize = 10;

/// Training queries held out, at most.
pub(crate) const HELD_OUT: usize = 2000;

/// Weights and biases are trained like this.
pub(crate) const SCHEDULE: Schedule = Schedule { epochs: 12, patience: 3, batch: 512, rates: [2e-3, 0.0] };

/// A network in front, and weights with it.
#[cfg(feature = "neural")]
const NETWORK_SCHEDULE: Schedule = Schedule { epochs: 12, patience: 3, batch: 512, rates: [1e-5, 1e-5] };

/// Share of the neighbours of queries held out that are in the first list from which on there is nothing to learn.
#[cfg(feature = "neural")]
const KNOWN: f64 = 0.999;

/// Queries that meet a point together.
const TOGETHER: usize = 4;

/// Queries that meet a tile of points while it is cached, and its bytes.
const ASKED: usize = 128;
const TILE: usize = 1 << 19;

/// Shares of the neighbours that routers are compared at.
const SHARES: [f64; 3] = [0.90, 0.95, 0.99];

/// What a router is trained for, and on.
pub(crate) struct Request<'a> {
    pub metric: Metric,
    pub centroids: &'a Centroids,
    /// Points as they are given.
    pub points: &'a dyn ReadRows,
    /// Queries like those to come as they are given; `None`: the points.
    pub queries: Option<&'a dyn ReadRows>,
    /// The queries are the points, row by row.
    pub are_points: bool,
    /// The same queries, or points, as routers see them, `[t, s]`.
    pub reduced: &'a [f32],
}

/// Training queries, and what they are to find.
pub(crate) struct Asked {
    /// Length that counts as 1.
    unit: f32,
    /// `[t, s]`, in units; the first are held out.
    queries: Vec<f32>,
    goal: Goal,
    n_held: usize,
}

/// What a query is to find.
enum Goal {
    /// Lists of its true neighbours: rows of these, `[t, k]`.
    Neighbours(Vec<u32>, usize),
    /// The list that it falls into, `[t]`.
    Labels(Vec<u32>),
}

/// What training has found.
pub(crate) struct Trained {
    /// What ranks lists.
    pub weights: Centroids,
    /// The network in front, where one was asked for: as it started, where nothing better was found.
    pub network: Option<OwnValues>,
    pub outcome: Outcome,
}

/// Lists to be read for each of [`SHARES`].
type Lists = [usize; SHARES.len()];

/// How a router was trained.
pub(crate) struct Outcome {
    queries: usize,
    /// What queries were to find.
    sought: &'static str,
    epochs: usize,
    by_centroids: Lists,
    by_weights: Lists,
    /// Epochs of a network, and lists with it.
    network: Option<(usize, Lists)>,
    /// Nothing was left for a network to learn.
    is_known: bool,
    kept: Kept,
}

/// The last of these that reads fewer lists than those before it.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Centroids,
    Weights,
    #[cfg_attr(not(feature = "neural"), allow(dead_code, reason = "trained by that feature only"))]
    Network,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |lists: Lists| lists.map(|n| n.to_string()).join(", ");
        let shares = SHARES.map(|share| format!("{share:.2}")).join(", ");
        write!(f, "{} queries, {} epochs", self.queries, self.epochs)?;
        if let Some((epochs, _)) = self.network {
            write!(f, ", of a network {epochs}")?;
        }
        write!(f, "; lists read for {shares} of the {} of queries held out: ", self.sought)?;
        if let Some((_, lists)) = self.network {
            write!(f, "{} behind the network, ", join(lists))?;
        }
        write!(f, "{} by weights, {} by centroids", join(self.by_weights), join(self.by_centroids))?;
        if self.is_known {
            f.write_str("; nothing is left to learn, and the network is nothing")?;
        }
        match (self.kept, self.network) {
            (Kept::Centroids, _) => f.write_str(": centroids are kept"),
            (Kept::Weights, Some(_)) => f.write_str(": weights are kept, and the network is nothing"),
            (Kept::Network, _) => f.write_str(": the network is kept"),
            (Kept::Weights, None) => f.write_str(": weights are kept"),
        }
    }
}

impl Asked {
    /// Samples queries, and finds what they are to find.
    ///
    /// `report` is told of each share of the queries that has found its neighbours and says whether to go on; where it does not, what is found is of
    /// no use.
    pub fn new(
        request: &Request<'_>,
        target: RouterTarget,
        report: impl Fn(&'static str, u64, u64) -> bool + Sync,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let Request { metric, centroids, points, queries: given, are_points, reduced } = *request;
        let (s, n) = (centroids.s, points.n_rows());
        let mut rows = sample(rng, reduced.len() / s, QUERIES);
        rows.shuffle(rng);
        let chosen = rows.iter().flat_map(|row| &reduced[row * s..(row + 1) * s]);
        let mut queries: Vec<f32> = chosen.copied().collect();
        let goal = match target {
            RouterTarget::Labels => Goal::Labels(centroids.lists_of(&queries)),
            RouterTarget::Neighbours => {
                // A point is its own nearest, which does not count.
                let own = usize::from(are_points && n > 1);
                let k = NEIGHBOURS.min(n - own);
                let asked = given.unwrap_or(points).gather(&rows);
                let mut found = neighbours(metric, points, &asked, k + own, |done, total| {
                    report("neighbours", done, total)
                });
                if own > 0 {
                    let others = rows.iter().zip(found.chunks_exact(k + 1));
                    found = others
                        .flat_map(|(row, found)| {
                            found.iter().filter(|&&point| point as usize != *row).take(k)
                        })
                        .copied()
                        .collect();
                }
                Goal::Neighbours(found, k)
            }
        };
        let lengths =
            centroids.values.chunks_exact(s).map(|c| f64::from(squared_norm(c)).sqrt()).sum::<f64>();
        #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
        let unit = match (lengths / centroids.len() as f64) as f32 {
            unit if unit > 0.0 => unit,
            _ => 1.0,
        };
        queries.iter_mut().for_each(|v| *v /= unit);
        let n_held = (rows.len() / 8).clamp(1, HELD_OUT);
        Self { unit, queries, goal, n_held }
    }

    /// Those to train on and those held out, by the lists of each point, `[n, copies]`; of a single query both parts are made.
    fn examples(&self, lists: &[u32], copies: usize) -> [Examples<'_>; 2] {
        let t = match &self.goal {
            Goal::Neighbours(rows, k) => rows.len() / k,
            Goal::Labels(labels) => labels.len(),
        };
        let s = self.queries.len() / t;
        let part = |rows: std::ops::Range<usize>| {
            let queries = Cow::Borrowed(&self.queries[rows.start * s..rows.end * s]);
            match &self.goal {
                Goal::Neighbours(neighbours, k) => Examples {
                    queries,
                    classes: neighbours[rows.start * k..rows.end * k]
                        .iter()
                        .flat_map(|&point| &lists[point as usize * copies..(point as usize + 1) * copies])
                        .copied()
                        .collect(),
                    width: k * copies,
                    copies,
                    own: Vec::new(),
                },
                Goal::Labels(labels) => {
                    Examples { queries, classes: labels[rows].to_vec(), width: 1, copies: 1, own: Vec::new() }
                }
            }
        };
        [part(if t > self.n_held { self.n_held } else { 0 }..t), part(0..self.n_held)]
    }

    /// Trains a router on the lists of each point, `[n, copies]`, and with a `width` a network in front; `report` is told of each
    /// step of a stage and says whether to go on.
    pub fn train(
        &self,
        centroids: &Centroids,
        lists: &[u32],
        copies: usize,
        width: Option<usize>,
        report: impl Fn(&'static str, u64, u64) -> bool,
        rng: &mut ChaCha8Rng,
    ) -> Trained {
        let unit = self.unit;
        let [examples, held] = self.examples(lists, copies);
        let start = Classes {
            w: centroids.values.iter().map(|v| v / unit).collect(),
            b: centroids.bias().iter().map(|v| v / unit / unit).collect(),
        };
        let by_centroids = lists_read(&held, &start, None);
        let parts = [&examples, &held];
        let steps = |done, total| report("routing", done, total);
        let mut found = classes::train(start.clone(), None, parts, &SCHEDULE, steps, rng);
        let epochs = found.epochs;
        let by_weights = lists_read(&held, &found.classes, None);
        let mut kept = Kept::Weights;
        if !fewer(by_weights, by_centroids) {
            (kept, found.classes) = (Kept::Centroids, start);
        }
        let mut outcome = Outcome {
            queries: examples.len(),
            sought: match self.goal {
                Goal::Neighbours(..) => "neighbours",
                Goal::Labels(_) => "nearest centroids",
            },
            epochs,
            by_centroids,
            by_weights,
            network: None,
            is_known: false,
            kept,
        };
        let mut weights = found.classes;
        let mut network = None;
        if let Some(width) = width {
            #[cfg(feature = "neural")]
            {
                network = Some(self.with_network(&mut weights, parts, width, &mut outcome, report, rng));
            }
            #[cfg(not(feature = "neural"))]
            {
                // Builds without the feature refuse such specifications.
                let _ = (width, &mut weights, &mut outcome, &mut network);
            }
        }
        let weights = if outcome.kept == Kept::Centroids {
            centroids.ranked_by(centroids.values.clone(), centroids.bias().to_vec())
        } else {
            let Classes { mut w, mut b } = weights;
            w.iter_mut().for_each(|v| *v *= unit);
            b.iter_mut().for_each(|v| *v = *v * unit * unit);
            centroids.ranked_by(w, b)
        };
        Trained { weights, network, outcome }
    }

    /// Trains a network in front of weights, and these with it; returns it as an index stores it.
    #[cfg(feature = "neural")]
    fn with_network(
        &self,
        weights: &mut Classes,
        parts: [&Examples<'_>; 2],
        width: usize,
        outcome: &mut Outcome,
        report: impl Fn(&'static str, u64, u64) -> bool,
        rng: &mut ChaCha8Rng,
    ) -> OwnValues {
        let s = weights.w.len() / weights.b.len();
        let shape = conv::Shape { s, width, channels: 1 };
        let network = ConvNetwork::new(shape, deviation(&parts[0].queries), Vec::new(), rng);
        let front = Front::new(&network);
        let start = network.nothing();
        let before = lists_read(parts[1], weights, None);
        let ranks = parts[1].ranks(weights, None);
        if ranks.partition_point(|&rank| rank == 1) as f64 >= KNOWN * ranks.len() as f64 {
            outcome.is_known = true;
            return start;
        }
        let steps = |done, total| report("network", done, total);
        let found = classes::train(weights.clone(), Some(front), parts, &NETWORK_SCHEDULE, steps, rng);
        let after = lists_read(parts[1], &found.classes, found.front.as_ref());
        outcome.network = Some((found.epochs, after));
        match found.front {
            Some(front) if found.is_better && fewer(after, before) => {
                outcome.kept = Kept::Network;
                *weights = found.classes;
                network.stored(&front.values, self.unit)
            }
            _ => start,
        }
    }
}

/// Whether some share takes fewer lists, and none more.
fn fewer(lists: Lists, than: Lists) -> bool {
    lists != than && lists.iter().zip(than).all(|(lists, than)| *lists <= than)
}

/// Lists to be read until each of [`SHARES`] of the neighbours is in one of them.
fn lists_read(held: &Examples<'_>, classes: &Classes, front: Option<&Front<'_>>) -> Lists {
    let ranks = held.ranks(classes, front);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    SHARES.map(|share| ranks[((share * ranks.len() as f64).ceil() as usize).clamp(1, ranks.len()) - 1])
}

/// The `k` nearest points of each query, by int8: `[t, k]`; any `k` where `report` does not go on.
fn neighbours(
    metric: Metric,
    points: &dyn ReadRows,
    queries: &[f32],
    k: usize,
    report: impl Fn(u64, u64) -> bool + Sync,
) -> Vec<u32> {
    let simd = Simd::detect();
    let (n, s) = (points.n_rows(), points.dim());
    let shape = super::shape(s, metric);
    // As many points as stay in a core's cache while many queries meet them.
    let tile = (TILE / shape.run_bytes(1)).max(1) * BLOCK;
    let norm = |x: &[f32]| if metric.is_l2() { squared_norm(x) } else { 0.0 };
    let tiles: Vec<(usize, Vec<u8>)> = (0..n.div_ceil(tile))
        .into_par_iter()
        .map(|i| {
            let rows: Vec<usize> = (i * tile..n.min((i + 1) * tile)).collect();
            let (points, n) = (points.gather(&rows), rows.len());
            let mut run = vec![0; shape.run_bytes(n.div_ceil(BLOCK))];
            shape.encode(points.chunks_exact(s).map(|x| (x[0], &x[1..], norm(x))), &mut run);
            (n, run)
        })
        .collect();
    let mut out: Vec<u32> = (0..queries.len() / s).flat_map(|_| (0..).take(k)).collect();
    let (done, total) = (AtomicU64::new(0), (queries.len() / s).div_ceil(ASKED) as u64);
    report(0, total);
    let stops = AtomicBool::new(false);
    out.par_chunks_mut(ASKED * k).zip(queries.par_chunks(ASKED * s)).for_each(|(out, queries)| {
        if stops.load(Ordering::Relaxed) {
            return;
        }
        let id_of = |point: u32| u64::from(point);
        let m = queries.len() / s;
        // Of fewer than four queries the places left over hold none.
        let mut codes = vec![BlockQuery::default(); m.next_multiple_of(TOGETHER)];
        codes.iter_mut().for_each(|codes| codes.codes.resize(shape.query_len(), 0));
        for (codes, q) in codes.iter_mut().zip(queries.chunks_exact(s)) {
            codes.quantise(simd, q, shape.query_len());
        }
        let mut kept: Vec<Candidates> = (0..codes.len()).map(|_| Candidates::default()).collect();
        kept.iter_mut().for_each(|kept| kept.reset(simd, k));
        let mut first = 0;
        for (n, run) in &tiles {
            for (codes, kept) in
                codes.as_chunks::<TOGETHER>().0.iter().zip(kept.as_chunks_mut::<TOGETHER>().0)
            {
                let run = BlockRun {
                    shape,
                    bytes: run,
                    n_vectors: *n,
                    queries: codes.each_ref(),
                    factor: metric.product_factor(),
                };
                simd.scan_blocks(run, first, kept.each_mut(), &id_of);
            }
            // Points are fewer than 2³².
            first += u32::try_from(*n).unwrap_or(0);
        }
        let mut sorted = Vec::new();
        for (kept, out) in kept.iter_mut().zip(out.chunks_exact_mut(k)) {
            kept.cut(&id_of);
            kept.sort_into(&id_of, &mut sorted);
            for (out, (point, _)) in out.iter_mut().zip(&sorted) {
                *out = *point;
            }
        }
        if !report(done.fetch_add(1, Ordering::Relaxed) + 1, total) {
            stops.store(true, Ordering::Relaxed);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{generator, kmeans, normal};

    const S: usize = 16;

    struct Made(Vec<f32>);

    impl ReadRows for Made {
        fn n_rows(&self) -> usize {
            self.0.len() / S
        }

        fn dim(&self) -> usize {
            S
        }

        fn gather(&self, rows: &[usize]) -> Vec<f32> {
            rows.iter().flat_map(|row| &self.0[row * S..(row + 1) * S]).copied().collect()
        }
    }

    fn made(n: usize, seed: u64, offset: f32) -> Vec<f32> {
        let mut rng = generator(seed, "test");
        let mut rows: Vec<f32> =
            (0..n * S).map(|i| normal(&mut rng) + if i % S == 3 { offset } else { 0.0 }).collect();
        rows.chunks_exact_mut(S).for_each(kmeans::normalise);
        rows
    }

    fn trained(points: &[f32], queries: Option<&[f32]>, copies: usize, n_lists: usize) -> Outcome {
        let mut rng = generator(1, "test");
        let rounds = &kmeans::LIST_ROUNDS;
        let centroids =
            kmeans::train(points, S, n_lists, kmeans::Objective::Angle, rounds, &mut rng, |_| true);
        let first = centroids.lists_of(points);
        let mut lists = first.clone();
        if copies > 1 {
            let further = centroids.spill(points, &first, copies - 1, 1.0);
            let all = first.iter().zip(further.chunks_exact(copies - 1));
            lists = all.flat_map(|(first, further)| [&[*first], further].concat()).collect();
        }
        let (given, asked) = (Made(points.to_vec()), queries.map(|queries| Made(queries.to_vec())));
        let request = Request {
            metric: Metric::Ip,
            centroids: &centroids,
            points: &given,
            queries: asked.as_ref().map(|queries| queries as &dyn ReadRows),
            are_points: asked.is_none(),
            reduced: queries.unwrap_or(points),
        };
        let asked = Asked::new(&request, RouterTarget::Neighbours, |_, _, _| true, &mut rng);
        let Trained { weights, outcome, .. } =
            asked.train(&centroids, &lists, copies, None, |_, _, _| true, &mut rng);
        assert_eq!(weights.len(), n_lists);
        if outcome.kept == Kept::Centroids {
            assert!(weights.values == centroids.values && weights.bias() == centroids.bias());
        }
        outcome
    }

    #[test]
    fn queries_of_another_kind_read_fewer_lists() {
        let (points, queries) = (made(4000, 1, 0.0), made(4000, 2, 3.0));
        // With further copies there is less to gain.
        for (copies, share) in [(1, 0.9), (3, 1.0)] {
            let outcome = trained(&points, Some(&queries), copies, 64);
            let [centroids, trained] =
                [outcome.by_centroids, outcome.by_weights].map(|lists| lists[1] as f64);
            let is_kept = outcome.kept == Kept::Weights;
            assert!(is_kept && trained <= share * centroids, "{copies} copies: {outcome}");
        }
    }

    #[test]
    fn centroids_are_kept_where_training_finds_nothing_better() {
        let points = made(3000, 1, 0.0);
        // What few queries have in common is chance.
        for (queries, n_lists) in [(made(12, 2, 0.0), 64), (made(1, 2, 0.0), 8)] {
            let outcome = trained(&points, Some(&queries), 1, n_lists);
            let is_kept = fewer(outcome.by_weights, outcome.by_centroids);
            assert_eq!(outcome.kept == Kept::Weights, is_kept, "{outcome}");
        }
        for n in [1, 2, 9] {
            trained(&points[..n * S], None, 1, 1);
            trained(&points[..n * S], Some(&points[..S]), 1, n);
        }
    }

    #[test]
    fn neighbours_are_those_of_all_points() {
        let (points, queries) = (made(3001, 1, 0.0), made(131, 2, 0.0));
        for metric in [Metric::Ip, Metric::L2] {
            let found = neighbours(metric, &Made(points.clone()), &queries, 5, |_, _| true);
            for (q, found) in queries.chunks_exact(S).zip(found.chunks_exact(5)) {
                let product = |x: &[f32]| x.iter().zip(q).map(|(a, b)| a * b).sum::<f32>();
                let best = points.chunks_exact(S).map(product).fold(f32::NEG_INFINITY, f32::max);
                let first = product(&points[found[0] as usize * S..][..S]);
                assert!(first >= best - 0.02, "{metric}: {first} of {best}");
                assert!((0..5).all(|i| found[i + 1..].iter().all(|other| *other != found[i])), "{found:?}");
            }
        }
    }
}
