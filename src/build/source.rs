//! The vectors that an index is built of, as its stages see them.

use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::IndexBuilder;
use crate::{
    frame::Frame,
    rows,
    stage::transform::train::Trained,
    train::{ReadRows, generator, kmeans, sample},
    vectors::{VectorError, Vectors, check_row},
};

/// Rows read and projected together.
const CHUNK: usize = 256;

/// Rows that the usual length is taken of, at most.
const LENGTHS: usize = 256;

/// What a check of all rows finds.
pub(super) struct Checked {
    /// Least and largest value of each dimension.
    pub range: Vec<(f32, f32)>,
    /// The same of rows divided by their scales.
    pub scaled: Vec<(f32, f32)>,
    pub n_zero_rows: usize,
    /// Some row is longer than the limit.
    pub has_long: bool,
}

impl Checked {
    /// Of no rows.
    fn new(d: usize) -> Self {
        let range = vec![(f32::INFINITY, f32::NEG_INFINITY); d];
        Self { scaled: range.clone(), range, n_zero_rows: 0, has_long: false }
    }

    fn add(&mut self, other: &Self) {
        for (all, part) in [(&mut self.range, &other.range), (&mut self.scaled, &other.scaled)] {
            for (all, part) in all.iter_mut().zip(part) {
                *all = (all.0.min(part.0), all.1.max(part.1));
            }
        }
        self.n_zero_rows += other.n_zero_rows;
        self.has_long |= other.has_long;
    }
}

/// Vectors as the stages see them, in their frame.
#[derive(Clone, Copy)]
pub(super) struct Source<'v> {
    pub vectors: &'v dyn Vectors,
    pub frame: &'v Frame,
    pub role: Role,
    pub what: &'static str,
}

/// Training queries that the stages do not see as they see points.
#[derive(Clone, Copy)]
pub(super) struct Asked<'v> {
    pub source: Source<'v>,
    /// They are the points, as queries.
    pub are_points: bool,
}

/// The side of the frame on which vectors stand.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    Point,
    Query,
}

impl ReadRows for Source<'_> {
    fn n_rows(&self) -> usize {
        self.vectors.n_rows()
    }

    fn dim(&self) -> usize {
        self.vectors.dim()
    }

    fn gather(&self, rows: &[usize]) -> Vec<f32> {
        let d = self.vectors.dim();
        let mut out = vec![0.0; rows.len() * d];
        out.par_chunks_exact_mut(d).zip(rows).for_each(|(out, &row)| self.read(row, out));
        out
    }
}

impl Source<'_> {
    pub fn read(&self, row: usize, out: &mut [f32]) {
        self.vectors.read(row, out);
        self.enter(out);
    }

    /// Into the frame.
    fn enter(&self, row: &mut [f32]) {
        match self.role {
            Role::Point => self.frame.point(row),
            Role::Query => {
                self.frame.query(row);
                self.frame.staged(row);
            }
        }
    }

    /// The size of most values, of the coordinates of which there are differences; 1 under cosine, where rows have unit length.
    pub fn usual_value(&self, seed: u64) -> f32 {
        if self.frame.metric().normalises() {
            return 1.0;
        }
        self.usual_length(seed) / (self.dim() as f32).sqrt()
    }

    /// The length that half of the rows are below, by a sample of them.
    pub fn usual_length(&self, seed: u64) -> f32 {
        let rows = self.gather(&sample(&mut generator(seed, "lengths"), self.n_rows(), LENGTHS));
        let mut lengths: Vec<f32> =
            rows.chunks_exact(self.dim()).map(|row| kmeans::squared_norm(row).sqrt()).collect();
        lengths.sort_unstable_by(f32::total_cmp);
        lengths[lengths.len() / 2]
    }

    /// Refuses bad rows, the first in row order. Rows have scales of their own where they are longer than a limit.
    pub fn check(&self, build: &IndexBuilder<'_>, limit: Option<f32>) -> Result<Checked, VectorError> {
        let (n, d) = (self.vectors.n_rows(), self.vectors.dim());
        let done = AtomicU64::new(0);
        build.report("check", 0, n as u64);
        let pieces: Vec<Result<Checked, VectorError>> = (0..n.div_ceil(4096))
            .into_par_iter()
            .map(|piece| {
                let rows = piece * 4096..n.min((piece + 1) * 4096);
                let mut row = vec![0.0; d];
                let mut checked = Checked::new(d);
                if build.go_on().is_err() {
                    return Ok(checked);
                }
                for r in rows.clone() {
                    self.vectors.read(r, &mut row);
                    check_row(self.what, r, &row)?;
                    checked.n_zero_rows += usize::from(row.iter().all(|&v| v == 0.0));
                    self.enter(&mut row);
                    widen(&mut checked.range, &row);
                    if let Some(limit) = limit {
                        checked.has_long |= divide(&mut row, limit);
                        widen(&mut checked.scaled, &row);
                    }
                }
                let done = done.fetch_add(rows.len() as u64, Ordering::Relaxed) + rows.len() as u64;
                build.report("check", done, n as u64);
                Ok(checked)
            })
            .collect();
        let mut whole = Checked::new(d);
        for piece in pieces {
            whole.add(&piece?);
        }
        Ok(whole)
    }

    /// Some rows, at most `n`, in the reduced space, `[n, s]`.
    pub fn sampled(&self, n: usize, transform: Option<&Trained>, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let rows = self.gather(&sample(rng, self.n_rows(), n));
        match transform {
            None => rows,
            Some(transform) => {
                let mut out = vec![0.0; rows.len() / self.dim() * transform.s()];
                transform.reduce(&rows, &mut out);
                out
            }
        }
    }

    /// All rows in the reduced space, `[n, s]`.
    pub fn reduced(&self, transform: Option<&Trained>) -> Vec<f32> {
        let (n, d) = (self.vectors.n_rows(), self.vectors.dim());
        let s = transform.map_or(d, Trained::s);
        let mut out = vec![0.0; n * s];
        out.par_chunks_mut(CHUNK * s).enumerate().for_each_init(
            || vec![0.0; if transform.is_some() { CHUNK * d } else { 0 }],
            |rows, (chunk, out)| {
                let n = out.len() / s;
                match transform {
                    None => {
                        for (i, out) in out.chunks_exact_mut(s).enumerate() {
                            self.read(chunk * CHUNK + i, out);
                        }
                    }
                    Some(transform) => {
                        for (i, row) in rows.chunks_exact_mut(d).take(n).enumerate() {
                            self.read(chunk * CHUNK + i, row);
                        }
                        transform.reduce(&rows[..n * d], out);
                    }
                }
            },
        );
        out
    }
}

/// Divides a row by its scale; returns whether it has one of its own.
pub(super) fn divide(row: &mut [f32], limit: f32) -> bool {
    let scale = rows::scale_of(row, limit);
    if scale > 1.0 {
        row.iter_mut().for_each(|v| *v /= scale);
    }
    scale > 1.0
}

/// Widens each dimension's range to a row's values.
pub(super) fn widen(range: &mut [(f32, f32)], row: &[f32]) {
    for ((least, most), &v) in range.iter_mut().zip(row) {
        *least = least.min(v);
        *most = most.max(v);
    }
}

/// Refuses values that half precision does not hold. `usual`: the size of most values; one that is larger does not help the others.
pub(super) fn check_half(range: &[(f32, f32)], usual: f32) -> Result<(), VectorError> {
    if usual > 0.0 && usual < f16::MIN_POSITIVE.to_f32() {
        return Err(VectorError::HalfUnderflow { largest: usual });
    }
    let limit = f16::MAX.to_f32();
    for (column, &(least, most)) in range.iter().enumerate() {
        for value in [least, most] {
            if value.abs() > limit {
                return Err(VectorError::HalfRange { column, value });
            }
        }
    }
    Ok(())
}
