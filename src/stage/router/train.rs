//! Training a linear router: lists are ranked by `⟨q, w⟩ − b`, which costs what centroids cost.
//!
//! Weights w and biases b begin as the centroids'. A training query whose true neighbours are x₁..x_K sees `p = softmax(a·z)` of its
//! lists' scores z; the loss is the mean of `−ln Σ_{l ∋ x_k} p_l`, the surprise that some list of a neighbour is read: with one
//! copy of each point cross-entropy, with several the router may send a query to whichever list suits. Its gradient is closed form,
//! `∂/∂z_l = a·(p_l − r_l)` with `r_l = mean_k [l ∋ x_k]·p_l / Σ_{l' ∋ x_k} p_l'`. The factor a is what the start's loss is least
//! for.
//!
//! Neighbours are found among the reduced points in int8. Where no queries are given points are asked for themselves, and they
//! themselves do not count.
//!
//! What is kept is what did best on queries held out, and the centroids where that reads more lists for any of three shares of the
//! neighbours.

use std::fmt;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{
    block::{BLOCK, BlockQuery},
    metric::Metric,
    simd::{BlockRun, Simd},
    topk::Candidates,
    train::{
        adam::{Adam, Moments},
        kmeans::{Centroids, squared_norm},
        linalg, sample,
    },
};

/// The metadata entry of how a router was trained.
pub(crate) const ROUTING: &str = "routing";

/// Training queries, at most.
pub(crate) const QUERIES: usize = 65_536;

/// True neighbours of each.
pub(crate) const NEIGHBOURS: usize = 10;

/// Training queries held out, at most.
const HELD_OUT: usize = 2000;

/// Times that all training queries are seen, at most.
const EPOCHS: usize = 12;

/// Epochs without a lower loss on those held out after which training stops.
const PATIENCE: usize = 3;

/// Training queries in a step.
const BATCH: usize = 512;

/// AdamW's rate at the start; it falls to nothing.
const RATE: f32 = 2e-3;

/// Queries that meet a point together.
const TOGETHER: usize = 4;

/// Queries that meet a tile of points while it is cached, and its bytes.
const ASKED: usize = 128;
const TILE: usize = 1 << 19;

/// Rows, or lists, in a piece of work.
const PIECE: usize = 64;

/// Shares of the neighbours that routers are compared at.
const SHARES: [f64; 3] = [0.90, 0.95, 0.99];

/// Training queries and their true neighbours.
pub(crate) struct Asked {
    /// Length that counts as 1.
    unit: f32,
    /// `[t, s]`, in units; the first are held out.
    queries: Vec<f32>,
    /// Rows of their neighbours, `[t, k]`.
    neighbours: Vec<u32>,
    k: usize,
    n_held: usize,
}

/// How a router was trained.
pub(crate) struct Outcome {
    epochs: usize,
    queries: usize,
    /// Lists to be read for each of [`SHARES`], by centroids and as trained.
    lists: [[usize; SHARES.len()]; 2],
    kept: bool,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |lists: [usize; SHARES.len()]| lists.map(|n| n.to_string()).join(", ");
        let [centroids, trained] = self.lists.map(join);
        let shares = SHARES.map(|share| format!("{share:.2}")).join(", ");
        write!(
            f,
            "{} queries, {} epochs; lists read for {shares} of the neighbours of queries held out: {trained}, by centroids \
             {centroids}",
            self.queries, self.epochs
        )?;
        if self.kept { Ok(()) } else { f.write_str(": centroids are kept") }
    }
}

/// Queries and the lists of their neighbours.
struct Examples<'a> {
    /// `[t, s]`.
    queries: &'a [f32],
    /// `[t, K, copies]`.
    lists: Vec<u32>,
    /// K·copies.
    width: usize,
    copies: usize,
}

/// Weights `[L, s]` and biases `[L]`, in units in which centroids have about unit length.
#[derive(Clone)]
struct Values {
    w: Vec<f32>,
    b: Vec<f32>,
}

impl Asked {
    /// Samples queries, `[t, s]`, or where there are none the points themselves, `[n, s]`, and finds their neighbours among the points.
    pub fn new(
        metric: Metric,
        centroids: &Centroids,
        points: &[f32],
        queries: Option<&[f32]>,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let s = centroids.s;
        let n = points.len() / s;
        let source = queries.unwrap_or(points);
        let mut rows = sample(rng, source.len() / s, QUERIES);
        rows.shuffle(rng);
        // A point is its own nearest, which does not count.
        let own = usize::from(queries.is_none() && n > 1);
        let k = NEIGHBOURS.min(n - own);
        let chosen = rows.iter().flat_map(|row| &source[row * s..(row + 1) * s]);
        let mut queries: Vec<f32> = chosen.copied().collect();
        let mut neighbours = neighbours(metric, points, &queries, s, k + own);
        if own > 0 {
            let others = rows.iter().zip(neighbours.chunks_exact(k + 1));
            neighbours = others
                .flat_map(|(row, found)| found.iter().filter(|&&point| point as usize != *row).take(k))
                .copied()
                .collect();
        }
        let lengths =
            centroids.values.chunks_exact(s).map(|c| f64::from(squared_norm(c)).sqrt()).sum::<f64>();
        #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
        let unit = match (lengths / centroids.len() as f64) as f32 {
            unit if unit > 0.0 => unit,
            _ => 1.0,
        };
        queries.iter_mut().for_each(|v| *v /= unit);
        let n_held = (rows.len() / 8).clamp(1, HELD_OUT);
        Self { unit, queries, neighbours, k, n_held }
    }

    /// Those to train on and those held out, by the lists of each point, `[n, copies]`; of a single query both parts are made.
    fn examples(&self, lists: &[u32], copies: usize) -> [Examples<'_>; 2] {
        let t = self.neighbours.len() / self.k;
        let s = self.queries.len() / t;
        let part = |rows: std::ops::Range<usize>| Examples {
            queries: &self.queries[rows.start * s..rows.end * s],
            lists: self.neighbours[rows.start * self.k..rows.end * self.k]
                .iter()
                .flat_map(|&point| &lists[point as usize * copies..(point as usize + 1) * copies])
                .copied()
                .collect(),
            width: self.k * copies,
            copies,
        };
        [part(if t > self.n_held { self.n_held } else { 0 }..t), part(0..self.n_held)]
    }

    /// Trains a router on the lists of each point, `[n, copies]`; `report` is told of each epoch and says whether to go on.
    pub fn train(
        &self,
        centroids: &Centroids,
        lists: &[u32],
        copies: usize,
        report: impl Fn(u64, u64) -> bool,
        rng: &mut ChaCha8Rng,
    ) -> (Centroids, Outcome) {
        let (s, n_lists, unit) = (centroids.s, centroids.len(), self.unit);
        let [examples, held] = self.examples(lists, copies);
        let mut values = Values {
            w: centroids.values.iter().map(|v| v / unit).collect(),
            b: centroids.bias().iter().map(|v| v / (unit * unit)).collect(),
        };
        let factor = factor(&values, &held, s);
        let by_centroids = lists_read(&values, &held, s);
        let mut best = (loss(&values, &held, s, factor), values.clone());
        let mut moments = [values.w.len(), n_lists].map(Moments::zero);
        let t = examples.queries.len() / s;
        let steps = t.div_ceil(BATCH);
        let mut order: Vec<usize> = (0..t).collect();
        let (mut epochs, mut waits) = (0, 0);
        while epochs < EPOCHS && waits < PATIENCE && report(epochs as u64, EPOCHS as u64) {
            order.shuffle(rng);
            for (i, rows) in order.chunks(BATCH).enumerate() {
                let step = epochs * steps + i;
                let rate = RATE * (1.0 - step as f32 / (EPOCHS * steps) as f32);
                let adam = Adam { rate, decay: 0.0, step };
                examples.step(&mut values, &mut moments, rows, factor, &adam);
            }
            epochs += 1;
            let loss = loss(&values, &held, s, factor);
            waits += 1;
            if loss < best.0 {
                (best, waits) = ((loss, values.clone()), 0);
            }
        }
        report(EPOCHS as u64, EPOCHS as u64);
        let trained = lists_read(&best.1, &held, s);
        let kept = trained.iter().zip(by_centroids).all(|(trained, centroids)| *trained <= centroids);
        let Values { mut w, mut b } = best.1;
        if kept {
            w.iter_mut().for_each(|v| *v *= unit);
            b.iter_mut().for_each(|v| *v *= unit * unit);
        } else {
            w.clone_from(&centroids.values);
            b.copy_from_slice(centroids.bias());
        }
        let outcome = Outcome { epochs, queries: t, lists: [by_centroids, trained], kept };
        (centroids.ranked_by(w, b), outcome)
    }
}

/// The `k` nearest points of each query, by int8: `[t, k]`.
fn neighbours(metric: Metric, points: &[f32], queries: &[f32], s: usize, k: usize) -> Vec<u32> {
    let simd = Simd::detect();
    let shape = super::shape(s, metric);
    // As many points as stay in a core's cache while many queries meet them.
    let tile = (TILE / shape.run_bytes(1)).max(1) * BLOCK;
    let norm = |x: &[f32]| if metric.is_l2() { squared_norm(x) } else { 0.0 };
    let tiles: Vec<(usize, Vec<u8>)> = points
        .par_chunks(tile * s)
        .map(|points| {
            let n = points.len() / s;
            let mut run = vec![0; shape.run_bytes(n.div_ceil(BLOCK))];
            shape.encode(points.chunks_exact(s).map(|x| (x[0], &x[1..], norm(x))), &mut run);
            (n, run)
        })
        .collect();
    let mut out = vec![0; queries.len() / s * k];
    out.par_chunks_mut(ASKED * k).zip(queries.par_chunks(ASKED * s)).for_each(|(out, queries)| {
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
    });
    out
}

impl Values {
    /// Scores of all lists for queries, `[m, L]`.
    fn scores(&self, queries: &[f32], s: usize) -> Vec<f32> {
        let n_lists = self.b.len();
        let mut z = linalg::par_product(queries, linalg::rows(&self.w, n_lists, s).transpose());
        z.par_chunks_exact_mut(n_lists).for_each(|z| z.iter_mut().zip(&self.b).for_each(|(z, b)| *z -= b));
        z
    }
}

impl Examples<'_> {
    /// One step along the gradient of the examples `rows`.
    fn step(
        &self,
        values: &mut Values,
        moments: &mut [Moments; 2],
        rows: &[usize],
        factor: f32,
        adam: &Adam,
    ) {
        let n_lists = values.b.len();
        let s = values.w.len() / n_lists;
        let x: Vec<f32> =
            rows.iter().flat_map(|row| &self.queries[row * s..(row + 1) * s]).copied().collect();
        let mut z = values.scores(&x, s);
        let share = factor / rows.len() as f32;
        z.par_chunks_exact_mut(n_lists).zip(rows).for_each(|(z, row)| {
            descend(z, &self.lists[row * self.width..(row + 1) * self.width], self.copies, factor);
            z.iter_mut().for_each(|v| *v *= share);
        });
        let slopes = linalg::rows(&z, rows.len(), n_lists);
        let x = linalg::rows(&x, rows.len(), s);
        let [of_w, of_b] = moments.each_mut().map(Moments::parts);
        let [firsts, seconds] = of_w;
        let pieces = values.w.par_chunks_mut(PIECE * s).zip(firsts.par_chunks_mut(PIECE * s));
        pieces.zip(seconds.par_chunks_mut(PIECE * s)).enumerate().for_each(
            |(piece, ((w, firsts), seconds))| {
                let mut gradient = vec![0.0; w.len()];
                let lists = slopes.subcols(piece * PIECE, w.len() / s);
                linalg::product(lists.transpose(), x, &mut gradient);
                adam.step(w, [firsts, seconds], &gradient);
            },
        );
        let gradient: Vec<f32> = (0..n_lists).map(|l| -slopes.col(l).iter().sum::<f32>()).collect();
        adam.step(&mut values.b, of_b, &gradient);
    }
}

/// Turns scores `z` into `p − r`; returns the loss.
fn descend(z: &mut [f32], lists: &[u32], copies: usize, factor: f32) -> f64 {
    let most = z.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let mut sum = 0.0;
    for v in z.iter_mut() {
        *v = (factor * (*v - most)).exp();
        sum += *v;
    }
    z.iter_mut().for_each(|v| *v /= sum);
    let n_neighbours = (lists.len() / copies) as f32;
    let mut loss = 0.0;
    let mut parts = Vec::with_capacity(lists.len());
    for lists in lists.chunks_exact(copies) {
        let chance = lists.iter().map(|&l| z[l as usize]).sum::<f32>().max(f32::MIN_POSITIVE);
        loss -= f64::from(chance.ln());
        parts.extend(lists.iter().map(|&l| (l as usize, z[l as usize] / (chance * n_neighbours))));
    }
    for (list, part) in parts {
        z[list] -= part;
    }
    loss / f64::from(n_neighbours)
}

/// The mean loss.
fn loss(values: &Values, held: &Examples<'_>, s: usize, factor: f32) -> f64 {
    let n_lists = values.b.len();
    let mut z = values.scores(held.queries, s);
    let losses: Vec<f64> = z
        .par_chunks_exact_mut(n_lists)
        .zip(held.lists.par_chunks_exact(held.width))
        .map(|(z, lists)| descend(z, lists, held.copies, factor))
        .collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// The power of two that scores are best multiplied by.
fn factor(values: &Values, held: &Examples<'_>, s: usize) -> f32 {
    let factors = (0..=10).map(|i| f32::from(1_u16 << i));
    let losses = factors.map(|factor| (loss(values, held, s, factor), factor));
    losses.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, factor)| factor)
}

/// Lists to be read until each of [`SHARES`] of the neighbours is in one of them.
fn lists_read(values: &Values, held: &Examples<'_>, s: usize) -> [usize; SHARES.len()] {
    let n_lists = values.b.len();
    let z = values.scores(held.queries, s);
    let mut ranks: Vec<usize> = z
        .par_chunks_exact(n_lists)
        .zip(held.lists.par_chunks_exact(held.width))
        .flat_map_iter(|(z, lists)| {
            lists.chunks_exact(held.copies).map(|lists| {
                let best = lists.iter().fold(f32::NEG_INFINITY, |m, &l| m.max(z[l as usize]));
                1 + z.iter().filter(|&&v| v > best).count()
            })
        })
        .collect();
    ranks.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    SHARES.map(|share| ranks[((share * ranks.len() as f64).ceil() as usize).clamp(1, ranks.len()) - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{generator, kmeans, normal};

    const S: usize = 16;

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
        let asked = Asked::new(Metric::Ip, &centroids, points, queries, &mut rng);
        let (router, outcome) = asked.train(&centroids, &lists, copies, |_, _| true, &mut rng);
        assert_eq!(router.len(), n_lists);
        if !outcome.kept {
            assert!(router.values == centroids.values && router.bias() == centroids.bias());
        }
        outcome
    }

    #[test]
    fn queries_of_another_kind_read_fewer_lists() {
        let (points, queries) = (made(4000, 1, 0.0), made(4000, 2, 3.0));
        // With further copies there is less to gain.
        for (copies, share) in [(1, 0.9), (3, 1.0)] {
            let outcome = trained(&points, Some(&queries), copies, 64);
            let [centroids, trained] = outcome.lists.map(|lists| lists[1] as f64);
            assert!(outcome.kept && trained <= share * centroids, "{copies} copies: {outcome}");
        }
    }

    #[test]
    fn centroids_are_kept_where_training_finds_nothing_better() {
        let points = made(3000, 1, 0.0);
        // What few queries have in common is chance.
        for (queries, n_lists) in [(made(12, 2, 0.0), 64), (made(1, 2, 0.0), 8)] {
            let outcome = trained(&points, Some(&queries), 1, n_lists);
            let [centroids, trained] = outcome.lists;
            assert_eq!(outcome.kept, trained.iter().zip(centroids).all(|(a, b)| *a <= b), "{outcome}");
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
            let found = neighbours(metric, &points, &queries, S, 5);
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
