//! What a partition for inner products minimises.
//!
//! Spherical k-means groups points by direction, which finds the right lists best where points are about equally long. Where lengths
//! differ it scatters the long points, which are most queries' neighbours, over all lists: with lengths spread like e^N(0, 1) a
//! sixteenth of 512 lists held 0.75 of the ten nearest of 10 000 points, and 0.97 where lists were made by squared distance (`T=0`).
//! With lengths spread like e^N(0, 1/4) the two are even. So both are tried on a sample.

use rayon::prelude::*;

use crate::{
    simd::Simd,
    train::{
        kmeans::{self, Centroids, LIST_ROUNDS, Objective},
        linalg, sample,
    },
};

/// Lengths of which the longer ones (95 of 100) are less than so many times the shorter ones (5 of 100) are about equal.
const EQUAL: f32 = 1.5;

/// Points and queries of a trial, at most.
const POINTS: usize = 4096;
pub(super) const QUERIES: usize = 256;

/// Neighbours of each query.
const NEIGHBOURS: usize = 10;

/// One list in so many is read, at least [`LISTS_MIN`].
const SHARE: usize = 32;
const LISTS_MIN: usize = 8;

/// Share of the neighbours that lists by distance have to find beyond those by angle.
const GAIN: f64 = 0.01;

/// How a trial went.
pub(super) struct Outcome {
    /// How many times the shorter points the longer ones are long.
    ratio: f32,
    by_angle: f64,
    by_distance: f64,
}

impl Outcome {
    /// Whether lists are to be made by distance.
    pub fn takes_distance(&self) -> bool {
        self.by_distance > self.by_angle + GAIN
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ratio, by_angle, by_distance } = self;
        write!(
            f,
            "lengths differ {ratio:.1}-fold; of a sample's neighbours lists by angle hold {by_angle:.3}, lists by distance (T=0) \
             {by_distance:.3} in as many points: "
        )?;
        f.write_str(if self.takes_distance() { "distance is taken" } else { "angle is taken" })
    }
}

/// Tries both on a sample of reduced points, `[n, s]`, for queries `[t, s]`, or if there are none for some of the points. Nothing where
/// lengths are about equal, unless queries are not shifted as points are (`has_sides`): they may all lie in one direction.
pub(super) fn tried(
    points: &[f32],
    queries: Option<Vec<f32>>,
    has_sides: bool,
    s: usize,
    n_lists: usize,
    rng: &mut rand_chacha::ChaCha8Rng,
) -> Option<Outcome> {
    let n = points.len() / s;
    let mut rows = sample(rng, n, POINTS + QUERIES);
    let gather = |vectors: &[f32], rows: &[usize]| -> Vec<f32> {
        rows.iter().flat_map(|row| &vectors[row * s..(row + 1) * s]).copied().collect()
    };
    let mut lengths: Vec<f32> =
        rows.iter().map(|row| kmeans::squared_norm(&points[row * s..(row + 1) * s]).sqrt()).collect();
    lengths.sort_unstable_by(f32::total_cmp);
    let at = |percent: usize| lengths[(lengths.len() * percent / 100).min(lengths.len() - 1)];
    let ratio = at(95) / at(5);
    if n <= NEIGHBOURS || n_lists <= LISTS_MIN || (ratio < EQUAL && !has_sides) {
        return None;
    }
    let asked = match queries {
        Some(queries) => queries,
        None => {
            // Some of the points, evenly among them, which then are none.
            let every = (rows.len() / QUERIES).max(4);
            let asked: Vec<usize> = rows.iter().copied().step_by(every).collect();
            let mut i = 0;
            rows.retain(|_| {
                i += 1;
                (i - 1) % every != 0
            });
            gather(points, &asked)
        }
    };
    let rows = gather(points, &rows);
    let n_tried = rows.len() / s;
    let transposed = linalg::rows(&rows, n_tried, s).transpose();
    let k = NEIGHBOURS.min(n_tried);
    let nearest: Vec<Vec<u32>> = asked
        .par_chunks_exact(s)
        .map_init(
            || vec![0.0; n_tried],
            |products, q| {
                linalg::product(linalg::rows(q, 1, s), transposed, products);
                let mut best = vec![0; k];
                Simd::detect().largest(products, &mut best);
                best
            },
        )
        .collect();
    let scaled = (n_lists * n_tried).div_ceil(n).clamp(LISTS_MIN.min(n_tried), n_tried);
    let n_read = (n_tried * (scaled / SHARE).max(LISTS_MIN)).div_ceil(scaled);
    let mut found = |objective| {
        let centroids = kmeans::train(&rows, s, scaled, objective, &LIST_ROUNDS, rng, |_| true);
        let lists = centroids.lists_of(&rows);
        found(&centroids.for_products(), &lists, &asked, &nearest, n_read)
    };
    let (by_angle, by_distance) = (found(Objective::Angle), found(Objective::Distance));
    Some(Outcome { ratio, by_angle, by_distance })
}

/// Share of the neighbours in the lists that queries read first, up to about `n_read` points.
fn found(centroids: &Centroids, lists: &[u32], asked: &[f32], nearest: &[Vec<u32>], n_read: usize) -> f64 {
    let n_lists = centroids.len();
    let mut sizes = vec![0_usize; n_lists];
    lists.iter().for_each(|&list| sizes[list as usize] += 1);
    let order = centroids.nearest(asked, n_lists);
    let found: Vec<f64> = order
        .par_chunks_exact(n_lists)
        .zip(nearest)
        .map(|(order, nearest)| {
            let mut left = n_read as f64;
            let mut share = 0.0;
            for &list in order {
                let size = sizes[list as usize] as f64;
                let held = nearest.iter().filter(|&&point| lists[point as usize] == list).count() as f64;
                // Of the last list as much as there is left.
                share += held * if size > 0.0 { (left / size).min(1.0) } else { 0.0 };
                left -= size;
                if left <= 0.0 {
                    break;
                }
            }
            share / nearest.len() as f64
        })
        .collect();
    found.iter().sum::<f64>() / found.len().max(1) as f64
}
