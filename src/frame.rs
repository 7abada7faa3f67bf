//! Frame: what the stages see in the place of vectors as given.
//!
//! A part that all points have in common tells none of them apart, but it uses up what resolves the differences: the range of a code,
//! the rank of a regression, the eleven bits of an f16. So their mean m is subtracted once, from points when an index is built and from
//! queries when they arrive. How depends on the metric:
//!
//! | metric | when | points | query, for stored rows | query, for the stages | score |
//! |---|---|---|---|---|---|
//! | l2 | always | x − m | q − m | q − m | `‖(q − m) − (x − m)‖²` |
//! | ip | m is a large part | x − m | q | q | `⟨q, x − m⟩ + ⟨q, m⟩` |
//! | cosine | m is a large part | x̂ − m | q̂ | q̂ − m | `⟨q̂, x̂ − m⟩ + ⟨q̂, m⟩` |
//!
//! with x̂ and q̂ of unit length. Unit vectors are ordered by `⟨q̂, x̂⟩ = 1 − ‖q̂ − x̂‖²/2`, so under cosine the stages work with squared
//! distances, which do not see m at all; a row's product is still what decides in the end. Recall@10 of `PCA,IVF,RRR,Refine(f16)` on
//! 20 000 made vectors of 128 dimensions, by the share of their energy that is common: at 0.8 0.963 as given, 0.994 as under ip and
//! 0.999 by distances; at 0.99 0.65, 0.985 and 0.999. Below a quarter there is nothing to gain, and vectors stay as they are.
//!
//! Under l2 m is rounded to a grid of about half of a column's spread, and to whole numbers where the column holds nothing else:
//! differences of pixels and counts then stay exact, and a mean that is no more than a fraction of the spread becomes 0.

use std::{collections::BTreeMap, sync::Arc};

use half::f16;
use rayon::prelude::*;

use crate::{
    format::{Image, OpenError, PLAIN, TensorDecl, VERSION},
    metric::Metric,
    train::{ReadRows, generator, kmeans::normalise, sample},
};

/// The mean, f32 `[d]`.
const MEAN: &str = "frame.mean";

/// The metadata entry that is `l2` where the stages of another metric work with distances.
const STAGES: &str = "stages";

/// Rows that the mean is taken of, at most: its standard error is then a thirtieth of the spread, an eighth of the grid.
const SAMPLE: usize = 1024;

/// Values of the sample, at most: 64 MiB.
const VALUES_MAX: usize = 1 << 24;

/// One value in so many, at either end of a column, does not count: outliers must not move what all others are measured by.
const TRIMMED: usize = 8;

/// Share of the energy of products that the mean has to hold to be subtracted.
const COMMON_MIN: f64 = 0.25;

/// What vectors are turned into before a stage sees them.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    metric: Metric,
    stages: Metric,
    mean: Option<Arc<[f32]>>,
}

/// A column of the sample.
struct Column {
    mean: f64,
    deviation: f64,
    is_whole: bool,
}

impl Frame {
    /// Vectors as given, but of unit length under cosine.
    pub fn plain(metric: Metric) -> Self {
        Self { metric, stages: metric, mean: None }
    }

    /// The frame for points, which [`Frame::plain`] has seen, by a sample of them. Values that are not finite may come up: points are
    /// checked later.
    pub fn find(metric: Metric, points: &dyn ReadRows, seed: u64) -> Self {
        let (n, d) = (points.n_rows(), points.dim());
        let most = (VALUES_MAX / d).clamp(1, SAMPLE);
        let rows = points.gather(&sample(&mut generator(seed, "frame"), n, most));
        let columns: Vec<Column> = (0..d)
            .into_par_iter()
            .map(|j| Column::of(rows.iter().skip(j).step_by(d).copied().collect()))
            .collect();
        #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
        let mean: Vec<f32> = columns
            .iter()
            .map(|column| match metric {
                Metric::L2 => column.on_grid() as f32,
                // What f16 holds: a zero row, which becomes −m, is then stored exactly, and scores 0.
                _ => f16::from_f64(column.mean).to_f32(),
            })
            .collect();
        let energy = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let is_common = if metric.is_l2() {
            mean.iter().any(|&m| m != 0.0)
        } else {
            let mut energies: Vec<f64> = rows.chunks_exact(d).map(energy).collect();
            energies.sort_by(f64::total_cmp);
            energy(&mean) >= COMMON_MIN * energies[energies.len() / 2] && energy(&mean) > 0.0
        };
        if !is_common || !energy(&mean).is_finite() {
            return Self::plain(metric);
        }
        let stages = if metric == Metric::Cosine { Metric::L2 } else { metric };
        Self { metric, stages, mean: Some(mean.into()) }
    }

    /// Whether points and queries are changed in one way: what a transform does to both is then of use by itself.
    pub fn is_even(&self) -> bool {
        self.mean.is_none() || self.metric.is_l2()
    }

    /// The version of a file that holds it.
    pub fn version(&self) -> u32 {
        if self.mean.is_some() { VERSION } else { PLAIN }
    }

    /// The tensor that holds it, if there is anything to hold.
    pub fn declare(&self) -> Option<TensorDecl> {
        self.mean.as_ref().map(|mean| TensorDecl::new::<f32>(MEAN, &[mean.len()]))
    }

    /// The entry of the header that says what the stages work with, where it is not the metric.
    pub fn metadata(&self) -> Option<(String, String)> {
        (self.stages != self.metric).then(|| (STAGES.to_owned(), self.stages.to_string()))
    }

    /// Fills in the tensor.
    pub fn write(&self, parts: &mut BTreeMap<&'static str, &mut [u8]>) {
        if let (Some(mean), Some(out)) = (&self.mean, parts.remove(MEAN)) {
            out.copy_from_slice(bytemuck::cast_slice(mean));
        }
    }

    /// Reads the frame of an index file.
    pub fn open(image: &Arc<Image>, metric: Metric, d: usize) -> Result<Self, OpenError> {
        let has_mean = image.tensors().contains_key(MEAN);
        let stages = match image.metadata(STAGES) {
            None => metric,
            Some("l2") if metric == Metric::Cosine => Metric::L2,
            Some(other) => {
                let expected = "`l2`, under cosine".to_owned();
                return Err(OpenError::Metadata { key: STAGES, expected, got: Some(other.to_owned()) });
            }
        };
        if !has_mean {
            return Ok(Self { metric, stages, mean: None });
        }
        let mean = image.view::<f32>(MEAN, &[d])?;
        if mean.iter().any(|v| !v.is_finite()) {
            let reason = "expected finite values".to_owned();
            return Err(OpenError::Value { name: MEAN.to_owned(), reason });
        }
        Ok(Self { metric, stages, mean: Some(mean.iter().copied().collect()) })
    }

    /// The metric that users asked for, and that stored rows are scored by.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The metric that transform, router and scorer work with.
    pub fn stages(&self) -> Metric {
        self.stages
    }

    /// Whether the stages see queries that are not shifted as points are: points are then no training queries as they are.
    pub fn has_sides(&self) -> bool {
        self.mean.is_some() && !self.stages.is_l2()
    }

    /// Whether the stages see another query than stored rows do.
    pub fn splits_queries(&self) -> bool {
        self.mean.is_some() && self.stages.is_l2() && !self.metric.is_l2()
    }

    /// A point as given becomes one as stored.
    pub fn point(&self, x: &mut [f32]) {
        self.scale(x);
        self.shift(x);
    }

    /// A query as given becomes one that stored rows meet.
    pub fn query(&self, q: &mut [f32]) {
        self.scale(q);
        if self.metric.is_l2() {
            self.shift(q);
        }
    }

    /// A query as stored rows meet it becomes one that the stages see.
    pub fn staged(&self, q: &mut [f32]) {
        if self.splits_queries() {
            self.shift(q);
        }
    }

    /// A point as stored becomes one as given, but of unit length under cosine.
    pub fn restore(&self, x: &mut [f32]) {
        if let Some(mean) = &self.mean {
            x.iter_mut().zip(&**mean).for_each(|(v, m)| *v += m);
        }
    }

    /// What rows lack of unit length, if that is what they have together: m, or nothing.
    pub fn unit_rest(&self) -> Option<&[f32]> {
        self.metric.normalises().then(|| self.mean.as_deref().unwrap_or_default())
    }

    /// `⟨q, m⟩` of a query as stored rows meet it: the part of its products that no row holds. Nothing for a zero query under cosine,
    /// whose products are all 0.
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    pub fn common_product(&self, q: &[f32]) -> Option<f32> {
        if self.metric.normalises() && q.iter().all(|&v| v == 0.0) {
            return None;
        }
        Some(match &self.mean {
            Some(mean) if !self.metric.is_l2() => {
                q.iter().zip(&**mean).map(|(&q, &m)| f64::from(q) * f64::from(m)).sum::<f64>() as f32
            }
            _ => 0.0,
        })
    }

    /// The user's score from an internal one, by stored rows or by the stages; `common`: [`Frame::common_product`].
    pub fn public_score(&self, internal: f32, by_rows: bool, common: Option<f32>) -> f32 {
        if self.metric.is_l2() {
            return internal;
        }
        let Some(common) = common else { return 0.0 };
        let product = if by_rows || !self.stages.is_l2() {
            // Not `-internal`: a product of nothing is 0, not −0.
            0.0 - internal + common
        } else {
            1.0 - 0.5 * internal
        };
        // Rounded rows and approximate scores may say more than can be.
        if self.metric == Metric::Cosine { product.clamp(-1.0, 1.0) } else { product }
    }

    fn scale(&self, x: &mut [f32]) {
        if self.metric.normalises() {
            normalise(x);
        }
    }

    fn shift(&self, x: &mut [f32]) {
        if let Some(mean) = &self.mean {
            x.iter_mut().zip(&**mean).for_each(|(v, m)| *v -= m);
        }
    }
}

impl Column {
    /// The mean and the spread of the middle of some values.
    fn of(mut values: Vec<f32>) -> Self {
        let is_whole = values.iter().all(|v| v.fract() == 0.0);
        let (n, cut) = (values.len(), values.len() / TRIMMED);
        values.sort_unstable_by(f32::total_cmp);
        let middle = &values[cut..n - cut];
        let mean = middle.iter().map(|&v| f64::from(v)).sum::<f64>() / middle.len() as f64;
        let square = middle.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / middle.len() as f64;
        Self { mean, deviation: square.sqrt(), is_whole }
    }

    /// The mean, to the nearest multiple of a power of two about a third to two thirds of the spread.
    fn on_grid(&self) -> f64 {
        let mut grid = if self.deviation > 0.0 { self.deviation.log2().floor().exp2() } else { 0.0 };
        if self.is_whole {
            grid = grid.max(1.0);
        }
        if grid > 0.0 { (self.mean / grid).round() * grid } else { self.mean }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::normal;

    struct Made {
        d: usize,
        values: Vec<f32>,
    }

    impl ReadRows for Made {
        fn n_rows(&self) -> usize {
            self.values.len() / self.d
        }

        fn dim(&self) -> usize {
            self.d
        }

        fn gather(&self, rows: &[usize]) -> Vec<f32> {
            rows.iter().flat_map(|row| &self.values[row * self.d..(row + 1) * self.d]).copied().collect()
        }
    }

    /// Rows around `mean`, in units of `spread`.
    fn made(n: usize, d: usize, mean: f32, spread: f32) -> Made {
        let mut rng = generator(5, "test");
        Made { d, values: (0..n * d).map(|_| mean + spread * normal(&mut rng)).collect() }
    }

    #[test]
    fn small_means_stay_and_large_ones_go() {
        assert!(Frame::find(Metric::L2, &made(3000, 8, 0.05, 1.0), 0).mean.is_none());
        let frame = Frame::find(Metric::L2, &made(3000, 8, 700.0, 1.0), 0);
        let mut x = vec![700.0; 8];
        frame.point(&mut x);
        assert!(x.iter().all(|v| v.abs() <= 0.35), "{x:?}");
        assert!(Frame::find(Metric::Ip, &made(3000, 8, 0.3, 1.0), 0).mean.is_none());
        let ip = Frame::find(Metric::Ip, &made(3000, 8, 1.0, 1.0), 0);
        assert!(ip.mean.is_some() && ip.has_sides() && !ip.splits_queries());
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let mut rows = made(2000, 6, 100.3, 20.0);
        rows.values.iter_mut().for_each(|v| *v = v.round());
        let frame = Frame::find(Metric::L2, &rows, 0);
        let mean = frame.mean.unwrap();
        assert!(mean.iter().all(|v| v.fract() == 0.0 && (v - 100.0).abs() < 10.0), "{mean:?}");
    }

    #[test]
    fn outliers_do_not_move_the_mean() {
        let mut rows = made(1000, 5, 50.0, 1.0);
        rows.values[..5].fill(1e9);
        let frame = Frame::find(Metric::L2, &rows, 0);
        assert!(frame.mean.unwrap().iter().all(|v| (v - 50.0).abs() <= 0.5));
    }

    #[test]
    fn constant_columns_become_zero() {
        let mut rows = made(500, 3, 0.0, 1.0);
        rows.values.chunks_exact_mut(3).for_each(|row| row[1] = 0.1);
        let frame = Frame::find(Metric::L2, &rows, 0);
        let mut x = rows.gather(&[77]);
        frame.point(&mut x);
        assert_eq!(x[1], 0.0);
    }

    #[test]
    fn products_are_whole_again() {
        let frame = Frame { metric: Metric::Cosine, stages: Metric::L2, mean: Some([0.6, 0.0].into()) };
        let (mut q, mut x) = ([3.0, 4.0], [1.0, 0.0]);
        frame.query(&mut q);
        frame.point(&mut x);
        let internal = -(q[0] * x[0] + q[1] * x[1]);
        let score = frame.public_score(internal, true, frame.common_product(&q));
        assert!((score - 0.6).abs() < 1e-6, "{score}");
        // By distance the same.
        frame.staged(&mut q);
        let distance = (q[0] - x[0]).powi(2) + (q[1] - x[1]).powi(2);
        assert!((frame.public_score(distance, false, Some(9.0)) - 0.6).abs() < 1e-6);
        assert_eq!(frame.public_score(-7.0, true, Some(0.0)), 1.0);
        assert_eq!(frame.common_product(&[0.0, 0.0]), None);
    }
}
