//! Exact search, and recall against it.

use std::collections::{HashMap, HashSet};

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    index::Index,
    metric::Metric,
    rows::RowStore,
    search::filled,
    simd::Simd,
    stage::scorer::Scorer,
    topk::{Candidates, NO_ID},
    train::{kmeans, linalg},
    vectors::{VectorError, Vectors, check_row, check_shape},
};

/// Rows of the base, and queries, in one matrix product: 256 × 1 024 scores fill a megabyte.
const ROWS: usize = 1024;
const QUERIES: usize = 256;

/// Scores that differ by less, relative to the larger one, count as equal.
const TIE: f64 = 1e-6;

/// A search that cannot be done exactly.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The vectors cannot be searched.
    #[error(transparent)]
    Vectors(#[from] VectorError),
    /// `k` is zero.
    #[error("k: expected at least 1, got 0")]
    ZeroK,
    /// The result would not fit in memory.
    #[error("k: expected a result that fits in memory, got {n_queries} queries of {k} neighbours")]
    TooLarge {
        /// Queries.
        n_queries: usize,
        /// Neighbours asked for.
        k: usize,
    },
    /// Truth of another shape than asked for.
    #[error("truth: expected {expected}, got {got}")]
    Truth {
        /// Shape expected.
        expected: String,
        /// Shape given.
        got: String,
    },
    /// Truth that names points the index does not have.
    #[error("truth: id {id} of query {query} is not in the index: was it made from the same vectors?")]
    UnknownId {
        /// The id.
        id: u64,
        /// The query's row.
        query: usize,
    },
}

/// The `k` nearest rows of `base` for each query, exactly: `[n_queries, k]` row numbers, best first, ties by
/// lower row, [`NO_ID`] beyond the last row.
///
/// Candidates come from f32 products; the best of them, with a margin for rounding, are scored again in
/// f64. `step` is called with (done, total) as work goes on.
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
    if k == 0 {
        return Err(EvalError::ZeroK);
    }
    let (n, d) = (base.n_rows(), base.dim());
    check_shape("vectors", n, d, None)?;
    check_shape("queries", queries.n_rows(), queries.dim(), Some(d))?;
    let read = |what, vectors: &dyn Vectors, row: usize, out: &mut [f32]| {
        vectors.read(row, out);
        check_row(what, row, out, metric.normalises())?;
        if metric.normalises() {
            kmeans::normalise(out);
        }
        Ok::<(), VectorError>(())
    };
    // A margin for f32 rounding at the k-th place.
    let keep = k.saturating_add(k / 2).saturating_add(16).min(n);
    let n_queries = queries.n_rows();
    let mut ids = filled(n_queries, k, NO_ID).ok_or(EvalError::TooLarge { n_queries, k })?;
    let total = n_queries.div_ceil(QUERIES) as u64 * n as u64;
    let done = std::sync::atomic::AtomicU64::new(0);
    let pieces: Vec<Result<Vec<Vec<u64>>, VectorError>> = (0..n_queries.div_ceil(QUERIES))
        .into_par_iter()
        .map(|piece| {
            let rows = piece * QUERIES..n_queries.min((piece + 1) * QUERIES);
            let m = rows.len();
            let mut q = vec![0.0; m * d];
            for (row, out) in rows.clone().zip(q.chunks_exact_mut(d)) {
                read("queries", queries, row, out)?;
            }
            let mut kept: Vec<Candidates> = (0..m).map(|_| Candidates::default()).collect();
            for kept in &mut kept {
                kept.reset(Simd::detect(), keep);
            }
            let mut x = vec![0.0; ROWS * d];
            let mut products = vec![0.0; ROWS * m];
            for start in (0..n).step_by(ROWS) {
                let count = ROWS.min(n - start);
                for (i, out) in x.chunks_exact_mut(d).take(count).enumerate() {
                    read("vectors", base, start + i, out)?;
                }
                let x = &x[..count * d];
                let norms: Vec<f32> = x
                    .chunks_exact(d)
                    .map(|row| if metric.is_l2() { kmeans::squared_norm(row) } else { 0.0 })
                    .collect();
                let products = &mut products[..count * m];
                linalg::product(linalg::rows(&q, m, d), linalg::rows(x, count, d).transpose(), products);
                for (kept, products) in kept.iter_mut().zip(products.chunks_exact(count)) {
                    for (i, (&product, &norm)) in products.iter().zip(&norms).enumerate() {
                        let score = norm + metric.product_factor() * product;
                        let position = u32::try_from(start + i).unwrap_or(u32::MAX);
                        kept.push(score, position, &|position| u64::from(position));
                    }
                }
                let done = done.fetch_add(count as u64, std::sync::atomic::Ordering::Relaxed);
                step(done + count as u64, total);
            }
            let mut row = vec![0.0; d];
            let mut found = Vec::with_capacity(m);
            for (kept, q) in kept.iter_mut().zip(q.chunks_exact(d)) {
                kept.cut(&|position| u64::from(position));
                let mut scored = Vec::with_capacity(keep);
                for &position in kept.positions() {
                    read("vectors", base, position as usize, &mut row)?;
                    scored.push((exact_score(metric, q, &row), u64::from(position)));
                }
                scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                found.push(scored.into_iter().take(k).map(|(_, id)| id).collect());
            }
            Ok(found)
        })
        .collect();
    let mut row = 0;
    for piece in pieces {
        for found in piece? {
            for (i, id) in found.into_iter().enumerate() {
                ids[[row, i]] = id;
            }
            row += 1;
        }
    }
    Ok(ids)
}

/// Internal score in f64.
fn exact_score(metric: Metric, q: &[f32], x: &[f32]) -> f64 {
    let pairs = q.iter().zip(x).map(|(&q, &x)| (f64::from(q), f64::from(x)));
    if metric.is_l2() {
        pairs.map(|(q, x)| (q - x) * (q - x)).sum()
    } else {
        -pairs.map(|(q, x)| q * x).sum::<f64>()
    }
}

/// Recall against exact truth, ties counted.
///
/// A returned id is right when it is among the k true ones, or when its exact score is as good as the k-th
/// true one's within 10⁻⁶; each id counts once. Exact scores are computed from the vectors, if given
/// ([`Recall::with_base`]), or from the rows of an index that stores them in f32; without either only ids are
/// compared, which can only make recall lower.
pub struct Recall<'a> {
    index: &'a Index,
    queries: &'a dyn Vectors,
    base: Option<&'a dyn Vectors>,
    truth: ArrayView2<'a, u64>,
    k: usize,
    /// Points by id.
    points: HashMap<u64, u32>,
}

impl<'a> Recall<'a> {
    /// Prepares truth, `[n_queries, at least k]` ids best first, for an index and its queries.
    ///
    /// # Errors
    /// [`EvalError::Truth`] where the shape does not fit, [`EvalError::UnknownId`] where ids do not.
    pub fn new(
        index: &'a Index,
        queries: &'a dyn Vectors,
        truth: ArrayView2<'a, u64>,
        k: usize,
    ) -> Result<Self, EvalError> {
        if k == 0 {
            return Err(EvalError::ZeroK);
        }
        check_shape("queries", queries.n_rows(), queries.dim(), Some(index.dim()))?;
        let (rows, width) = truth.dim();
        let k = k.min(index.len());
        if rows != queries.n_rows() || width < k {
            return Err(EvalError::Truth {
                expected: format!("{} rows of at least {k} ids", queries.n_rows()),
                got: format!("{rows} rows of {width}"),
            });
        }
        let ids = index.model().lists.ids();
        let n = u32::try_from(index.len()).unwrap_or(u32::MAX);
        let points: HashMap<u64, u32> = (0..n).map(|p| (ids.get(p), p)).collect();
        for (query, row) in truth.outer_iter().enumerate() {
            if let Some(&id) = row.iter().take(k).find(|id| !points.contains_key(id)) {
                return Err(EvalError::UnknownId { id, query });
            }
        }
        Ok(Self { index, queries, base: None, truth, k, points })
    }

    /// Takes exact scores from the vectors the index was built from; its ids must be their row numbers.
    ///
    /// # Errors
    /// [`EvalError::Vectors`] where they are not of the index's shape.
    pub fn with_base(mut self, base: &'a dyn Vectors) -> Result<Self, EvalError> {
        check_shape("vectors", base.n_rows(), base.dim(), Some(self.index.dim()))?;
        if let Some(&id) = self.points.keys().find(|&&id| id >= base.n_rows() as u64) {
            let got = format!("id {id} in an index of {} points", self.index.len());
            let expected = format!("ids that are row numbers of the {} vectors given", base.n_rows());
            return Err(EvalError::Truth { expected, got });
        }
        self.base = Some(base);
        Ok(self)
    }

    /// Exact internal score of a point, if there are exact vectors.
    fn exact_score(&self, q: &[f32], id: u64) -> Option<f64> {
        let model = self.index.model();
        if let Some(base) = self.base {
            let mut row = vec![0.0; base.dim()];
            base.read(usize::try_from(id).ok()?, &mut row);
            if model.frame.metric().normalises() {
                kmeans::normalise(&mut row);
            }
            return Some(exact_score(model.frame.metric(), q, &row));
        }
        let rows = self.stored_rows().filter(|rows| rows.is_exact())?;
        Some(exact_score(model.frame.metric(), q, &model.given_row(rows, *self.points.get(&id)? as usize)))
    }

    /// Rows of the index by point, exact or rounded.
    fn stored_rows(&self) -> Option<&RowStore> {
        let model = self.index.model();
        let by_point = model.lists.sizes().n_copies == 1;
        match (&model.refine, &model.scorer, &model.transform) {
            (Some(rows), ..) => Some(rows),
            (None, Scorer::Rows(rows), None) if by_point => Some(rows),
            _ => None,
        }
    }

    /// Share of the queries (the first 100) whose truth is out of order: a later neighbour is clearly nearer than an earlier
    /// one. Such truth is of another metric, of other queries or of other vectors. Nothing where no scores are known
    /// ([`Recall::with_base`]), and for k below 3.
    #[must_use]
    pub fn out_of_order(&self) -> Option<f64> {
        let model = self.index.model();
        if self.k < 3 || (self.base.is_none() && self.stored_rows().is_none()) {
            return None;
        }
        let score = |q: &[f32], id: u64| {
            self.exact_score(q, id).or_else(|| {
                let rows = self.stored_rows()?;
                Some(exact_score(
                    model.frame.metric(),
                    q,
                    &model.given_row(rows, *self.points.get(&id)? as usize),
                ))
            })
        };
        let n = self.truth.nrows().min(100);
        let mut q = vec![0.0; model.dim];
        let is_unordered = |query: usize| {
            self.queries.read(query, &mut q);
            if model.frame.metric().normalises() {
                kmeans::normalise(&mut q);
            }
            let ids = self.truth.row(query);
            let scores: Vec<f64> = ids.iter().take(self.k).filter_map(|&id| score(&q, id)).collect();
            let most = |all: &[f64]| all.iter().fold(f64::NEG_INFINITY, |m, v| v.max(m));
            let least = scores.iter().fold(f64::INFINITY, |m, v| v.min(m));
            // Rounded rows change places with neighbours about as near.
            let slack = 0.1 * (most(&scores) - least) + 1e-3 * least.abs();
            (1..scores.len()).any(|i| scores[i] < most(&scores[..i]) - slack)
        };
        let unordered = (0..n).map(is_unordered).filter(|&bad| bad).count();
        Some(unordered as f64 / n.max(1) as f64)
    }

    /// Share of the k true neighbours found among the first k `ids`, `[n_queries, at least k]`; rows beyond the queries do
    /// not count.
    #[must_use]
    pub fn of(&self, ids: ArrayView2<'_, u64>) -> f64 {
        self.found(ids, self.k)
    }

    /// Recall 1@k: share of the queries whose nearest neighbour is among the first k `ids`.
    #[must_use]
    pub fn of_nearest(&self, ids: ArrayView2<'_, u64>) -> f64 {
        self.found(ids, 1)
    }

    /// Share of the first `depth` true neighbours found among the first k `ids`.
    fn found(&self, ids: ArrayView2<'_, u64>, depth: usize) -> f64 {
        let model = self.index.model();
        let mut q = vec![0.0; model.dim];
        let mut found = 0;
        for (query, ids) in ids.outer_iter().take(self.truth.nrows()).enumerate() {
            let truth: Vec<u64> = self.truth.row(query).iter().take(depth).copied().collect();
            let mut last = None;
            let mut seen = HashSet::new();
            let mut right_ids = 0;
            for &id in ids.iter().take(self.k) {
                let mut right = truth.contains(&id);
                if !right && id != NO_ID {
                    let last = last.get_or_insert_with(|| {
                        self.queries.read(query, &mut q);
                        if model.frame.metric().normalises() {
                            kmeans::normalise(&mut q);
                        }
                        self.exact_score(&q, truth[depth - 1])
                    });
                    if let (Some(last), Some(score)) = (*last, self.exact_score(&q, id)) {
                        right = score <= last + TIE * last.abs().max(score.abs());
                    }
                }
                if right && seen.insert(id) {
                    right_ids += 1;
                }
            }
            // With ties more ids may be right than there are places.
            found += right_ids.min(depth);
        }
        found as f64 / (depth * self.truth.nrows()).max(1) as f64
    }
}
