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

/// What a router is trained on.
pub(crate) struct Task<'a> {
    pub metric: Metric,
    pub centroids: &'a Centroids,
    /// Reduced points, `[n, s]`.
    pub points: &'a [f32],
    /// Lists of each point, `[n, copies]`.
    pub lists: &'a [u32],
    /// Reduced queries, `[t, s]`, where there are any beside the points.
    pub queries: Option<&'a [f32]>,
    /// Told of each step of a stage; `false` stops, and then the result is of no use.
    pub report: &'a dyn Fn(&'static str, u64, u64) -> bool,
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
struct Examples {
    /// `[t, s]`.
    queries: Vec<f32>,
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

/// Trains a router.
pub(crate) fn linear(task: &Task<'_>, rng: &mut ChaCha8Rng) -> (Centroids, Outcome) {
    let (s, n_lists) = (task.centroids.s, task.centroids.len());
    let lengths: f64 = task.centroids.values.chunks_exact(s).map(|c| f64::from(squared_norm(c)).sqrt()).sum();
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    let unit = match (lengths / n_lists as f64) as f32 {
        unit if unit > 0.0 => unit,
        _ => 1.0,
    };
    (task.report)("neighbours", 0, 1);
    let (examples, held) = examples(task, unit, rng);
    (task.report)("neighbours", 1, 1);
    let mut values = Values {
        w: task.centroids.values.iter().map(|v| v / unit).collect(),
        b: task.centroids.bias().iter().map(|v| v / (unit * unit)).collect(),
    };
    let factor = factor(&values, &held, s);
    let by_centroids = lists_read(&values, &held, s);
    let mut best = (loss(&values, &held, s, factor), values.clone());
    let mut moments = [values.w.len(), n_lists].map(Moments::zero);
    let t = examples.queries.len() / s;
    let steps = t.div_ceil(BATCH);
    let mut order: Vec<usize> = (0..t).collect();
    let (mut epochs, mut waits) = (0, 0);
    while epochs < EPOCHS && waits < PATIENCE && (task.report)("routing", epochs as u64, EPOCHS as u64) {
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
    (task.report)("routing", EPOCHS as u64, EPOCHS as u64);
    let trained = lists_read(&best.1, &held, s);
    let kept = trained.iter().zip(by_centroids).all(|(trained, centroids)| *trained <= centroids);
    let chosen = if kept {
        let Values { mut w, mut b } = best.1;
        w.iter_mut().for_each(|v| *v *= unit);
        b.iter_mut().for_each(|v| *v *= unit * unit);
        (w, b)
    } else {
        (task.centroids.values.clone(), task.centroids.bias().to_vec())
    };
    let outcome = Outcome { epochs, queries: t, lists: [by_centroids, trained], kept };
    (task.centroids.ranked_by(chosen.0, chosen.1), outcome)
}

/// Training queries with their neighbours' lists, and those held out.
fn examples(task: &Task<'_>, unit: f32, rng: &mut ChaCha8Rng) -> (Examples, Examples) {
    let s = task.centroids.s;
    let n = task.points.len() / s;
    let copies = task.lists.len() / n;
    let source = task.queries.unwrap_or(task.points);
    let mut rows = sample(rng, source.len() / s, QUERIES);
    rows.shuffle(rng);
    let own = task.queries.is_none();
    let k = NEIGHBOURS.min(n - usize::from(own && n > 1));
    let queries: Vec<f32> = rows.iter().flat_map(|row| &source[row * s..(row + 1) * s]).copied().collect();
    let found = neighbours(task.metric, task.points, &queries, s, k + usize::from(own));
    let mut lists = Vec::with_capacity(rows.len() * k * copies);
    for (row, found) in rows.iter().zip(found.chunks_exact(k + usize::from(own))) {
        let others = found.iter().filter(|&&point| !(own && point as usize == *row && n > 1)).take(k);
        for &point in others {
            lists.extend_from_slice(&task.lists[point as usize * copies..(point as usize + 1) * copies]);
        }
    }
    let queries: Vec<f32> = queries.into_iter().map(|v| v / unit).collect();
    let held = (rows.len() / 8).clamp(1, HELD_OUT);
    let width = k * copies;
    let part = |from: usize, to: usize| Examples {
        queries: queries[from * s..to * s].to_vec(),
        lists: lists[from * width..to * width].to_vec(),
        width,
        copies,
    };
    // Of a single row both parts are made.
    let first = if rows.len() > held { held } else { 0 };
    (part(first, rows.len()), part(0, held))
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

impl Examples {
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
fn loss(values: &Values, held: &Examples, s: usize, factor: f32) -> f64 {
    let n_lists = values.b.len();
    let mut z = values.scores(&held.queries, s);
    let losses: Vec<f64> = z
        .par_chunks_exact_mut(n_lists)
        .zip(held.lists.par_chunks_exact(held.width))
        .map(|(z, lists)| descend(z, lists, held.copies, factor))
        .collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// The power of two that scores are best multiplied by.
fn factor(values: &Values, held: &Examples, s: usize) -> f32 {
    let factors = (0..=10).map(|i| f32::from(1_u16 << i));
    let losses = factors.map(|factor| (loss(values, held, s, factor), factor));
    losses.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, factor)| factor)
}

/// Lists to be read until each of [`SHARES`] of the neighbours is in one of them.
fn lists_read(values: &Values, held: &Examples, s: usize) -> [usize; SHARES.len()] {
    let n_lists = values.b.len();
    let z = values.scores(&held.queries, s);
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
