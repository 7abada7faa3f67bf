//! k-means: the partition of points into lists.
//!
//! Lloyd's iteration, first on a small sample and then on a larger one: centroids are nearly settled when the
//! costly rounds begin. For l2 a point belongs to the nearest
//! centroid; for products centroids have unit length and a point belongs to the one of largest product
//! (spherical k-means, Dhillon & Modha 2001). Either way the best list maximises `⟨x, c⟩ − b(c)`, with
//! `b = ‖c‖²/2` for l2 and 0 for products, so an assignment is one matrix product and a row-wise maximum:
//! `2·n·L·s` operations.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{linalg, sample};

/// Rows of one matrix product: with 1 024 lists its scores fill half a megabyte, so they stay in cache.
const CHUNK: usize = 128;

/// Rounds of Lloyd's iteration: how many, and on how many sampled points a list. Ten rounds on 256 points a
/// list took 1.75 times as long (115 659 points of 192 dimensions, 1 024 lists) and changed recall at equal
/// lists by less than 0.002.
const ROUNDS: [(usize, usize); 3] = [(6, 32), (2, 64), (2, 128)];

/// Lloyd iterations in all.
pub(crate) const ITERATIONS: usize = ROUNDS[0].0 + ROUNDS[1].0 + ROUNDS[2].0;

/// Centroids, `[n_lists, s]` row-major, and each one's bias.
pub(crate) struct Centroids {
    pub values: Vec<f32>,
    pub s: usize,
    bias: Vec<f32>,
}

impl Centroids {
    fn new(values: Vec<f32>, s: usize, spherical: bool) -> Self {
        let mut centroids = Self { values, s, bias: Vec::new() };
        centroids.settle(spherical);
        centroids
    }

    /// Scales to unit length for products; recomputes the biases.
    fn settle(&mut self, spherical: bool) {
        if spherical {
            for row in self.values.chunks_exact_mut(self.s) {
                normalise(row);
            }
        }
        self.bias = self
            .values
            .chunks_exact(self.s)
            .map(|row| if spherical { 0.0 } else { squared_norm(row) / 2.0 })
            .collect();
    }

    /// Number of centroids.
    pub fn len(&self) -> usize {
        self.bias.len()
    }

    /// One round of Lloyd's iteration: every centroid moves to the mean of its points among `chosen`.
    fn improve(&mut self, points: &[f32], chosen: &[usize], spherical: bool) {
        let s = self.s;
        let assigned = self.assign(chosen.len(), 1, |range, rows| {
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
        self.settle(spherical);
    }

    /// The `top` best lists of each point, best first: `[n, top]` row-major.
    pub fn nearest(&self, points: &[f32], top: usize) -> Vec<u32> {
        let s = self.s;
        self.assign(points.len() / s, top, |range, rows| {
            rows.extend_from_slice(&points[range.start * s..range.end * s]);
        })
    }

    /// The `top` best lists of `n` points, which `read` appends to a buffer range by range.
    fn assign(&self, n: usize, top: usize, read: impl Fn(Range<usize>, &mut Vec<f32>) + Sync) -> Vec<u32> {
        let mut out = vec![0; n * top];
        let centroids = linalg::rows(&self.values, self.len(), self.s);
        out.par_chunks_mut(CHUNK * top).enumerate().for_each_init(
            || (Vec::with_capacity(CHUNK * self.s), vec![0.0; CHUNK * self.len()]),
            |(rows, scores), (chunk, out)| {
                let n = out.len() / top;
                rows.clear();
                read(chunk * CHUNK..chunk * CHUNK + n, rows);
                let scores = &mut scores[..n * self.len()];
                linalg::product(linalg::rows(rows, n, self.s), centroids.transpose(), scores);
                for (out, scores) in out.chunks_exact_mut(top).zip(scores.chunks_exact_mut(self.len())) {
                    for (score, bias) in scores.iter_mut().zip(&self.bias) {
                        *score -= bias;
                    }
                    best(scores, out);
                }
            },
        );
        out
    }
}

/// The places of the largest scores, best first, lower places first among equals. `scores` is spent.
fn best(scores: &mut [f32], out: &mut [u32]) {
    for place in out {
        // The maximum in 16 lanes first, which compilers vectorise; then its first place.
        let mut lanes = [f32::NEG_INFINITY; 16];
        let chunks = scores.chunks_exact(16);
        let mut top = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        for chunk in chunks {
            for (lane, &v) in lanes.iter_mut().zip(chunk) {
                *lane = if v > *lane { v } else { *lane };
            }
        }
        top = lanes.iter().fold(top, |m, &v| if v > m { v } else { m });
        let at = scores.iter().position(|&v| v >= top).unwrap_or(0);
        scores[at] = f32::NEG_INFINITY;
        *place = u32::try_from(at).unwrap_or(u32::MAX);
    }
}

/// Trains `n_lists` centroids on `points`, `[n, s]` row-major; `step` is called once an iteration.
pub(crate) fn train(
    points: &[f32],
    s: usize,
    n_lists: usize,
    spherical: bool,
    rng: &mut ChaCha8Rng,
    step: impl Fn(usize),
) -> Centroids {
    let n = points.len() / s;
    let row = |i: usize| &points[i * s..(i + 1) * s];
    let seeds = sample(rng, n, n_lists);
    let seeds = seeds.iter().flat_map(|&i| row(i).iter().copied()).collect();
    let mut centroids = Centroids::new(seeds, s, spherical);
    let mut done = 0;
    for (rounds, points_per_list) in ROUNDS {
        let chosen = sample(rng, n, points_per_list * n_lists);
        for _ in 0..rounds {
            centroids.improve(points, &chosen, spherical);
            done += 1;
            step(done);
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
        let found = train(&points, 4, 16, false, &mut rng, |_| ());
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
        let found = train(&points, 3, 10, true, &mut generator(3, "test"), |_| ());
        assert!(found.values.iter().all(|v| v.is_finite()));
        assert!(found.nearest(&points, 1).iter().all(|&l| l < 10));
    }

    #[test]
    fn best_lists_come_in_order() {
        let mut out = [0; 3];
        best(&mut [1.0, 5.0, 5.0, 2.0], &mut out);
        assert_eq!(out, [1, 2, 3]);
    }
}
