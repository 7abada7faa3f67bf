//! Exact search, and recall against it.

mod exact;

use std::collections::{HashMap, HashSet};

use ndarray::ArrayView2;

pub use self::exact::exact;
use self::exact::exact_score;
use crate::{
    index::Index,
    rows::RowStore,
    stage::scorer::Scorer,
    topk::NO_ID,
    vectors::{VectorError, Vectors, check_shape},
};

/// Scores that differ by less, relative to the larger one, count as equal: those from the vectors as given, where only f64
/// rounds, and those from rows that an index stores in f32.
const TIE: f64 = 1e-9;
const STORED_TIE: f64 = 1e-6;

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

/// Recall against exact truth, ties counted.
///
/// A returned id is right when it is among the k true ones, or when its exact score is as good as the k-th
/// true one's; each id counts once. Exact scores are computed in f64 from the vectors as given, if they are
/// ([`Recall::with_base`]), and tie within 10⁻⁹ of their size. Otherwise they come from the rows of an index that stores
/// them in f32, and tie within 10⁻⁶. Without either only ids are compared, which can only make recall lower.
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
            return Some(exact_score(model.metric, q, &row));
        }
        let rows = self.stored_rows().filter(|rows| rows.is_exact())?;
        Some(exact_score(model.metric, q, &rows.decode(*self.points.get(&id)? as usize)))
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
                Some(exact_score(model.metric, q, &rows.decode(*self.points.get(&id)? as usize)))
            })
        };
        let n = self.truth.nrows().min(100);
        let mut q = vec![0.0; model.dim];
        let is_unordered = |query: usize| {
            self.queries.read(query, &mut q);
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
        let tie = if self.base.is_some() { TIE } else { STORED_TIE };
        let mut q = vec![0.0; self.index.dim()];
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
                        self.exact_score(&q, truth[depth - 1])
                    });
                    if let (Some(last), Some(score)) = (*last, self.exact_score(&q, id)) {
                        right = score <= last + tie * last.abs().max(score.abs());
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
