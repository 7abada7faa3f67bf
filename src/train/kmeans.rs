//! k-means: the partition of points into lists.
//!
//! Lloyd's iteration, first on a small sample and then on a larger one: centroids are nearly settled when the
//! costly rounds begin. For l2 a point belongs to the nearest
//! centroid; for products centroids have unit length and a point belongs to the one of largest product
//! (spherical k-means, Dhillon & Modha 2001). Either way the best list maximises `⟨x, c⟩ − b(c)`, with
//! `b = ‖c‖²/2` for l2 and 0 for products. An assignment works out all products in int8, four points at a time and four
//! times as fast as in f32, and decides in f32 between the few lists that the rounding leaves in question; where several
//! lists of a point are wanted, [`Centroids::nearest`] ranks them by int8 alone, as a query's router does. Centroids may
//! also minimise the score-aware loss (`score_aware.rs`), by products in f32.
//!
//! [`Centroids::spill`] gives points further lists by SOAR's loss (Sun et al., "SOAR: Improved Indexing for
//! Approximate Nearest Neighbor Search", NeurIPS 2023, Theorem 3.1).

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    linalg, sample,
    score_aware::{ScoreAware, conjugate_gradient},
};
use crate::{
    block::{BLOCK, BlockQuery, BlockShape},
    simd::{BlockRun, Simd},
    spec::Bits,
};

/// Points that meet the centroids together.
const TOGETHER: usize = 4;

/// Standard deviations of int8's error that two products may lie apart for f32 to decide between them. For errors that
/// are independent that misses one in 10⁷, and then a point is in the second-best list.
const DOUBT: f32 = 8.0;

/// Points in one piece of work, and rows of one matrix product: with 1 024 lists its scores fill half a megabyte, so
/// they stay in cache.
const CHUNK: usize = 128;

/// Rounds of Lloyd's iteration: how many, and on how many sampled points a list. Ten rounds on 256 points a
/// list took 1.75 times as long (115 659 points of 192 dimensions, 1 024 lists) and changed recall at equal
/// lists by less than 0.002.
pub(crate) const LIST_ROUNDS: [(usize, usize); 3] = [(6, 32), (2, 64), (2, 128)];

/// Lloyd iterations in all.
pub(crate) const ITERATIONS: usize = LIST_ROUNDS[0].0 + LIST_ROUNDS[1].0 + LIST_ROUNDS[2].0;

/// Steps of conjugate gradients that settle a centroid: it starts from the last round's, and the system's condition
/// is η, about 10.
const CENTROID_STEPS: usize = 12;

/// What centroids minimise over their points.
#[derive(Clone, Copy)]
pub(crate) enum Objective {
    /// Squared distance.
    Distance,
    /// Angle: centroids have unit length.
    Angle,
    /// The score-aware loss, and whether queries look for products: the router's biases follow the metric.
    ScoreAware(ScoreAware, bool),
}

/// Centroids, `[n_lists, s]` row-major, and each one's bias.
pub(crate) struct Centroids {
    pub values: Vec<f32>,
    pub s: usize,
    objective: Objective,
    /// A query takes the lists of largest `⟨q, c⟩ − bias`.
    bias: Vec<f32>,
    /// `‖c‖²/2`.
    half_norms: Vec<f32>,
    blocks: Blocks,
    simd: Simd,
}

/// Centroids in int8.
#[derive(Default)]
struct Blocks {
    /// As `block.rs` lays them out, biases as norms.
    run: Vec<u8>,
    /// Largest length beside coordinate 0, and largest code step.
    length: f32,
    step: f32,
}

/// Room for points that meet the centroids.
#[derive(Default)]
struct Meeting {
    rows: Vec<f32>,
    queries: [BlockQuery; TOGETHER],
    scores: [Vec<f32>; TOGETHER],
    contenders: Vec<u32>,
}

impl Centroids {
    fn new(values: Vec<f32>, s: usize, objective: Objective) -> Self {
        let mut centroids = Self {
            values,
            s,
            objective,
            bias: Vec::new(),
            half_norms: Vec::new(),
            blocks: Blocks::default(),
            simd: Simd::detect(),
        };
        centroids.settle();
        centroids
    }

    /// Scales to unit length where the objective is the angle; recomputes the biases.
    fn settle(&mut self) {
        if matches!(self.objective, Objective::Angle) {
            for row in self.values.chunks_exact_mut(self.s) {
                normalise(row);
            }
        }
        self.half_norms = self.values.chunks_exact(self.s).map(|row| squared_norm(row) / 2.0).collect();
        let is_product = matches!(self.objective, Objective::Angle | Objective::ScoreAware(_, true));
        self.bias = if is_product { vec![0.0; self.half_norms.len()] } else { self.half_norms.clone() };
        self.encode();
    }

    /// What ranks lists like these centroids, but by values and biases of its own.
    pub fn ranked_by(&self, values: Vec<f32>, bias: Vec<f32>) -> Self {
        let mut other = Self::new(values, self.s, Objective::Distance);
        other.bias = bias;
        other.encode();
        other
    }

    /// The same centroids for queries that look for products, whatever points were assigned by.
    pub fn for_products(self) -> Self {
        let bias = vec![0.0; self.len()];
        let values = self.values.clone();
        self.ranked_by(values, bias)
    }

    /// Values and biases as blocks, a bias in a norm's place.
    pub fn run(&self) -> &[u8] {
        &self.blocks.run
    }

    /// A query takes the lists of largest `⟨q, c⟩ − bias`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Encodes values and biases.
    fn encode(&mut self) {
        self.blocks.run.resize(self.shape().run_bytes(self.len().div_ceil(BLOCK)), 0);
        let vectors = self.values.chunks_exact(self.s).zip(&self.bias);
        self.shape().encode(vectors.map(|(c, &bias)| (c[0], &c[1..], bias)), &mut self.blocks.run);
        let rest = || self.values.chunks_exact(self.s).map(|c| &c[1..]);
        self.blocks.length = rest().map(squared_norm).fold(0.0, f32::max).sqrt();
        self.blocks.step = rest().flatten().fold(0.0_f32, |m, v| v.abs().max(m)) / 127.0;
    }

    /// Shape of the centroids' blocks.
    fn shape(&self) -> BlockShape {
        BlockShape::new(self.s - 1, Bits::B8, true)
    }

    /// The `top` lists of each of `n` points, which `read` appends to a buffer range by range, as
    /// `settle(point, scores, doubt, contenders, out)` chooses them: `scores` are `bias − ⟨x, c⟩` by int8, which may lie
    /// `doubt` apart and yet be in question; `contenders` is room.
    fn meet(
        &self,
        n: usize,
        top: usize,
        read: impl Fn(Range<usize>, &mut Vec<f32>) + Sync,
        settle: impl Fn(&[f32], &mut [f32], f32, &mut Vec<u32>, &mut [u32]) + Sync,
    ) -> Vec<u32> {
        let (s, shape, n_lists) = (self.s, self.shape(), self.len());
        let mut out = vec![0; n * top];
        out.par_chunks_mut(CHUNK * top).enumerate().for_each_init(Meeting::default, |room, (chunk, out)| {
            let n = out.len() / top;
            room.rows.clear();
            read(chunk * CHUNK..chunk * CHUNK + n, &mut room.rows);
            for (rows, out) in room.rows.chunks(TOGETHER * s).zip(out.chunks_mut(TOGETHER * top)) {
                // Of fewer than four points the places left over hold earlier ones or none; nobody asks for their scores.
                for (query, scores) in room.queries.iter_mut().zip(&mut room.scores) {
                    query.codes.resize(shape.query_len(), 0);
                    scores.resize(n_lists.next_multiple_of(BLOCK), 0.0);
                }
                for (x, query) in rows.chunks_exact(s).zip(&mut room.queries) {
                    query.first = x[0];
                    (query.scale, query.sum) = self.simd.quantise(&x[1..], &mut query.codes);
                }
                let run = BlockRun {
                    shape,
                    bytes: &self.blocks.run,
                    n_vectors: n_lists,
                    queries: room.queries.each_ref(),
                    factor: -1.0,
                };
                self.simd.block_scores(run, room.scores.each_mut().map(|scores| &mut scores[..]));
                let met = rows.chunks_exact(s).zip(&room.queries).zip(&mut room.scores);
                for (((x, query), scores), out) in met.zip(out.chunks_exact_mut(top)) {
                    // Rounding errors are spread evenly over a step: its square over 12 is their variance.
                    let (of_x, of_c) =
                        (query.scale * self.blocks.length, self.blocks.step * squared_norm(&x[1..]).sqrt());
                    let doubt = DOUBT * ((of_x * of_x + of_c * of_c) / 12.0).sqrt();
                    settle(x, &mut scores[..n_lists], doubt, &mut room.contenders, out);
                }
            }
        });
        out
    }

    /// Number of centroids.
    pub fn len(&self) -> usize {
        self.bias.len()
    }

    /// One round of Lloyd's iteration: every centroid moves to the best place for its points among `chosen`.
    fn improve(&mut self, points: &[f32], chosen: &[usize]) {
        let (s, objective) = (self.s, self.objective);
        let assigned = self.assign(chosen.len(), |range, rows| {
            for &i in &chosen[range] {
                rows.extend_from_slice(&points[i * s..(i + 1) * s]);
            }
        });
        let (offsets, order) = group(&assigned, self.len());
        self.values.par_chunks_exact_mut(s).enumerate().for_each(|(list, mean)| {
            let members = &order[offsets[list]..offsets[list + 1]];
            if members.is_empty() {
                return;
            }
            if let Objective::ScoreAware(loss, _) = objective {
                let members: Vec<&[f32]> =
                    members.iter().map(|&i| &points[chosen[i as usize] * s..][..s]).collect();
                return score_aware_mean(&loss, &members, mean, CENTROID_STEPS);
            }
            mean.fill(0.0);
            for &i in members {
                for (sum, v) in mean.iter_mut().zip(&points[chosen[i as usize] * s..]) {
                    *sum += v;
                }
            }
            for sum in mean {
                *sum /= members.len() as f32;
            }
        });
        refill_empty(&mut self.values, s, &offsets);
        self.settle();
    }

    /// The `top` lists that a query at each point would read first, best first: `[n, top]` row-major.
    pub fn nearest(&self, points: &[f32], top: usize) -> Vec<u32> {
        self.meet(points.len() / self.s, top, self.reader(points), |_, scores, _, _, out| {
            for score in scores.iter_mut() {
                *score = -*score;
            }
            self.simd.largest(scores, out);
        })
    }

    /// The list of each point: the one of least loss.
    pub fn lists_of(&self, points: &[f32]) -> Vec<u32> {
        self.assign(points.len() / self.s, self.reader(points))
    }

    /// Reads ranges of all points.
    fn reader<'a>(&self, points: &'a [f32]) -> impl Fn(Range<usize>, &mut Vec<f32>) + Sync + use<'a> {
        let s = self.s;
        move |range, rows| rows.extend_from_slice(&points[range.start * s..range.end * s])
    }

    /// The list of least loss for each of `n` points, which `read` appends to a buffer range by range.
    fn assign(&self, n: usize, read: impl Fn(Range<usize>, &mut Vec<f32>) + Sync) -> Vec<u32> {
        if let Objective::ScoreAware(loss, _) = &self.objective {
            return self.assign_by_loss(loss, n, read);
        }
        self.meet(n, 1, read, |x, scores, doubt, contenders, out| {
            contenders.clear();
            self.simd.contenders(scores, doubt, contenders);
            let mut best = (f32::INFINITY, contenders.first().copied().unwrap_or(0));
            if contenders.len() > 1 {
                for &list in contenders.iter() {
                    let c = &self.values[list as usize * self.s..][..self.s];
                    let score = self.bias[list as usize] - self.simd.dot_f32(x, c);
                    if score < best.0 {
                        best = (score, list);
                    }
                }
            }
            out[0] = best.1;
        })
    }

    /// Further lists for every point, `copies` each, `[n, copies]` row-major; `lists`: the list each is in.
    ///
    /// A copy enters the list of least `‖x − c‖² + λ·Σ ⟨r̂, x − c⟩²` over the unit residuals r̂ of the copies before it: a
    /// query that misses x in those lists because it lies along their residuals finds it here. Among centroids of unit
    /// length x is scaled to it too: its own length says nothing about directions.
    pub fn spill(&self, points: &[f32], lists: &[u32], copies: usize, lambda: f32) -> Vec<u32> {
        let (s, n_lists) = (self.s, self.len());
        let centroids = linalg::rows(&self.values, n_lists, s);
        let mut out = vec![0; lists.len() * copies];
        out.par_chunks_mut(CHUNK * copies).enumerate().for_each(|(chunk, out)| {
            let n = out.len() / copies;
            let mut rows = points[chunk * CHUNK * s..][..n * s].to_vec();
            if matches!(self.objective, Objective::Angle) {
                rows.chunks_exact_mut(s).for_each(normalise);
            }
            let mut last = lists[chunk * CHUNK..][..n].to_vec();
            // −loss/2, up to ‖x‖²/2.
            let mut scores = vec![0.0; n * n_lists];
            linalg::product(linalg::rows(&rows, n, s), centroids.transpose(), &mut scores);
            for (scores, &own) in scores.chunks_exact_mut(n_lists).zip(&last) {
                for (score, half_norm) in scores.iter_mut().zip(&self.half_norms) {
                    *score -= half_norm;
                }
                scores[own as usize] = f32::NEG_INFINITY;
            }
            let (mut residuals, mut along) = (vec![0.0; n * s], vec![0.0; n * n_lists]);
            for copy in 0..copies {
                for ((residual, x), &list) in
                    residuals.chunks_exact_mut(s).zip(rows.chunks_exact(s)).zip(&last)
                {
                    let c = &self.values[list as usize * s..][..s];
                    for ((r, x), c) in residual.iter_mut().zip(x).zip(c) {
                        *r = x - c;
                    }
                    normalise(residual);
                }
                linalg::product(linalg::rows(&residuals, n, s), centroids.transpose(), &mut along);
                for i in 0..n {
                    let scores = &mut scores[i * n_lists..][..n_lists];
                    let own: f32 =
                        residuals[i * s..][..s].iter().zip(&rows[i * s..]).map(|(r, x)| r * x).sum();
                    for (score, along) in scores.iter_mut().zip(&along[i * n_lists..]) {
                        *score -= 0.5 * lambda * (own - along) * (own - along);
                    }
                    // The best list is spent, so that no later copy takes it.
                    self.simd.largest(scores, &mut last[i..=i]);
                    out[i * copies + copy] = last[i];
                }
            }
        });
        out
    }

    /// [`Centroids::assign`] by the score-aware loss.
    fn assign_by_loss(
        &self,
        loss: &ScoreAware,
        n: usize,
        read: impl Fn(Range<usize>, &mut Vec<f32>) + Sync,
    ) -> Vec<u32> {
        let mut out = vec![0; n];
        let centroids = linalg::rows(&self.values, self.len(), self.s);
        out.par_chunks_mut(CHUNK).enumerate().for_each_init(
            || (Vec::with_capacity(CHUNK * self.s), vec![0.0; CHUNK * self.len()]),
            |(rows, scores), (chunk, out)| {
                let n = out.len();
                rows.clear();
                read(chunk * CHUNK..chunk * CHUNK + n, rows);
                let scores = &mut scores[..n * self.len()];
                linalg::product(linalg::rows(rows, n, self.s), centroids.transpose(), scores);
                let lists = out.chunks_exact_mut(1).zip(scores.chunks_exact_mut(self.len()));
                for (x, (out, scores)) in rows.chunks_exact(self.s).zip(lists) {
                    let norm = squared_norm(x).sqrt();
                    let (excess, inverse) = (loss.excess(norm), if norm > 0.0 { 1.0 / norm } else { 0.0 });
                    for (score, half_norm) in scores.iter_mut().zip(&self.half_norms) {
                        let along = norm - *score * inverse;
                        *score -= half_norm + 0.5 * excess * along * along;
                    }
                    self.simd.largest(scores, out);
                }
            },
        );
        out
    }
}

/// Moves a centroid to the least score-aware loss over its members (Theorem 4.2, whose right side as printed has h⊥
/// where the gradient's zero has h∥): `(Σ I + (η − 1)·uuᵀ)·c = Σ η·x` with `u = x/‖x‖`.
fn score_aware_mean(loss: &ScoreAware, members: &[&[f32]], centroid: &mut [f32], steps: usize) {
    let mut right = vec![0.0; centroid.len()];
    // (η − 1)/‖x‖².
    let mut weights = Vec::with_capacity(members.len());
    for x in members {
        let norm2 = squared_norm(x);
        let excess = loss.excess(norm2.sqrt());
        weights.push(if norm2 > 0.0 { excess / norm2 } else { 0.0 });
        for (sum, v) in right.iter_mut().zip(*x) {
            *sum += (1.0 + excess) * v;
        }
    }
    let apply = |c: &[f32], out: &mut [f32]| {
        for (out, c) in out.iter_mut().zip(c) {
            *out = members.len() as f32 * c;
        }
        for (x, weight) in members.iter().zip(&weights) {
            let product: f32 = x.iter().zip(c).map(|(x, c)| x * c).sum();
            for (out, v) in out.iter_mut().zip(*x) {
                *out += weight * product * v;
            }
        }
    };
    conjugate_gradient(apply, &right, centroid, steps, 1e-5);
}

/// Trains `n_lists` centroids on `points`, `[n, s]` row-major; `rounds`: iterations, and sampled points a list for them;
/// `step` is called once an iteration and says whether to go on.
pub(crate) fn train(
    points: &[f32],
    s: usize,
    n_lists: usize,
    objective: Objective,
    rounds: &[(usize, usize)],
    rng: &mut ChaCha8Rng,
    step: impl Fn(usize) -> bool,
) -> Centroids {
    let n = points.len() / s;
    let row = |i: usize| &points[i * s..(i + 1) * s];
    let seeds = sample(rng, n, n_lists);
    let seeds = seeds.iter().flat_map(|&i| row(i).iter().copied()).collect();
    let mut centroids = Centroids::new(seeds, s, objective);
    let mut done = 0;
    for &(rounds, points_per_list) in rounds {
        let chosen = sample(rng, n, points_per_list * n_lists);
        for _ in 0..rounds {
            centroids.improve(points, &chosen);
            done += 1;
            if !step(done) {
                return centroids;
            }
        }
    }
    centroids
}

/// Gives each empty list half of the largest one: its centroid, moved slightly apart from it.
fn refill_empty(values: &mut [f32], s: usize, offsets: &[usize]) {
    let mut sizes: Vec<usize> = offsets.windows(2).map(|w| w[1] - w[0]).collect();
    for empty in 0..sizes.len() {
        if sizes[empty] > 0 {
            continue;
        }
        let Some(largest) = (0..sizes.len()).max_by_key(|&l| (sizes[l], std::cmp::Reverse(l))) else {
            return;
        };
        if sizes[largest] < 2 {
            return;
        }
        for i in 0..s {
            // 1/1024 apart, alternating in sign, as in FAISS: far beyond rounding, far within the list.
            let nudge = if i % 2 == 0 { 1.0 / 1024.0 } else { -1.0 / 1024.0 };
            let v = values[largest * s + i];
            values[empty * s + i] = v * (1.0 + nudge);
            values[largest * s + i] = v * (1.0 - nudge);
        }
        sizes[empty] = sizes[largest] / 2;
        sizes[largest] -= sizes[empty];
    }
}

/// Members of each group, ascending: `order[offsets[g]..offsets[g + 1]]`.
pub(crate) fn group(of: &[u32], n_groups: usize) -> (Vec<usize>, Vec<u32>) {
    let mut offsets = vec![0; n_groups + 1];
    for &g in of {
        offsets[g as usize + 1] += 1;
    }
    for g in 0..n_groups {
        offsets[g + 1] += offsets[g];
    }
    let mut next = offsets.clone();
    let mut order = vec![0; of.len()];
    for (i, &g) in (0_u32..).zip(of) {
        order[next[g as usize]] = i;
        next[g as usize] += 1;
    }
    (offsets, order)
}

/// `‖v‖²`.
pub(crate) fn squared_norm(v: &[f32]) -> f32 {
    v.iter().map(|x| x * x).sum()
}

/// Scales to unit length; a zero vector stays zero.
pub(crate) fn normalise(v: &mut [f32]) {
    let norm = v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        for x in v {
            #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
            {
                *x = (f64::from(*x) / norm) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{generator, normal};

    #[test]
    fn finds_separate_clusters() {
        let mut rng = generator(3, "test");
        let centres: Vec<f32> = (0..8 * 4).map(|_| 10.0 * normal(&mut rng)).collect();
        let points: Vec<f32> =
            (0..800 * 4).map(|i| centres[(i / 4 % 8) * 4 + i % 4] + 0.01 * normal(&mut rng)).collect();
        let found = train(&points, 4, 16, Objective::Distance, &LIST_ROUNDS, &mut rng, |_| true);
        let lists = found.nearest(&points, 1);
        for (i, &list) in lists.iter().enumerate() {
            let centroid = &found.values[list as usize * 4..][..4];
            let distance: f32 = points[i * 4..][..4].iter().zip(centroid).map(|(a, b)| (a - b).powi(2)).sum();
            assert!(distance < 0.1, "point {i} is {distance} away from its centroid");
        }
    }

    #[test]
    fn more_lists_than_distinct_points() {
        let points = vec![1.0; 20 * 3];
        let rng = &mut generator(3, "test");
        let found = train(&points, 3, 10, Objective::Angle, &LIST_ROUNDS, rng, |_| true);
        assert!(found.values.iter().all(|v| v.is_finite()));
        assert!(found.nearest(&points, 1).iter().all(|&l| l < 10));
    }

    /// Sum of the score-aware loss of points at their centroids.
    fn loss_of(loss: &ScoreAware, points: &[f32], centroids: &Centroids, lists: &[u32]) -> f64 {
        let s = centroids.s;
        let one = |x: &[f32], c: &[f32]| {
            let norm = squared_norm(x).sqrt();
            let (mut whole, mut along) = (0.0, 0.0);
            for (x, c) in x.iter().zip(c) {
                whole += f64::from(x - c).powi(2);
                along += f64::from((x - c) * x / norm);
            }
            whole + f64::from(loss.excess(norm)) * along * along
        };
        let centroid = |l: u32| &centroids.values[l as usize * s..][..s];
        points.chunks_exact(s).zip(lists).map(|(x, &l)| one(x, centroid(l))).sum()
    }

    #[test]
    fn score_aware_rounds_never_raise_the_loss() {
        let mut rng = generator(5, "test");
        let (n, s) = (600, 12);
        let points: Vec<f32> =
            (0..n * s).map(|i| normal(&mut rng) + if i % s == 0 { 3.0 } else { 0.0 }).collect();
        let loss = ScoreAware::new(0.3, &points, s);
        let seeds = points[..20 * s].to_vec();
        let mut centroids = Centroids::new(seeds, s, Objective::ScoreAware(loss, true));
        let all: Vec<usize> = (0..n).collect();
        let mut lists = centroids.lists_of(&points);
        let mut last = loss_of(&loss, &points, &centroids, &lists);
        let first = last;
        for _ in 0..6 {
            centroids.improve(&points, &all);
            let moved = loss_of(&loss, &points, &centroids, &lists);
            lists = centroids.lists_of(&points);
            let assigned = loss_of(&loss, &points, &centroids, &lists);
            assert!(moved <= last * 1.00001 && assigned <= moved * 1.00001, "{last} → {moved} → {assigned}");
            last = assigned;
        }
        assert!(last < 0.9 * first);
    }

    #[test]
    fn the_closed_form_is_the_minimum() {
        let mut rng = generator(6, "test");
        let s = 7;
        let points: Vec<f32> = (0..40 * s).map(|_| normal(&mut rng) + 1.0).collect();
        let loss = ScoreAware::new(0.4, &points, s);
        let members: Vec<&[f32]> = points.chunks_exact(s).collect();
        let mut centroid = vec![0.0; s];
        score_aware_mean(&loss, &members, &mut centroid, 100);
        let of = |c: &[f32]| {
            let centroids = Centroids::new(c.to_vec(), s, Objective::ScoreAware(loss, true));
            loss_of(&loss, &points, &centroids, &vec![0; members.len()])
        };
        let least = of(&centroid);
        for i in 0..s {
            for step in [-1e-2, 1e-2] {
                let mut moved = centroid.clone();
                moved[i] += step;
                assert!(of(&moved) > least, "dimension {i}, {step}");
            }
        }
        // The same system solved directly, with h∥ on the right side and with h⊥ as printed.
        let solved = |right_of: fn(f64) -> f64| -> Vec<f32> {
            let mut rows = vec![vec![0.0_f64; s + 1]; s];
            for x in &members {
                let norm2 = f64::from(squared_norm(x));
                let excess = f64::from(loss.excess(squared_norm(x).sqrt()));
                for (i, row) in rows.iter_mut().enumerate() {
                    row[i] += 1.0;
                    for (entry, v) in row.iter_mut().zip(*x) {
                        *entry += excess * f64::from(x[i]) * f64::from(*v) / norm2;
                    }
                    row[s] += right_of(1.0 + excess) * f64::from(x[i]);
                }
            }
            // Gauss and Jordan: the matrix is positive definite.
            for i in 0..s {
                let pivot = rows[i].clone();
                for (j, row) in rows.iter_mut().enumerate() {
                    let factor = if j == i { 0.0 } else { row[i] / pivot[i] };
                    row.iter_mut().zip(&pivot).for_each(|(entry, p)| *entry -= factor * p);
                }
            }
            #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
            let solution = rows.iter().enumerate().map(|(i, row)| (row[s] / row[i]) as f32);
            solution.collect()
        };
        for (a, b) in solved(|eta| eta).iter().zip(&centroid) {
            assert!((a - b).abs() < 1e-4, "solved {a}, conjugate gradients {b}");
        }
        let printed = solved(|_| 1.0);
        assert!(squared_norm(&printed) < 0.5 * squared_norm(&centroid));
        assert!(of(&printed) > 1.5 * least);
    }

    #[test]
    fn copies_minimise_soars_loss() {
        let mut rng = generator(8, "test");
        let (n, s, n_lists, copies) = (300, 10, 24, 3);
        let points: Vec<f32> =
            (0..n * s).map(|i| normal(&mut rng) * if i / s % 2 == 0 { 3.0 } else { 0.4 }).collect();
        for (objective, lambda) in
            [(Objective::Distance, 1.5), (Objective::Angle, 1.5), (Objective::Angle, 0.0)]
        {
            copies_are_the_best(&points, s, n_lists, copies, objective, lambda, &mut rng);
        }
    }

    fn copies_are_the_best(
        points: &[f32],
        s: usize,
        n_lists: usize,
        copies: usize,
        objective: Objective,
        lambda: f32,
        rng: &mut ChaCha8Rng,
    ) {
        let found = train(points, s, n_lists, objective, &[(4, 100)], rng, |_| true);
        let lists = found.lists_of(points);
        let spilled = found.spill(points, &lists, copies, lambda);
        for (i, x) in points.chunks_exact(s).enumerate() {
            let mut x = x.to_vec();
            if matches!(objective, Objective::Angle) {
                normalise(&mut x);
            }
            let residual = |l: u32| -> Vec<f64> {
                let c = &found.values[l as usize * s..][..s];
                x.iter().zip(c).map(|(x, c)| f64::from(x - c)).collect()
            };
            // Alone in its list a point has no residual, and no direction to avoid.
            if residual(lists[i]).iter().map(|v| v * v).sum::<f64>() < 1e-9 {
                continue;
            }
            let mut taken = vec![lists[i]];
            for &got in &spilled[i * copies..][..copies] {
                let loss = |l: u32| {
                    let r = residual(l);
                    let penalty: f64 = taken
                        .iter()
                        .map(|&t| {
                            let other = residual(t);
                            let norm = other.iter().map(|v| v * v).sum::<f64>();
                            other.iter().zip(&r).map(|(a, b)| a * b).sum::<f64>().powi(2) / norm
                        })
                        .sum();
                    r.iter().map(|v| v * v).sum::<f64>() + f64::from(lambda) * penalty
                };
                let open = (0..24).filter(|l| !taken.contains(l));
                let least = open.map(loss).fold(f64::INFINITY, f64::min);
                assert!(!taken.contains(&got) && loss(got) <= least * 1.0001, "point {i}");
                taken.push(got);
            }
        }
    }
}
