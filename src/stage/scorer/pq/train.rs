//! Training codebooks and choosing codes.
//!
//! Codewords come from k-means in each subspace. For `APQ` they are then moved, and codes chosen, for the score-aware
//! loss `‖r‖² + (η − 1)·⟨r, u⟩²` with r = x − x̃ and u = x/‖x‖ (`train/score_aware.rs`), two steps in turn, of which
//! neither raises it:
//!
//! - **codes**: coordinate descent. All but one subspace fixed, the loss of codeword j is
//!   `‖r_m‖² + (η − 1)·(P + ⟨r_m, u_m⟩)²`, P being the others' part of ⟨r, u⟩; subspaces are visited in turn until nothing
//!   changes (ScaNN, section 4.2).
//! - **codebooks**: with codes fixed, x̃ = ĉ + S·θ is linear in the stacked codewords θ, and the least loss solves
//!   `Σ Sᵀ(I + (η − 1)·uuᵀ)S·θ = Σ Sᵀ(I + (η − 1)·uuᵀ)·ρ` for residuals ρ = x − ĉ. Where ĉ = 0 the right side is
//!   `Σ η·Sᵀx`, h∥ and not h⊥ as Theorem 4.2 is printed. Conjugate gradients need `n·s` operations a step and no
//!   matrix of order `n_words·s`.
//!
//! With T = 0, η is 1, and codes are the nearest codewords.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{CODEBOOKS, CODES};
use crate::{
    codes::{BLOCK, PqShape},
    lists::Arrangement,
    simd::{self, CodeRoom, Points, Simd},
    spec::Bits,
    stage::router::Rounded,
    train::{
        kmeans::{self, Objective, squared_norm},
        sample,
        score_aware::{ScoreAware, conjugate_gradient},
    },
};

/// Rounds of k-means, and points a codeword in them. 16 codewords see 20 480 points: fewer are cheap but err more.
const ROUNDS_X4: [(usize, usize); 2] = [(6, 320), (6, 1280)];
const ROUNDS_X8: [(usize, usize); 3] = [(6, 32), (3, 64), (3, 128)];

/// Turns of choosing codes and moving codewords, and conjugate gradient steps in each. recall@10 on all lists without
/// reranking, on 81 540 word vectors of 100 dimensions (`IVF1024,APQ50x4`) and 115 659 sentence embeddings of 384
/// (`IVF1024,APQ192x4`): 0.750 and 0.874 after 2 turns of 4 steps, 0.749 and 0.874 after 4 of 4, 0.750 and 0.877 after 6
/// of 8, which take twice as long.
const TURNS: usize = 2;
const STEPS: usize = 4;

/// Points handled together: sums over pieces of this size do not depend on the number of threads.
const PIECE: usize = 1024;

/// What is quantised: the residual of every position's point to α times its list's centroid.
pub(crate) struct Input<'a> {
    points: &'a [f32],
    arrangement: &'a Arrangement,
    /// Centroids as stored; without lists residuals are the rows themselves.
    centres: Option<&'a Rounded>,
    /// α of each list.
    alphas: Vec<f32>,
}

impl<'a> Input<'a> {
    /// Reduced rows `[n, s]`, their order, and centroids as stored; without lists residuals are the rows themselves.
    pub fn new(
        shape: PqShape,
        points: &'a [f32],
        arrangement: &'a Arrangement,
        centres: Option<&'a Rounded>,
    ) -> Self {
        let mut input =
            Self { points, arrangement, centres, alphas: vec![1.0; arrangement.offsets.len() - 1] };
        if let (Some(centres), false) = (centres, shape.has_norm) {
            let alphas = (0..input.alphas.len()).into_par_iter();
            input.alphas = alphas.map(|list| input.alpha(shape.s, centres, list)).collect();
        }
        input
    }

    /// The multiple of a list's centroid that is nearest to its points' mean; 1 where there are none.
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
    fn alpha(&self, s: usize, centres: &Rounded, list: usize) -> f32 {
        let product =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let centre = &centres.values[list * s..(list + 1) * s];
        let members =
            &self.arrangement.rows[self.arrangement.offsets[list]..self.arrangement.offsets[list + 1]];
        let sum: f64 = members.iter().map(|&row| product(&self.points[row as usize * s..], centre)).sum();
        let alpha = sum / (members.len() as f64 * product(centre, centre));
        if alpha.is_finite() { alpha as f32 } else { 1.0 }
    }

    /// The row at a position of a list, and its residual.
    fn read(&self, s: usize, list: usize, position: usize, residual: &mut [f32]) -> &[f32] {
        let row = self.row(s, position);
        match self.centres {
            None => residual.copy_from_slice(row),
            Some(centres) => {
                for ((r, x), c) in residual.iter_mut().zip(row).zip(&centres.values[list * s..]) {
                    *r = x - self.alphas[list] * c;
                }
            }
        }
        row
    }

    fn row(&self, s: usize, position: usize) -> &[f32] {
        &self.points[self.arrangement.rows[position] as usize * s..][..s]
    }

    fn list_of(&self, position: usize) -> usize {
        self.arrangement.offsets.partition_point(|&offset| offset <= position) - 1
    }
}

/// Some points to train on.
struct Sample {
    /// `[n, s]`.
    residuals: Vec<f32>,
    /// Unit rows, `[n, s]`; zero for zero rows.
    directions: Vec<f32>,
    /// η − 1 of each.
    excess: Vec<f32>,
}

/// Usual lengths of a residual from which on it trains no codeword: those of one outlier would be lost to all others.
const OUTLIER: f32 = 8.0;

impl Sample {
    /// Drops residuals that are much longer than most. For distances alone: of products long points are what queries look for.
    fn leave_out_outliers(&mut self, s: usize) {
        let lengths: Vec<f32> = self.residuals.chunks_exact(s).map(|r| squared_norm(r).sqrt()).collect();
        let mut sorted = lengths.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let limit = OUTLIER * sorted[sorted.len() / 2];
        if limit <= 0.0 || sorted.last().is_none_or(|&longest| longest <= limit) {
            return;
        }
        let rows = |values: &[f32]| -> Vec<f32> {
            let kept = values.chunks_exact(s).zip(&lengths).filter(|(_, length)| **length <= limit);
            kept.flat_map(|(row, _)| row).copied().collect()
        };
        (self.residuals, self.directions) = (rows(&self.residuals), rows(&self.directions));
        let kept = self.excess.iter().zip(&lengths).filter(|(_, length)| **length <= limit);
        self.excess = kept.map(|(excess, _)| *excess).collect();
    }

    fn points(&self) -> Points<'_> {
        Points { residuals: &self.residuals, directions: &self.directions, excess: &self.excess }
    }
}

/// Rounds of k-means, and points that they see at most.
fn rounds(bits: Bits) -> impl DoubleEndedIterator<Item = (usize, usize)> {
    let (rounds, n_words) = match bits {
        Bits::B4 => (&ROUNDS_X4[..], 16),
        Bits::B8 => (&ROUNDS_X8[..], 256),
    };
    rounds.iter().map(move |&(rounds, points)| (rounds, points * n_words))
}

/// Positions that codebooks are trained on, at most.
pub(crate) fn sample_rows(bits: Bits) -> usize {
    rounds(bits).next_back().map_or(0, |(_, points)| points)
}

/// How often points meet the codewords in training, of so many positions.
pub(crate) fn meetings(bits: Bits, n_positions: usize) -> usize {
    rounds(bits).map(|(rounds, points)| rounds * points.min(n_positions)).sum()
}

/// Codebooks in training: `[m][width][n_words]`.
struct Codebooks {
    shape: PqShape,
    values: Vec<f32>,
}

impl Codebooks {
    fn view(&self) -> simd::Codebooks<'_> {
        simd::Codebooks { shape: self.shape, values: &self.values }
    }

    /// Codewords by k-means in each subspace.
    fn nearest(shape: PqShape, sample: &Sample, rng: &mut ChaCha8Rng) -> Self {
        use rand::RngExt;
        let (s, n_words) = (shape.s, shape.n_words());
        let n = sample.residuals.len() / s;
        let book = shape.width() * n_words;
        let mut values = vec![0.0; shape.codebook_len()];
        let seeds: Vec<u64> = (0..shape.m).map(|_| rng.random()).collect();
        let rounds: &[(usize, usize)] = match shape.bits {
            Bits::B4 => &ROUNDS_X4,
            Bits::B8 => &ROUNDS_X8,
        };
        values.par_chunks_exact_mut(book).zip(seeds).enumerate().for_each(|(m, (values, seed))| {
            let dims = shape.dims(m);
            let part: Vec<f32> =
                (0..n).flat_map(|i| sample.residuals[i * s..][dims.clone()].iter().copied()).collect();
            let rng = &mut crate::train::generator(seed, "codebook");
            let words = n_words.min(n);
            let found = kmeans::train(&part, dims.len(), words, Objective::Distance, rounds, rng, |_| true);
            for (i, word) in found.values.chunks_exact(dims.len()).cycle().take(n_words).enumerate() {
                for (row, v) in word.iter().enumerate() {
                    values[row * n_words + i] = *v;
                }
            }
        });
        Self { shape, values }
    }

    /// Chooses the codes of a sample, `[n, m]`, anew or going on from those given; returns the sum of the losses.
    fn encode(&self, sample: &Sample, again: bool, codes: &mut [u8]) -> f64 {
        let m = self.shape.m;
        let losses: Vec<f64> = codes
            .par_chunks_mut(PIECE * m)
            .enumerate()
            .map_init(CodeRoom::default, |room, (piece, codes)| {
                let points = sample.points().part(piece * PIECE..piece * PIECE + codes.len() / m);
                Simd::detect().choose_codes(self.view(), points, again, room, codes)
            })
            .collect();
        losses.iter().sum()
    }

    /// `Σ Sᵀ(I + (η − 1)·uuᵀ)·v_i` over a sample, `v_of(i, out)` giving v_i.
    fn gather(
        &self,
        sample: &Sample,
        codes: &[u8],
        out: &mut [f32],
        v_of: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (shape, s, n_words) = (self.shape, self.shape.s, self.shape.n_words());
        let book = shape.width() * n_words;
        let parts: Vec<Vec<f32>> = codes
            .par_chunks(PIECE * shape.m)
            .enumerate()
            .map(|(piece, codes)| {
                let mut sums = vec![0.0; out.len()];
                let mut v = vec![0.0; s];
                for (i, codes) in (piece * PIECE..).zip(codes.chunks_exact(shape.m)) {
                    v_of(i, &mut v);
                    let u = &sample.directions[i * s..(i + 1) * s];
                    let product: f32 = v.iter().zip(u).map(|(v, u)| v * u).sum();
                    let along = sample.excess[i] * product;
                    for (m, &code) in codes.iter().enumerate() {
                        for (row, d) in shape.dims(m).enumerate() {
                            sums[m * book + row * n_words + usize::from(code)] += v[d] + along * u[d];
                        }
                    }
                }
                sums
            })
            .collect();
        out.fill(0.0);
        for part in parts {
            for (out, part) in out.iter_mut().zip(part) {
                *out += part;
            }
        }
    }

    /// Moves the codewords to lower the loss with codes fixed; codewords that none has stay.
    fn update(&mut self, sample: &Sample, codes: &[u8], steps: usize) {
        let (shape, s, n_words) = (self.shape, self.shape.s, self.shape.n_words());
        let book = shape.width() * n_words;
        let mut right = vec![0.0; self.values.len()];
        self.gather(sample, codes, &mut right, |i, v| {
            v.copy_from_slice(&sample.residuals[i * s..(i + 1) * s])
        });
        let mut values = std::mem::take(&mut self.values);
        let apply = |theta: &[f32], out: &mut [f32]| {
            self.gather(sample, codes, out, |i, v| {
                for (m, &code) in codes[i * shape.m..(i + 1) * shape.m].iter().enumerate() {
                    for (row, d) in shape.dims(m).enumerate() {
                        v[d] = theta[m * book + row * n_words + usize::from(code)];
                    }
                }
            });
        };
        conjugate_gradient(apply, &right, &mut values, steps, 1e-5);
        self.values = values;
    }

    /// Codebooks for a sample.
    fn train(shape: PqShape, sample: &Sample, rng: &mut ChaCha8Rng, step: impl Fn(usize) -> bool) -> Self {
        let mut books = Self::nearest(shape, sample, rng);
        let goes_on = step(1);
        if goes_on && sample.excess.iter().any(|&excess| excess != 0.0) {
            let mut codes = vec![0; sample.excess.len() * shape.m];
            for turn in 0..TURNS {
                books.encode(sample, turn > 0, &mut codes);
                books.update(sample, &codes, STEPS);
                if !step(turn + 2) {
                    break;
                }
            }
        }
        books
    }
}

/// Trains the codebooks and fills in the tensors; `step(stage, done, total)` is called as work goes on, and says whether to go
/// on.
pub(crate) fn write(
    shape: PqShape,
    threshold: Option<f32>,
    input: &Input<'_>,
    rng: &mut ChaCha8Rng,
    parts: &mut BTreeMap<&'static str, &mut [u8]>,
    step: impl Fn(&'static str, u64, u64) -> bool + Sync,
) {
    let (Some(codebooks), Some(codes)) = (parts.remove(CODEBOOKS), parts.remove(CODES)) else { return };
    let s = shape.s;
    let loss = threshold.filter(|&t| t > 0.0).map(|t| ScoreAware::new(t, input.points, s));
    let n_positions = input.arrangement.rows.len();
    let chosen = sample(rng, n_positions, sample_rows(shape.bits));
    let mut training = Sample {
        residuals: vec![0.0; chosen.len() * s],
        directions: vec![0.0; chosen.len() * s],
        excess: vec![0.0; chosen.len()],
    };
    let rows = training.residuals.par_chunks_exact_mut(s).zip(training.directions.par_chunks_exact_mut(s));
    rows.zip(&mut training.excess).zip(&chosen).for_each(|(((residual, direction), excess), &position)| {
        let row = input.read(s, input.list_of(position), position, residual);
        *excess = direct(loss.as_ref(), row, direction);
    });
    if shape.has_norm {
        training.leave_out_outliers(s);
    }
    let turns = TURNS as u64 + 1;
    step("codebooks", 0, turns);
    let books = Codebooks::train(shape, &training, rng, |done| step("codebooks", done as u64, turns));
    step("codebooks", turns, turns);
    drop(training);
    let stored: &mut [f32] = bytemuck::cast_slice_mut(codebooks);
    stored.copy_from_slice(&books.values);

    let mut runs = Vec::new();
    let mut rest = codes;
    for m in input.arrangement.sizes() {
        let (run, after) = rest.split_at_mut(shape.run_bytes(m));
        runs.push(run);
        rest = after;
    }
    let (total, done) = (n_positions as u64, AtomicU64::new(0));
    let stops = AtomicBool::new(false);
    runs.into_par_iter().enumerate().for_each(|(list, run)| {
        if stops.load(Ordering::Relaxed) {
            return;
        }
        let from = input.arrangement.offsets[list];
        let n = input.arrangement.offsets[list + 1] - from;
        let (blocks, terms) = run.split_at_mut(shape.terms_at(n));
        let pieces = blocks.par_chunks_mut(PIECE / BLOCK * shape.block_bytes());
        let found: Vec<Vec<f32>> = pieces
            .enumerate()
            .map(|(piece, blocks)| {
                let positions = from + piece * PIECE..(from + n).min(from + (piece + 1) * PIECE);
                let count = positions.len() as u64;
                let norms = encode(&books, input, loss.as_ref(), list, positions, blocks);
                if !step("codes", done.fetch_add(count, Ordering::Relaxed) + count, total) {
                    stops.store(true, Ordering::Relaxed);
                }
                norms
            })
            .collect();
        if shape.has_norm {
            let centre = input.centres.map_or(0.0, |centres| centres.norms[list]);
            for (out, norm) in terms.chunks_exact_mut(4).zip(found.into_iter().flatten()) {
                out.copy_from_slice(&(norm - centre).to_le_bytes());
            }
        } else {
            terms[..4].copy_from_slice(&input.alphas[list].to_le_bytes());
        }
    });
}

/// The direction of a row, and η − 1 for it.
fn direct(loss: Option<&ScoreAware>, row: &[f32], direction: &mut [f32]) -> f32 {
    let Some(loss) = loss else { return 0.0 };
    let norm = squared_norm(row).sqrt();
    if norm <= 0.0 {
        direction.fill(0.0);
        return 0.0;
    }
    for (u, x) in direction.iter_mut().zip(row) {
        *u = x / norm;
    }
    loss.excess(norm)
}

/// Writes the codes of some positions of a list into their blocks; returns `‖x̃‖²` of each for l2.
fn encode(
    books: &Codebooks,
    input: &Input<'_>,
    loss: Option<&ScoreAware>,
    list: usize,
    positions: std::ops::Range<usize>,
    blocks: &mut [u8],
) -> Vec<f32> {
    let (shape, s) = (books.shape, books.shape.s);
    let n = positions.len();
    let mut part = Sample { residuals: vec![0.0; n * s], directions: vec![0.0; n * s], excess: vec![0.0; n] };
    let rows = part.residuals.chunks_exact_mut(s).zip(part.directions.chunks_exact_mut(s));
    for ((position, (residual, direction)), excess) in positions.zip(rows).zip(&mut part.excess) {
        *excess = direct(loss, input.read(s, list, position, residual), direction);
    }
    let mut codes = vec![0; n * shape.m];
    Simd::detect().choose_codes(books.view(), part.points(), false, &mut CodeRoom::default(), &mut codes);
    let mut norms = Vec::with_capacity(n);
    let centre = input.centres.map(|centres| &centres.values[list * s..(list + 1) * s]);
    for (i, codes) in codes.chunks_exact(shape.m).enumerate() {
        let block = &mut blocks[i / BLOCK * shape.block_bytes()..];
        for (m, &code) in codes.iter().enumerate() {
            match shape.bits {
                Bits::B8 => block[m * BLOCK + i % BLOCK] = code,
                Bits::B4 => block[m / 2 * BLOCK + i % BLOCK] |= code << (4 * (m % 2)),
            }
        }
        if shape.has_norm {
            norms.push(norm(books, centre, codes));
        }
    }
    norms
}

/// `‖x̃‖²`, from stored values alone: equal codes of a list have equal norms. `centre`: the list's centroid, if any.
#[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
fn norm(books: &Codebooks, centre: Option<&[f32]>, codes: &[u8]) -> f32 {
    let (shape, n_words) = (books.shape, books.shape.n_words());
    let book = shape.width() * n_words;
    let mut sum = 0.0;
    for (m, &code) in codes.iter().enumerate() {
        for (i, d) in shape.dims(m).enumerate() {
            let word = f64::from(books.values[m * book + i * n_words + usize::from(code)]);
            let value = word + centre.map_or(0.0, |centre| f64::from(centre[d]));
            sum += value * value;
        }
    }
    sum as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metric::Metric,
        train::{generator, normal},
    };

    fn made(n: usize, s: usize, t: f32) -> Sample {
        let mut rng = generator(11, "test");
        let residuals: Vec<f32> = (0..n * s).map(|_| normal(&mut rng)).collect();
        let loss = (t > 0.0).then(|| ScoreAware::new(t, &residuals, s));
        let mut directions = vec![0.0; n * s];
        let excess = residuals
            .chunks_exact(s)
            .zip(directions.chunks_exact_mut(s))
            .map(|(row, direction)| direct(loss.as_ref(), row, direction))
            .collect();
        Sample { residuals, directions, excess }
    }

    /// The loss of given codes, in f64 from its definition.
    fn loss_of(books: &Codebooks, sample: &Sample, codes: &[u8]) -> f64 {
        let (shape, s, n_words) = (books.shape, books.shape.s, books.shape.n_words());
        let mut sum = 0.0;
        for (i, codes) in codes.chunks_exact(shape.m).enumerate() {
            let (mut whole, mut along) = (0.0, 0.0);
            for (m, &code) in codes.iter().enumerate() {
                for (row, d) in shape.dims(m).enumerate() {
                    let word = books.values[(m * shape.width() + row) * n_words + usize::from(code)];
                    let r = f64::from(sample.residuals[i * s + d]) - f64::from(word);
                    whole += r * r;
                    along += r * f64::from(sample.directions[i * s + d]);
                }
            }
            sum += whole + f64::from(sample.excess[i]) * along * along;
        }
        sum
    }

    #[test]
    fn neither_step_raises_the_loss() {
        for bits in [Bits::B4, Bits::B8] {
            let shape = PqShape::new(13, 5, bits, Metric::Ip);
            let sample = made(1500, 13, 0.35);
            let mut books = Codebooks::nearest(shape, &sample, &mut generator(1, "test"));
            let mut codes = vec![0; 1500 * 5];
            let mut last = books.encode(&sample, false, &mut codes);
            let nearest = {
                let flat = Sample { excess: vec![0.0; 1500], ..made(1500, 13, 0.35) };
                let mut codes = vec![0; 1500 * 5];
                books.encode(&flat, false, &mut codes);
                loss_of(&books, &sample, &codes)
            };
            assert!(last < nearest, "coordinate descent: {last}, nearest codewords: {nearest}");
            let first = last;
            for _ in 0..4 {
                assert!((last / loss_of(&books, &sample, &codes) - 1.0).abs() < 1e-4);
                books.update(&sample, &codes, 3);
                let moved = loss_of(&books, &sample, &codes);
                assert!(
                    moved <= last * 1.00001,
                    "{bits:?}: codebooks raised the loss from {last} to {moved}"
                );
                last = books.encode(&sample, true, &mut codes);
                assert!(last <= moved * 1.00001, "{bits:?}: codes raised the loss from {moved} to {last}");
            }
            assert!(last < 0.99 * first, "{bits:?}: {first} → {last}");
        }
    }

    #[test]
    fn sweeps_never_raise_the_loss_of_a_point() {
        let shape = PqShape::new(12, 6, Bits::B4, Metric::Ip);
        let sample = made(400, 12, 0.5);
        let books = Codebooks::nearest(shape, &sample, &mut generator(2, "test"));
        let mut room = CodeRoom::default();
        for i in 0..400 {
            let point = sample.points().part(i..i + 1);
            let mut one = |excess: &[f32]| {
                let mut codes = vec![0; 6];
                Simd::detect().choose_codes(
                    books.view(),
                    Points { excess, ..point },
                    false,
                    &mut room,
                    &mut codes,
                );
                let single = Sample {
                    residuals: point.residuals.to_vec(),
                    directions: point.directions.to_vec(),
                    excess: point.excess.to_vec(),
                };
                (loss_of(&books, &single, &codes), codes, single)
            };
            let ((best, codes, single), (nearest, ..)) = (one(point.excess), one(&[0.0]));
            assert!(best <= nearest * 1.00001, "point {i}");
            for m in 0..6 {
                for word in 0..16 {
                    let mut other = codes.clone();
                    other[m] = word;
                    assert!(loss_of(&books, &single, &other) >= best * 0.9999, "point {i}: {other:?}");
                }
            }
        }
    }

    #[test]
    fn settled_codebooks_are_the_minimum_and_the_printed_right_side_is_not() {
        let shape = PqShape::new(6, 3, Bits::B4, Metric::Ip);
        let sample = made(600, 6, 0.4);
        let mut books = Codebooks::nearest(shape, &sample, &mut generator(3, "test"));
        let mut codes = vec![0; 600 * 3];
        books.encode(&sample, false, &mut codes);
        books.update(&sample, &codes, 500);
        let least = loss_of(&books, &sample, &codes);
        for i in (0..books.values.len()).step_by(5) {
            for step in [-0.02, 0.02] {
                let mut values = books.values.clone();
                values[i] += step;
                let moved = loss_of(&Codebooks { shape, values }, &sample, &codes);
                assert!(moved >= least * 0.999_999, "codeword value {i}, {step}: {moved} below {least}");
            }
        }
        // Σ h⊥·x on the right instead of Σ h∥·x: without the part along u.
        let flat = Sample { excess: vec![0.0; 600], ..made(600, 6, 0.4) };
        let mut right = vec![0.0; books.values.len()];
        books.gather(&flat, &codes, &mut right, |i, v| v.copy_from_slice(&sample.residuals[i * 6..][..6]));
        let mut values = books.values.clone();
        let apply = |theta: &[f32], out: &mut [f32]| {
            books.gather(&sample, &codes, out, |i, v| {
                for (m, &code) in codes[i * 3..][..3].iter().enumerate() {
                    for (row, d) in shape.dims(m).enumerate() {
                        v[d] = theta[(m * 2 + row) * 16 + usize::from(code)];
                    }
                }
            });
        };
        conjugate_gradient(apply, &right, &mut values, 500, 1e-6);
        let printed = loss_of(&Codebooks { shape, values: values.clone() }, &sample, &codes);
        assert!(printed > 1.02 * least, "{printed} against {least}");
        let length = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        assert!(length(&values) < length(&books.values), "with h⊥ codewords shrink");
    }

    #[test]
    fn alpha_is_the_mean_share_of_the_centroid() {
        let shape = PqShape::new(2, 1, Bits::B4, Metric::Ip);
        let points = [3.0, 1.0, 5.0, -1.0, 0.0, 8.0, 7.0, 7.0];
        let arrangement = Arrangement::of(&[0, 0, 1, 0], 1, 3);
        let centres = Rounded { values: vec![2.0, 0.0, 0.0, 0.5, 1.0, 0.0], norms: vec![0.0; 3] };
        let input = Input::new(shape, &points, &arrangement, Some(&centres));
        // (3 + 5 + 7)/3 of length 2, 8 of length ½, nothing.
        assert_eq!(input.alphas, [2.5, 16.0, 1.0]);
        let mut residual = [0.0; 2];
        input.read(2, 0, 0, &mut residual);
        assert_eq!(residual, [-2.0, 1.0]);
        let l2 = PqShape::new(2, 1, Bits::B4, Metric::L2);
        assert_eq!(Input::new(l2, &points, &arrangement, Some(&centres)).alphas, [1.0; 3]);
    }

    #[test]
    fn every_dimension_belongs_to_one_subspace() {
        for s in 1..40 {
            for m in 1..=s {
                let shape = PqShape::new(s, m, Bits::B4, Metric::L2);
                let dims: Vec<usize> = (0..m).flat_map(|i| shape.dims(i)).collect();
                assert_eq!(dims, (0..s).collect::<Vec<_>>());
                assert!((0..m).all(|i| (1..=shape.width()).contains(&shape.dims(i).len())));
            }
        }
    }
}
