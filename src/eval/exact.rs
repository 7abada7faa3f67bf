//! Exact search: candidates from f32 matrix products, order from f64 scores, and a proof that no candidate is missing.
//!
//! The **exact score** of a row is computed in f64 from the vectors as given ([`exact_score`]). Only these scores order
//! the result. The first pass computes a lower bound of every exact score in f32, keeps the rows of the least bounds, and
//! scores those exactly. Let T be the k-th best exact score among them. If the largest bound kept exceeds T, then so does
//! the bound, and with it the score, of every row that was not kept: the result is proved. Queries without that proof
//! take a second pass, which scores every row exactly whose bound is at most T, and lowers T as it goes.
//!
//! # The bound
//!
//! Differences between distances are small against the lengths of vectors that lie far from the origin, so points are
//! centred first: `x' = fl(x − m)`, with m the coordinate-wise median of some rows, which outliers do not move. For l2,
//! queries are centred too, `q' = fl(q − m)`. For products they are not: `⟨q, x⟩ = ⟨q, m⟩ + ⟨q, x − m⟩`. Under cosine x
//! stands for `x/‖x‖`, divided and centred in f64 and rounded once. The query's length changes no order, so it is left
//! out, and cosine is the product of q with `x/‖x‖`. A zero row stays zero.
//!
//! In the following u = 2⁻²⁴ is f32's unit roundoff, v = 2⁻⁵³ is f64's, `γ = (d + 2)·u/(1 − (d + 2)·u)`, and p is the
//! computed matrix product `fl(⟨−2q', x'⟩)` or `fl(⟨−q, x'⟩)`. In any order of summation, with or without fused
//! multiplications, `|p − ⟨−2q', x'⟩| ≤ 2γ·‖q'‖‖x'‖ + a` (Higham, "Accuracy and Stability of Numerical Algorithms", section
//! 3.1), where a covers underflow. Magnitudes are at most 10¹⁵ and d at most 65 536, so `‖q'‖‖x'‖ ≤ 2.7·10³⁵`: nothing
//! overflows, and γ < 1/255.
//!
//! **l2.** Each rounding in `x'` is at most `u·|x'_i|`, so `q − x` and `q' − x'` differ by at most `u·S` with
//! `S = ‖q'‖ + ‖x'‖`, and the distance D from `‖q' − x'‖²` by at most `(2u + u²)·S²`. The exact score as f64 computes it
//! differs from D by at most `(d + 3)·v·D < 0.001·u·S²`. With `S² = ‖q'‖² + ‖x'‖² + 2‖q'‖‖x'‖`:
//!
//! ```text
//! score ≥ (1 − 2.1u)·‖q'‖² + (1 − 2.1u)·‖x'‖² + p − (2γ + 4.1u)·‖q'‖‖x'‖ − a
//! ```
//!
//! The pass evaluates `bound = fl(fl(term − fl(slope·length)) + p)` in f32, with `length ≥ ‖x'‖`. Its three roundings and the
//! one of `term` cost at most `3.1u·‖x'‖² + 2.1u·‖q'‖‖x'‖`. Hence `term = (1 − 8u)·‖x'‖²` and `slope = (2γ + 8u)·‖q'‖`
//! suffice, and `bound + (1 − 4u)·‖q'‖² − a ≤ score`.
//!
//! **Products.** `−⟨q, x⟩ ≥ −⟨q, m⟩ + p − (γ + u)·‖q‖‖x'‖ − a`. Evaluation costs `1.1u·‖q‖‖x'‖` more, f64 (in `⟨q, m⟩`, in the
//! exact score, in `x/‖x‖`) at most `(4d + 32)·v·‖q‖·(‖m‖ + ‖x'‖)`, under cosine `‖m‖ + 1` in the place of `‖m‖ + ‖x'‖`. So
//! `slope = (γ + 4u)·‖q‖` suffices with `term = 0`, and `bound − ⟨q, m⟩ − (4d + 32)·v·‖q‖·(‖m‖ + 1 if cosine) − a ≤ score`.
//!
//! **Underflow.** A product below the least normal number η loses at most `2⁻²⁴·η`; sums and differences that small are
//! exact. There are d products, and few more operations; under cosine each `x'_i` may lose as much. `a = (2d + 8)·(1 + ‖q‖)·η`
//! covers this many times over. Values around 10⁻²⁰ thus prove nothing in f32, and the second pass scores their rows in f64.
//!
//! What a query adds to all its bounds is moved to the other side: [`Margin::limit`] turns T into the largest bound that
//! a row of score T may have, rounded up.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Mutex};

use ndarray::Array2;
use rayon::prelude::*;

use super::EvalError;
use crate::{
    metric::Metric,
    search::filled,
    simd::Simd,
    topk::{Candidates, NO_ID, fill},
    train::linalg,
    vectors::{VectorError, Vectors, check_row, check_shape},
};

/// Rows of the base, and queries, in one matrix product: 256 × 1 024 bounds fill a megabyte.
const ROWS: usize = 1024;
const QUERIES: usize = 256;

/// Rows that the centre is the median of. It only has to be near the points: more would shorten them by little.
const CENTRE_ROWS: usize = 255;

/// Bounds compared with the threshold together.
const LANES: usize = 16;

/// Unit roundoff of f32 and of f64: 2⁻²⁴ and 2⁻⁵³.
const U: f64 = f32::EPSILON as f64 / 2.0;
const V: f64 = f64::EPSILON / 2.0;

/// The `k` nearest rows of `base` for each query: `[n_queries, k]` row numbers, best first, ties by lower row, [`NO_ID`]
/// beyond the last row.
///
/// The result is exact: rows are ordered by scores in f64 from the vectors as given, and an error bound proves that the f32
/// products that preselect them miss none. Where the bound proves nothing (near copies, for instance), a second pass over
/// the vectors decides in f64. Under cosine a zero row, and every row for a zero query, scores 0.
///
/// `step` is called with (done, total) as work goes on. `done` never falls; `total` grows when a second pass begins.
///
/// # Errors
/// [`EvalError`] for vectors that cannot be searched, and for `k = 0`.
pub fn exact(
    base: &dyn Vectors,
    queries: &dyn Vectors,
    metric: Metric,
    k: usize,
    step: &(dyn Fn(u64, u64) + Sync),
) -> Result<Array2<u64>, EvalError> {
    Ok(search(base, queries, metric, k, step)?.0)
}

/// [`exact`], and the number of queries that took a second pass.
fn search(
    base: &dyn Vectors,
    queries: &dyn Vectors,
    metric: Metric,
    k: usize,
    step: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Array2<u64>, usize), EvalError> {
    if k == 0 {
        return Err(EvalError::ZeroK);
    }
    let (n, d) = (base.n_rows(), base.dim());
    check_shape("vectors", n, d, None)?;
    check_shape("queries", queries.n_rows(), queries.dim(), Some(d))?;
    let n_queries = queries.n_rows();
    let mut ids = filled(n_queries, k, NO_ID).ok_or(EvalError::TooLarge { n_queries, k })?;
    let mut put = |query: usize, found: Vec<u64>| {
        for (i, id) in found.into_iter().enumerate() {
            ids[[query, i]] = id;
        }
    };
    let search = Search::new(base, queries, metric, k);

    let n_pieces = n_queries.div_ceil(QUERIES);
    let clock = Clock::new(n_pieces * n, step);
    let pieces: Vec<_> = (0..n_pieces)
        .into_par_iter()
        .map(|piece| search.first_pass(piece * QUERIES..n_queries.min((piece + 1) * QUERIES), &clock))
        .collect();
    let mut open = Vec::new();
    let mut query = 0;
    for piece in pieces {
        for outcome in piece? {
            match outcome {
                Outcome::Proved(found) => put(query, found),
                Outcome::Open(score) => open.push((query, score)),
            }
            query += 1;
        }
    }

    // Few queries are shared among threads all the same: exact scores do not depend on how they are cut into pieces.
    let together = open.len().div_ceil(rayon::current_num_threads()).clamp(1, QUERIES);
    clock.extend(open.len().div_ceil(together) * n);
    let pieces: Vec<_> = open.par_chunks(together).map(|open| search.second_pass(open, &clock)).collect();
    for (piece, open) in pieces.into_iter().zip(open.chunks(together)) {
        for (found, &(query, _)) in piece?.into_iter().zip(open) {
            put(query, found);
        }
    }
    Ok((ids, open.len()))
}

/// Internal score in f64: `‖q − x‖²`, `−⟨q, x⟩`, or `−⟨q, x⟩/‖x‖` under cosine, 0 for a zero row.
pub(super) fn exact_score(metric: Metric, q: &[f32], x: &[f32]) -> f64 {
    if metric.is_l2() {
        return sum_of(q, x, |q, x| (q - x) * (q - x));
    }
    let product = sum_of(q, x, |q, x| q * x);
    let length = if metric.normalises() { length_of(x) } else { 1.0 };
    // Not `-product`: a product of nothing is 0, not −0.
    if length > 0.0 { 0.0 - product / length } else { 0.0 }
}

/// `‖x‖` in f64.
fn length_of(x: &[f32]) -> f64 {
    sum_of(x, x, |a, b| a * b).sqrt()
}

/// Sums `term(a_i, b_i)` in eight interleaved parts, which compilers turn into vectors.
fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut parts = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((part, &a), &b) in parts.iter_mut().zip(a).zip(b) {
            *part += term(f64::from(a), f64::from(b));
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| term(f64::from(a), f64::from(b))).sum();
    parts.iter().sum::<f64>() + rest
}

/// Progress, reported in order.
struct Clock<'a> {
    /// Done and total.
    rows: Mutex<(u64, u64)>,
    step: &'a (dyn Fn(u64, u64) + Sync),
}

impl<'a> Clock<'a> {
    fn new(total: usize, step: &'a (dyn Fn(u64, u64) + Sync)) -> Self {
        Self { rows: Mutex::new((0, total as u64)), step }
    }

    fn extend(&self, rows: usize) {
        self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1 += rows as u64;
    }

    fn advance(&self, rows: usize) {
        let mut held = self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.0 += rows as u64;
        (self.step)(held.0, held.1);
    }
}

/// A row and its exact score, in the order of results.
#[derive(Clone, Copy, PartialEq)]
struct Ranked {
    score: f64,
    row: u64,
}

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What the first pass knows of a query.
enum Outcome {
    /// The nearest rows.
    Proved(Vec<u64>),
    /// An upper bound of the k-th best score.
    Open(f64),
}

/// What turns an exact score into the largest bound that a row of that score may have.
struct Margin {
    /// Part of the score that all rows share, with the sign of its removal.
    shift: f64,
    /// Errors that all rows share.
    slack: f64,
}

impl Margin {
    /// The largest bound of a row whose exact score is at most `score`, rounded up.
    #[allow(clippy::cast_possible_truncation, reason = "rounded up")]
    fn limit(&self, score: f64) -> f32 {
        // Four roundings in f64, each of a value below the sum of magnitudes.
        let rounding = 8.0 * V * (score.abs() + self.shift.abs() + self.slack);
        let limit = score + self.shift + self.slack + rounding;
        let rounded = limit as f32;
        if f64::from(rounded) < limit { rounded.next_up() } else { rounded }
    }
}

/// Queries that go through the base together.
struct Batch {
    /// As given, `[m, d]`.
    given: Vec<f32>,
    /// `−2q'` or `−q`, `[m, d]`.
    factors: Vec<f32>,
    /// Error of each query's products by the row's length.
    slopes: Vec<f32>,
    margins: Vec<Margin>,
}

/// Centred rows of the base.
struct Points {
    /// `[count, d]`.
    values: Vec<f32>,
    /// `‖x'‖`, rounded up.
    lengths: Vec<f32>,
    /// `(1 − 8u)·‖x'‖²` for l2, else 0.
    terms: Vec<f32>,
}

/// One exact search.
struct Search<'a> {
    base: &'a dyn Vectors,
    queries: &'a dyn Vectors,
    metric: Metric,
    k: usize,
    centre: Vec<f32>,
}

impl<'a> Search<'a> {
    fn new(base: &'a dyn Vectors, queries: &'a dyn Vectors, metric: Metric, k: usize) -> Self {
        let (n, d) = (base.n_rows(), base.dim());
        let mut search = Self { base, queries, metric, k, centre: vec![0.0; d] };
        let count = CENTRE_ROWS.min(n);
        let mut rows = vec![0.0; count * d];
        for (i, out) in rows.chunks_exact_mut(d).enumerate() {
            base.read(i * n / count, out);
            search.centre_row(out);
        }
        let mut column = vec![0.0; count];
        for (i, centre) in search.centre.iter_mut().enumerate() {
            column.iter_mut().zip(rows.chunks_exact(d)).for_each(|(v, row)| *v = row[i]);
            let (_, &mut median, _) = column.select_nth_unstable_by(count / 2, f32::total_cmp);
            // Rows that will be refused may hold anything.
            *centre = if median.is_finite() { median } else { 0.0 };
        }
        search
    }

    /// `x − m`, or `x/‖x‖ − m` under cosine, rounded once.
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    fn centre_row(&self, row: &mut [f32]) {
        if self.metric.normalises() {
            let length = length_of(row);
            let inverse = if length > 0.0 { 1.0 / length } else { 0.0 };
            for (x, &m) in row.iter_mut().zip(&self.centre) {
                *x = (f64::from(*x) * inverse - f64::from(m)) as f32;
            }
        } else {
            row.iter_mut().zip(&self.centre).for_each(|(x, m)| *x -= m);
        }
    }

    /// Reads and checks some queries.
    fn batch(&self, rows: impl ExactSizeIterator<Item = usize>) -> Result<Batch, VectorError> {
        let d = self.base.dim();
        let dims = d as f64;
        let gamma = (dims + 2.0) * U / (1.0 - (dims + 2.0) * U);
        let centre_length = length_of(&self.centre);
        let mut batch = Batch {
            given: vec![0.0; rows.len() * d],
            factors: vec![0.0; rows.len() * d],
            slopes: Vec::with_capacity(rows.len()),
            margins: Vec::with_capacity(rows.len()),
        };
        let values = batch.given.chunks_exact_mut(d).zip(batch.factors.chunks_exact_mut(d));
        for (row, (given, factors)) in rows.zip(values) {
            self.queries.read(row, given);
            check_row("queries", row, given)?;
            factors.copy_from_slice(given);
            if self.metric.is_l2() {
                factors.iter_mut().zip(&self.centre).for_each(|(q, m)| *q -= m);
            }
            let length = length_of(factors);
            let underflow = (2.0 * dims + 8.0) * (1.0 + length) * f64::from(f32::MIN_POSITIVE);
            let (slope, margin) = if self.metric.is_l2() {
                let shift = -(1.0 - 4.0 * U) * length * length;
                (2.0 * gamma + 8.0 * U, Margin { shift, slack: underflow })
            } else {
                let rest = centre_length + if self.metric.normalises() { 1.0 } else { 0.0 };
                let shift = sum_of(given, &self.centre, |q, m| q * m);
                let slack = (4.0 * dims + 32.0) * V * length * rest + underflow;
                (gamma + 4.0 * U, Margin { shift, slack })
            };
            let factor = self.metric.product_factor();
            factors.iter_mut().for_each(|q| *q *= factor);
            batch.slopes.push(rounded_up(slope * length));
            batch.margins.push(margin);
        }
        Ok(batch)
    }

    /// Meets all rows with a batch: `visit(query, first, bounds)` for each query of it and each run of rows.
    fn scan(
        &self,
        batch: &Batch,
        clock: &Clock<'_>,
        mut visit: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), VectorError> {
        let (n, d, m) = (self.base.n_rows(), self.base.dim(), batch.margins.len());
        let room = ROWS.min(n);
        let mut points =
            Points { values: vec![0.0; room * d], lengths: vec![0.0; room], terms: vec![0.0; room] };
        let mut bounds = vec![0.0; room * m];
        for first in (0..n).step_by(ROWS) {
            let count = ROWS.min(n - first);
            self.read_points(first, count, &mut points)?;
            let values = linalg::rows(&points.values[..count * d], count, d);
            let bounds = &mut bounds[..count * m];
            linalg::product(linalg::rows(&batch.factors, m, d), values.transpose(), bounds);
            for (query, (bounds, &slope)) in bounds.chunks_exact_mut(count).zip(&batch.slopes).enumerate() {
                let terms = points.terms.iter().zip(&points.lengths);
                for (bound, (term, length)) in bounds.iter_mut().zip(terms) {
                    *bound += term - slope * length;
                }
                visit(query, first, bounds);
            }
            clock.advance(count);
        }
        Ok(())
    }

    /// Reads, checks and centres `count` rows.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "magnitudes are far below f32's, and terms have room for it"
    )]
    fn read_points(&self, first: usize, count: usize, points: &mut Points) -> Result<(), VectorError> {
        let Points { values, lengths, terms } = points;
        let rows = values.chunks_exact_mut(self.base.dim()).zip(lengths).zip(terms).take(count);
        for (row, ((values, length), term)) in (first..).zip(rows) {
            self.base.read(row, values);
            check_row("vectors", row, values)?;
            self.centre_row(values);
            let square = sum_of(values, values, |a, b| a * b);
            *length = rounded_up(square.sqrt());
            *term = if self.metric.is_l2() { ((1.0 - 8.0 * U) * square) as f32 } else { 0.0 };
        }
        Ok(())
    }

    /// Keeps the rows of the least bounds and scores them exactly.
    fn first_pass(
        &self,
        queries: std::ops::Range<usize>,
        clock: &Clock<'_>,
    ) -> Result<Vec<Outcome>, VectorError> {
        let n = self.base.n_rows();
        // Beyond the k-th, so that the largest bound kept exceeds its score.
        let keep = self.k.saturating_add(self.k / 2).saturating_add(16).min(n);
        let id_of = |position: u32| u64::from(position);
        let batch = self.batch(queries)?;
        let mut kept: Vec<Candidates> = batch.margins.iter().map(|_| Candidates::default()).collect();
        kept.iter_mut().for_each(|kept| kept.reset(Simd::detect(), keep));
        self.scan(&batch, clock, |query, first, bounds| {
            fill([&mut kept[query]], bounds.len(), &id_of, |seen, [tail]| {
                let mut at = seen;
                while at < bounds.len() && tail.has_room() {
                    let lanes = &bounds[at..bounds.len().min(at + LANES)];
                    // Counted without a branch, so that compilers turn it into vectors.
                    if lanes.iter().map(|&bound| u32::from(bound <= tail.threshold)).sum::<u32>() > 0 {
                        for (row, &bound) in (first + at..).zip(lanes) {
                            if bound <= tail.threshold {
                                tail.put(bound, u32::try_from(row).unwrap_or(u32::MAX));
                            }
                        }
                    }
                    at += LANES;
                }
                Some(at)
            });
        })?;
        let mut row = vec![0.0; self.base.dim()];
        let outcome = |((kept, query), margin): ((&mut Candidates, &[f32]), &Margin)| {
            kept.cut(&id_of);
            let mut ranked: Vec<Ranked> = Vec::with_capacity(keep);
            for &position in kept.positions() {
                ranked.push(self.rank(query, position as usize, &mut row));
            }
            ranked.sort_unstable();
            ranked.truncate(self.k);
            let worst = kept.scores().iter().copied().fold(f32::NEG_INFINITY, f32::max);
            match ranked.last() {
                Some(last) if keep < n && worst <= margin.limit(last.score) => Outcome::Open(last.score),
                _ => Outcome::Proved(ranked.into_iter().map(|ranked| ranked.row).collect()),
            }
        };
        let queries = batch.given.chunks_exact(self.base.dim());
        Ok(kept.iter_mut().zip(queries).zip(&batch.margins).map(outcome).collect())
    }

    /// Scores every row exactly whose bound does not exclude it; `open`: queries, and upper bounds of their k-th best scores.
    fn second_pass(&self, open: &[(usize, f64)], clock: &Clock<'_>) -> Result<Vec<Vec<u64>>, VectorError> {
        let d = self.base.dim();
        let batch = self.batch(open.iter().map(|&(query, _)| query))?;
        let mut best: Vec<BinaryHeap<Ranked>> = open.iter().map(|_| BinaryHeap::new()).collect();
        let mut limits: Vec<f32> =
            batch.margins.iter().zip(open).map(|(margin, &(_, score))| margin.limit(score)).collect();
        let mut room = vec![0.0; d];
        self.scan(&batch, clock, |query, first, bounds| {
            let (best, limit) = (&mut best[query], &mut limits[query]);
            for (row, &bound) in (first..).zip(bounds) {
                if bound > *limit {
                    continue;
                }
                best.push(self.rank(&batch.given[query * d..][..d], row, &mut room));
                if best.len() > self.k {
                    best.pop();
                }
                if let (Some(last), true) = (best.peek(), best.len() == self.k) {
                    *limit = limit.min(batch.margins[query].limit(last.score));
                }
            }
        })?;
        let rows = |best: BinaryHeap<Ranked>| best.into_sorted_vec().into_iter().map(|ranked| ranked.row);
        Ok(best.into_iter().map(|best| rows(best).collect()).collect())
    }

    /// A row and its exact score; `room`: `[d]`.
    fn rank(&self, query: &[f32], row: usize, room: &mut [f32]) -> Ranked {
        self.base.read(row, room);
        Ranked { score: exact_score(self.metric, query, room), row: row as u64 }
    }
}

/// A length or slope as f32, not below it.
#[allow(clippy::cast_possible_truncation, reason = "rounded up")]
fn rounded_up(value: f64) -> f32 {
    // Added where f32 has no relative precision.
    (value * (1.0 + 4.0 * U)) as f32 + f32::MIN_POSITIVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{generator, normal};

    /// Rows `[n, d]` of 50 clusters, times `scale`, plus `offset`.
    fn clusters(n: usize, d: usize, scale: f32, offset: f32) -> Array2<f32> {
        let mut rng = generator(5, "test");
        let centres = Array2::from_shape_fn((50, d), |_| normal(&mut rng));
        Array2::from_shape_fn((n, d), |(i, j)| {
            (centres[[i * 13 % 50, j]] + 0.3 * normal(&mut rng)) * scale + offset
        })
    }

    #[test]
    fn one_pass_suffices_for_most_data() {
        for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
            for (scale, offset) in [(1.0, 0.0), (1.0, 100.0), (1e-6, 0.0), (1e12, 0.0), (1e12, 1e14)] {
                let base = clusters(3000, 48, scale, offset);
                let queries = base.slice(ndarray::s![..100, ..]);
                let (_, n_open) = search(&base.view(), &queries, metric, 10, &|_, _| ()).unwrap();
                assert!(n_open <= 5, "{metric}, {scale}, {offset}: {n_open} of 100 took a second pass");
            }
        }
    }

    #[test]
    fn bounds_stay_below_the_exact_scores() {
        for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
            for (scale, offset) in [(1.0, 0.0), (1.0, 1000.0), (1e-3, 7.0), (1e-22, 0.0), (1e14, 0.0)] {
                let base = clusters(500, 37, scale, offset);
                let queries = base.slice(ndarray::s![..20, ..]).mapv(|v| v * 1.1);
                let (base, queries) = (base.view(), queries.view());
                let search = Search::new(&base, &queries, metric, 10);
                let batch = search.batch(0..20).unwrap();
                let mut row = vec![0.0; 37];
                let visit = |query: usize, first: usize, bounds: &[f32]| {
                    for (i, &bound) in bounds.iter().enumerate() {
                        let given = &batch.given[query * 37..][..37];
                        let limit = batch.margins[query].limit(search.rank(given, first + i, &mut row).score);
                        assert!(bound <= limit, "{metric}, {scale}, {offset}: {bound} beyond {limit}");
                    }
                };
                search.scan(&batch, &Clock::new(0, &|_, _| ()), visit).unwrap();
            }
        }
    }
}
