//! The loss over all pairs of a batch, and its gradient.

use rayon::prelude::*;

use crate::{stage::transform::NOTHING_LEFT, train::linalg};

/// Bounds of a pair's weight.
const WEIGHTS: (f32, f32) = (0.01, 2.0);

/// Pairs nearer than this share of the mean distance do not count: their distance is mostly rounding.
const NEAR: f32 = 1e-3;

/// Rows in one piece of work.
const PIECE: usize = 64;

/// The rows of a batch, as far as the loss depends on them.
pub(crate) struct Pairs {
    m: usize,
    /// Distances of all pairs, `[m, m]`.
    distances: Vec<f32>,
    mean_distance: f32,
    /// Rows that are points, where the others are queries: then only pairs of one of each count.
    n_points: usize,
    /// Lengths that outputs are scaled to.
    lengths: Option<Vec<f32>>,
}

impl Pairs {
    /// The pairs of `x`, `[m, d]`: all, or those of its first `n_points` rows with the others if there are others.
    pub fn new(x: &[f32], d: usize, n_points: usize, mean_distance: f32, keeps_length: bool) -> Self {
        let m = x.len() / d;
        let centred = centred(x, d);
        let of_centred = norms(&centred, d);
        let mut distances = vec![0.0; m * m];
        distances.par_chunks_mut(PIECE * m.max(1)).enumerate().for_each(|(piece, out)| {
            distances_of(&centred, d, &of_centred, piece * PIECE, out);
        });
        let lengths = keeps_length.then(|| norms(x, d).iter().map(|norm| norm.sqrt()).collect());
        Self { m, n_points, distances, mean_distance, lengths }
    }

    /// The loss of outputs `y`, `[m, s]`, and its gradient by them, where there is room for it.
    pub fn loss(&self, y: &[f32], gradient: Option<&mut [f32]>) -> f64 {
        let m = self.m;
        let s = y.len() / m;
        let scaled = self.lengths.as_ref().map(|lengths| scale(y, s, lengths));
        let (z, factors) = scaled.as_ref().map_or((y, None), |(z, factors)| (&z[..], Some(factors)));
        let scaled = z;
        let z = &centred(z, s)[..];
        let norms = norms(z, s);
        let near = NEAR * self.mean_distance;
        let pieces: Vec<(f64, usize, Vec<f32>)> = (0..m.div_ceil(PIECE))
            .into_par_iter()
            .map(|piece| {
                let rows = piece * PIECE..m.min((piece + 1) * PIECE);
                let mut found = vec![0.0; rows.len() * m];
                distances_of(z, s, &norms, rows.start, &mut found);
                let (mut sum, mut n_pairs) = (0.0, 0);
                let mut totals = vec![0.0; rows.len()];
                // Distances become what pulls a pair apart or together.
                for ((i, found), total) in rows.clone().zip(found.chunks_exact_mut(m)).zip(&mut totals) {
                    let wanted = &self.distances[i * m..(i + 1) * m];
                    for (j, (found, &wanted)) in found.iter_mut().zip(wanted).enumerate() {
                        let is_of_a_kind = self.n_points < m && (i < self.n_points) == (j < self.n_points);
                        if i == j || is_of_a_kind || wanted <= near {
                            *found = 0.0;
                            continue;
                        }
                        let weight = -(wanted / self.mean_distance).ln();
                        let weight = weight.clamp(WEIGHTS.0, WEIGHTS.1);
                        let excess = *found - wanted;
                        n_pairs += 1;
                        sum += f64::from(weight * excess.abs());
                        *found = if *found > near { weight * excess.signum() / *found } else { 0.0 };
                        *total += *found;
                    }
                }
                let mut pull = Vec::new();
                if gradient.is_some() {
                    pull = vec![0.0; rows.len() * s];
                    linalg::product(linalg::rows(&found, rows.len(), m), linalg::rows(z, m, s), &mut pull);
                    let own = z[rows.start * s..].chunks_exact(s);
                    for ((pull, own), total) in pull.chunks_exact_mut(s).zip(own).zip(totals) {
                        pull.iter_mut().zip(own).for_each(|(pull, z)| *pull = total * z - *pull);
                    }
                }
                (sum, n_pairs, pull)
            })
            .collect();
        let n_pairs = pieces.iter().map(|piece| piece.1).sum::<usize>().max(1);
        let sum: f64 = pieces.iter().map(|piece| piece.0).sum();
        if let Some(gradient) = gradient {
            // A pair is met from both of its ends.
            let share = 2.0 / n_pairs as f32;
            let pulls = pieces.iter().flat_map(|piece| &piece.2);
            gradient.iter_mut().zip(pulls).for_each(|(out, pull)| *out = share * pull);
            if let (Some(factors), Some(lengths)) = (factors, &self.lengths) {
                through_scale(gradient, scaled, s, factors, lengths);
            }
        }
        sum / n_pairs as f64
    }
}

/// Distances of the rows from `first` on to all rows.
fn distances_of(x: &[f32], d: usize, norms: &[f32], first: usize, out: &mut [f32]) {
    let m = norms.len();
    let n = out.len() / m;
    let all = linalg::rows(x, m, d);
    linalg::product(all.subrows(first, n), all.transpose(), out);
    for (norm, out) in norms[first..].iter().zip(out.chunks_exact_mut(m)) {
        out.iter_mut().zip(norms).for_each(|(v, other)| *v = (norm + other - 2.0 * *v).max(0.0).sqrt());
    }
}

fn norms(x: &[f32], d: usize) -> Vec<f32> {
    x.chunks_exact(d).map(|row| row.iter().map(|v| v * v).sum()).collect()
}

/// Rows around their mean: distances are the same, and rounded less.
fn centred(x: &[f32], d: usize) -> Vec<f32> {
    let mut mean = vec![0.0_f64; d];
    x.chunks_exact(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v)));
    let share = 1.0 / (x.len() / d) as f64;
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    let mean: Vec<f32> = mean.into_iter().map(|sum| (sum * share) as f32).collect();
    x.chunks_exact(d).flat_map(|row| row.iter().zip(&mean).map(|(v, mean)| v - mean)).collect()
}

/// Rows scaled to these lengths, and the factors: 0 for rows of which nothing is left, which stay and pass no gradient.
fn scale(y: &[f32], s: usize, lengths: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let factors: Vec<f32> = norms(y, s)
        .into_iter()
        .zip(lengths)
        .map(|(norm, length)| if norm > length * length * NOTHING_LEFT { length / norm.sqrt() } else { 0.0 })
        .collect();
    let rows = y.chunks_exact(s).zip(&factors);
    let z = rows.flat_map(|(row, &f)| row.iter().map(move |v| if f > 0.0 { v * f } else { *v })).collect();
    (z, factors)
}

/// The gradient by scaled rows `z` becomes that by the rows before: what is along a row has no effect.
fn through_scale(gradient: &mut [f32], z: &[f32], s: usize, factors: &[f32], lengths: &[f32]) {
    let rows = gradient.chunks_exact_mut(s).zip(z.chunks_exact(s)).zip(factors.iter().zip(lengths));
    for ((gradient, z), (factor, length)) in rows {
        let along: f32 = gradient.iter().zip(z).map(|(g, z)| g * z).sum();
        let along = if *length > 0.0 { along / (length * length) } else { 0.0 };
        gradient.iter_mut().zip(z).for_each(|(g, z)| *g = factor * (*g - along * z));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{generator, normal};

    /// The loss as it is written down, in f64.
    fn plain(x: &[Vec<f64>], y: &[Vec<f64>], n_points: usize, mean: f64, keeps_length: bool) -> f64 {
        let length = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let distance =
            |a: &[f64], b: &[f64]| length(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>());
        let y: Vec<Vec<f64>> = x
            .iter()
            .zip(y)
            .map(|(x, y)| {
                let factor = if keeps_length { length(x) / length(y) } else { 1.0 };
                y.iter().map(|v| v * factor).collect()
            })
            .collect();
        let (mut sum, mut n) = (0.0, 0.0);
        for i in 0..x.len() {
            for j in 0..i {
                if n_points < x.len() && (i < n_points) == (j < n_points) {
                    continue;
                }
                let wanted = distance(&x[i], &x[j]);
                let weight = (-(wanted / mean).ln()).clamp(0.01, 2.0);
                sum += weight * (distance(&y[i], &y[j]) - wanted).abs();
                n += 1.0;
            }
        }
        sum / n
    }

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "to f32 for the code under test")]
    fn the_gradient_is_that_of_the_loss() {
        let (m, d, s) = (70, 7, 3);
        let mut rng = generator(1, "test");
        let mut rows = |n| -> Vec<Vec<f64>> {
            (0..m).map(|_| (0..n).map(|_| f64::from(normal(&mut rng))).collect()).collect()
        };
        let (x, y) = (rows(d), rows(s));
        let flat = |rows: &[Vec<f64>]| rows.iter().flatten().map(|&v| v as f32).collect::<Vec<f32>>();
        for (keeps_length, n_points) in [(false, m), (true, m), (false, 20), (true, 65)] {
            let pairs = Pairs::new(&flat(&x), d, n_points, 3.5, keeps_length);
            let mut gradient = vec![0.0; m * s];
            let loss = pairs.loss(&flat(&y), Some(&mut gradient));
            let want = plain(&x, &y, n_points, 3.5, keeps_length);
            assert!((loss - want).abs() < 1e-5 * want, "{loss} against {want}");
            for at in 0..m * s {
                let moved = |by: f64| {
                    let mut y = y.clone();
                    y[at / s][at % s] += by;
                    plain(&x, &y, n_points, 3.5, keeps_length)
                };
                let want = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                let got = f64::from(gradient[at]);
                assert!((got - want).abs() < 1e-4 * (want.abs() + 1e-2), "{at}: {got} against {want}");
            }
        }
    }
}
