//! Training the regressions, one list at a time.
//!
//! For a list with points C `[m, s]` and training queries X `[t, s]`, the map of rank r + 1 that minimises
//! `‖XCᵀ − Xβ‖` has a closed form. With `XᵀX = LLᵀ` (Cholesky) and `M = LᵀCᵀ` `[s, m]`, the error is
//! `‖M − Lᵀβ‖`, so the best β projects M on its top left singular vectors U, the leading eigenvectors of
//! `MMᵀ = UΣ²Uᵀ`:
//!
//! ```text
//! B = Σ^(−1/2) UᵀM        A = L^(−ᵀ) U Σ^(1/2)        q·Cᵀ ≈ qA·B
//! ```
//!
//! one Cholesky and one symmetric eigenproblem of size s, and no `t × m` matrix. Σ is split evenly: among all
//! splits that one minimises the product of the factors' norms, and with it the error that int8 adds.
//! Components 1.. are mixed by one random rotation so that one scale suits them all.
//!
//! Source: Izenman, "Reduced-rank regression for the multivariate linear model", 1975; LoRANN, section 3.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use faer::{Mat, MatRef, Par, Side, linalg::triangular_solve::solve_upper_triangular_in_place};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{A, B, RrrShape};
use crate::{
    metric::Metric,
    train::{grouped::Grouped, kmeans::squared_norm, linalg, normal, rotation},
};

/// Share of the mean variance added to every direction: directions no training query has must not be
/// inverted, and 10⁻⁴ of the variance is far below what int8 resolves.
const RIDGE: f32 = 1e-4;

/// Share of the strongest component's variance from which on weaker ones are found beside it: those far below drown in its rounding,
/// which is f32's 6·10⁻⁸ times the square root of as many terms as the moment has.
const RESOLVED: f32 = 1e-6;

/// Training queries of one list, at most, per dimension: a second moment of s dimensions is known from a few
/// times s vectors; more of them find no more neighbours.
const QUERIES_PER_DIM: usize = 4;

/// Trains all lists and fills in the tensors. `queries`, and whether they are the points row by row; `step` is called once a list.
pub(crate) fn write(
    shape: RrrShape,
    metric: Metric,
    points: &Grouped<'_>,
    (queries, are_points): (&Grouped<'_>, bool),
    rng: &mut ChaCha8Rng,
    parts: &mut BTreeMap<&'static str, &mut [u8]>,
    step: impl Fn() -> bool + Sync,
) {
    let (Some(a), Some(mut b)) = (parts.remove(A), parts.remove(B)) else { return };
    let mix = rotation::random(shape.rank, rng);
    let start = linalg::subspace(shape.s, (shape.rank + 1).min(shape.s), || normal(rng));
    let mut lists = Vec::new();
    for list in 0..points.members.offsets.len() - 1 {
        let (part, rest) = b.split_at_mut(shape.b_bytes(points.members.of(list).len()));
        lists.push(part);
        b = rest;
    }
    let stops = AtomicBool::new(false);
    a.par_chunks_exact_mut(shape.a_bytes()).zip(lists).enumerate().for_each(|(list, (a, b))| {
        if stops.load(Ordering::Relaxed) {
            return;
        }
        let rows = points.members.some(list, usize::MAX);
        let members = points.gather(&rows, shape.s);
        if !members.is_empty() {
            let visitors = queries.members.some(list, QUERIES_PER_DIM * shape.s);
            let visitors = queries.gather(&visitors, shape.s);
            // Fewer queries than points: the points themselves stand in.
            let x = match visitors.len() < members.len() {
                true if are_points => queries.gather(&rows, shape.s),
                true => members.clone(),
                false => visitors,
            };
            let (left, right) = regress(members.clone(), x, shape, &mix, start.as_ref());
            write_a(shape, left.as_ref(), a);
            write_b(shape, metric, right.as_ref(), &members, b);
        }
        if !step() {
            stops.store(true, Ordering::Relaxed);
        }
    });
}

/// Divides by the largest magnitude, and returns it: second moments of data at any scale then stay in range.
fn rescale(values: &mut [f32]) -> f32 {
    let scale = values.iter().fold(0.0_f32, |m, v| v.abs().max(m));
    if scale > 0.0 {
        values.iter_mut().for_each(|v| *v /= scale);
    }
    scale
}

/// The factors A `[s, r + 1]` and B `[r + 1, m]` for points `c` and training queries `x`, which are spent.
/// `start`: what [`linalg::leading`] wants.
fn regress(
    mut c: Vec<f32>,
    mut x: Vec<f32>,
    shape: RrrShape,
    mix: &Mat<f32>,
    start: Option<&Mat<f32>>,
) -> (Mat<f32>, Mat<f32>) {
    let (s, r) = (shape.s, shape.rank);
    // The map does not depend on the queries' scale; the points' is given back in equal parts.
    rescale(&mut x);
    let part = rescale(&mut c).sqrt();
    let points = linalg::rows(&c, c.len() / s, s);
    let lower = root_of_moment(&x, s);
    let mut m = lower.transpose() * points.transpose();
    let mut left = Mat::zeros(s, r + 1);
    let mut right = Mat::zeros(r + 1, points.nrows());
    let n = (r + 1).min(s);
    if let Some((mut u, mut variances)) = linalg::leading((&m * m.transpose()).as_ref(), n, start) {
        let mut projected = u.transpose() * &m;
        if variances.last().is_some_and(|&last| last < variances[0] * RESOLVED) && n > 1 {
            // What is left of M beside its strongest component is known to f32's precision, and so are its own components.
            m -= u.col(0).as_mat() * projected.row(0).as_mat();
            if let Some((rest, weaker)) = linalg::leading((&m * m.transpose()).as_ref(), n - 1, start) {
                u.subcols_mut(1, n - 1).copy_from(&rest);
                projected.subrows_mut(1, n - 1).copy_from(rest.transpose() * &m);
                variances.truncate(1);
                variances.extend(weaker);
            }
        }
        let mut solved = u.clone();
        solve_upper_triangular_in_place(lower.transpose(), solved.as_mut(), Par::Seq);
        let second = variances.get(1).copied().unwrap_or(0.0);
        for (j, &variance) in variances.iter().enumerate() {
            // Below f32's resolution of the strongest other component there is only rounding.
            let floor = if j == 0 {
                0.0
            } else {
                second.max(variances[0] * f32::EPSILON * f32::EPSILON) * f32::EPSILON
            };
            if variance <= floor.max(f32::MIN_POSITIVE) {
                break;
            }
            let root = variance.sqrt().sqrt();
            for i in 0..s {
                left[(i, j)] = solved[(i, j)] * root * part;
            }
            for i in 0..points.nrows() {
                right[(j, i)] = projected[(j, i)] / root * part;
            }
        }
        let mixed = left.subcols(1, r) * mix;
        left.subcols_mut(1, r).copy_from(&mixed);
        let mixed = mix.transpose() * right.subrows(1, r);
        right.subrows_mut(1, r).copy_from(&mixed);
    }
    (left, right)
}

/// L with `LLᵀ = XᵀX + ridge`.
fn root_of_moment(x: &[f32], s: usize) -> Mat<f32> {
    let mut moment = vec![0.0; s * s];
    linalg::add_gram(x, s, &mut moment);
    // Coordinate 0 holds most of the energy: the others say what is small.
    let rest: f32 = (1..s).map(|i| moment[i * s + i]).sum::<f32>() / s.max(2) as f32;
    let whole: f32 = (0..s).map(|i| moment[i * s + i]).sum();
    // Never below what f32 rounding may have taken from a diagonal entry.
    let mut ridge = (rest * RIDGE).max(whole * 1e-7).max(f32::MIN_POSITIVE);
    loop {
        for i in 0..s {
            moment[i * s + i] += ridge;
        }
        match linalg::rows(&moment, s, s).llt(Side::Lower) {
            Ok(llt) => return llt.L().to_owned(),
            // Rounding left it indefinite: more of the same. Sums that overflowed end at infinity, where
            // the identity regresses as well as anything.
            Err(_) if ridge.is_finite() => ridge *= 10.0,
            Err(_) => return Mat::identity(s, s),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn write_a(shape: RrrShape, a: MatRef<'_, f32>, out: &mut [u8]) {
    let (head, run) = out.split_at_mut(shape.column_bytes());
    let (floats, column) = head.split_at_mut(8);
    let scale = a.col(0).iter().skip(1).fold(0.0_f32, |m, v| v.abs().max(m)) / 127.0;
    floats.copy_from_slice(bytemuck::cast_slice(&[a[(0, 0)], scale]));
    for (code, v) in column.iter_mut().zip(a.col(0).iter().skip(1)) {
        let steps = if scale > 0.0 { (v / scale).round_ties_even() } else { 0.0 };
        *code = (steps + 128.0).clamp(1.0, 255.0) as u8;
    }
    let columns: Vec<Vec<f32>> = (1..=shape.rank).map(|j| a.col(j).iter().copied().collect()).collect();
    shape.a.encode(columns.iter().map(|c| (c[0], &c[1..], 0.0)), run);
}

fn write_b(shape: RrrShape, metric: Metric, b: MatRef<'_, f32>, points: &[f32], out: &mut [u8]) {
    let columns: Vec<Vec<f32>> = b.col_iter().map(|c| c.iter().copied().collect()).collect();
    let vectors = columns.iter().zip(points.chunks_exact(shape.s)).map(|(column, point)| {
        let norm = if metric.is_l2() { squared_norm(point) } else { 0.0 };
        (column[0], &column[1..], norm)
    });
    shape.b.encode(vectors, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{spec::Bits, train::generator};

    #[test]
    fn full_rank_regressions_are_exact() {
        let s = 17;
        let shape = RrrShape::new(s, 16, Bits::B8, Bits::B8, Metric::Ip);
        let mut rng = generator(5, "test");
        let mix = rotation::random(16, &mut rng);
        let c: Vec<f32> = (0..40 * s).map(|_| normal(&mut rng)).collect();
        let x: Vec<f32> = (0..90 * s).map(|_| normal(&mut rng)).collect();
        let (a, b) = regress(c.clone(), x.clone(), shape, &mix, None);
        let want = linalg::rows(&x, 90, s) * linalg::rows(&c, 40, s).transpose();
        let got = linalg::rows(&x, 90, s) * &a * &b;
        assert!((&want - &got).norm_max() < 1e-2 * want.norm_max());
    }

    #[test]
    fn lower_ranks_beat_truncating_the_points() {
        let (s, r) = (40, 16);
        let shape = RrrShape::new(s, r, Bits::B8, Bits::B8, Metric::Ip);
        let mut rng = generator(5, "test");
        let mix = rotation::random(r, &mut rng);
        // Queries and points with different decaying spectra.
        let c: Vec<f32> = (0..100 * s).map(|i| normal(&mut rng) / (1.0 + (i % s) as f32)).collect();
        let x: Vec<f32> = (0..300 * s).map(|i| normal(&mut rng) / (1.0 + (s - 1 - i % s) as f32)).collect();
        let (xm, cm) = (linalg::rows(&x, 300, s), linalg::rows(&c, 100, s));
        let want = xm * cm.transpose();
        let (a, b) = regress(c.clone(), x.clone(), shape, &mix, None);
        let regressed = (&want - xm * &a * &b).norm_l2();
        // As good with a subspace to begin with, were there one for so few dimensions.
        let start = Mat::from_fn(s, r + 9, |_, _| normal(&mut rng));
        let (a, b) = regress(c.clone(), x.clone(), shape, &mix, Some(&start));
        assert!((&want - xm * &a * &b).norm_l2() < 1.02 * regressed);
        let svd = cm.thin_svd().unwrap();
        let v = svd.V().subcols(0, r + 1);
        let truncated = (&want - xm * v * v.transpose() * cm.transpose()).norm_l2();
        assert!(regressed < truncated, "{regressed} against {truncated}");
    }

    #[test]
    fn degenerate_lists_do_not_fail() {
        let shape = RrrShape::new(20, 16, Bits::B4, Bits::B4, Metric::L2);
        let mix = rotation::random(16, &mut generator(5, "test"));
        for c in [vec![0.0; 20], vec![1.0; 60], vec![3e-20; 40]] {
            let (a, b) = regress(c.clone(), c, shape, &mix, None);
            assert!(a.as_ref().col_iter().flat_map(|c| c.iter()).all(|v| v.is_finite()));
            assert!(b.as_ref().col_iter().flat_map(|c| c.iter()).all(|v| v.is_finite()));
        }
    }
}
