//! Plain loops, compiled for each instruction set: compilers turn them into vectors of whatever width there is.

use std::ops::Range;

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::Level;
use super::Simd;
use crate::{
    block::{SCALE_MIN, nearest},
    codes::PqShape,
    spec::Bits,
};

/// Codewords, `[m][width][n_words]`.
#[derive(Clone, Copy)]
pub(crate) struct Codebooks<'a> {
    pub shape: PqShape,
    pub values: &'a [f32],
}

/// Points to encode.
#[derive(Clone, Copy)]
pub(crate) struct Points<'a> {
    /// `[n, s]`.
    pub residuals: &'a [f32],
    /// Their directions u, `[n, s]`.
    pub directions: &'a [f32],
    /// η − 1 of each, at least 0.
    pub excess: &'a [f32],
}

impl Points<'_> {
    /// Some of them.
    pub fn part(&self, range: Range<usize>) -> Self {
        let s = self.residuals.len() / self.excess.len().max(1);
        let values = range.start * s..range.end * s;
        Self {
            residuals: &self.residuals[values.clone()],
            directions: &self.directions[values],
            excess: &self.excess[range],
        }
    }
}

/// Room for what each codeword would leave of some points.
#[derive(Default)]
pub(crate) struct CodeRoom {
    /// Squared errors.
    errors: Vec<f32>,
    /// Errors along u.
    along: Vec<f32>,
}

/// Declares kernels: methods that run the loops as compiled for the level's instruction set.
macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $of:ty),*) $(-> $out:ty)?;)*) => {
        #[cfg(target_arch = "x86_64")]
        kernels!(with_avx2, "avx2": $(fn $name($($arg: $of),*) $(-> $out)?;)*);
        #[cfg(target_arch = "x86_64")]
        kernels!(with_avx512, "avx512f,avx512bw,avx512vl": $(fn $name($($arg: $of),*) $(-> $out)?;)*);

        impl Simd {
            $($(#[$doc])*
            pub(crate) fn $name(self, $($arg: $of),*) $(-> $out)? {
                match self.0 {
                    // SAFETY: the level is only made by `available`, which has seen these features on this machine.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 | Level::Avx2Vnni => unsafe { with_avx2::$name($($arg),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 | Level::Avx512Vbmi => unsafe { with_avx512::$name($($arg),*) },
                    _ => loops::$name($($arg),*),
                }
            })*
        }
    };
    ($module:ident, $features:literal: $(fn $name:ident($($arg:ident: $of:ty),*) $(-> $out:ty)?;)*) => {
        mod $module {
            use super::{CodeRoom, Codebooks, Points, bf16, loops};

            $(/// # Safety
            /// 1. The machine has the features.
            #[target_feature(enable = $features)]
            pub unsafe fn $name($($arg: $of),*) $(-> $out)? {
                loops::$name($($arg),*)
            })*
        }
    };
}

kernels! {
    /// A query's lookup tables: `factor` times its products with all codewords, rounded to bytes; returns the sum of the
    /// tables' least entries and the value of a step. Entries `[m][n_words]` and least entries `[m]` are room.
    fn tables(
        books: Codebooks<'_>, query: &[f32], factor: f32, room: (&mut [f32], &mut [f32]), bytes: &mut [u8]
    ) -> (f32, f32);

    /// Chooses points' codes `[n, m]` by coordinate descent, from the nearest codewords on or, `again`, from the codes
    /// given; returns the sum of the score-aware losses.
    ///
    /// All but one subspace fixed, the loss of codeword j is `errors_j + (η − 1)·(rest + along_j)²`: its squared error, the
    /// others' error along u, its own. No subspace's turn raises the loss by more than its last four bits.
    fn choose_codes(
        books: Codebooks<'_>, points: Points<'_>, again: bool, room: &mut CodeRoom, codes: &mut [u8]
    ) -> f64;

    /// The least of some values, little-endian; infinity for none.
    fn least(values: &[u8]) -> f32;

    /// The places of the largest scores, best first, lower places first among equals. `scores` is spent.
    fn largest(scores: &mut [f32], out: &mut [u32]);

    /// Among `top` and smaller scales, given as shares of it, the one of least squared error when values are rounded to
    /// multiples of it, at most `limit` of them either way. Scales are rounded to bf16 first.
    fn best_scale(values: &[f32], top: f32, limit: f32, shares: &[f32]) -> bf16;
}

mod loops {
    use super::{Bits, CodeRoom, Codebooks, Points, SCALE_MIN, bf16, nearest};

    /// Sweeps of coordinate descent, at most. With 192 subspaces (115 659 sentence embeddings, all lists, no reranking)
    /// recall@10 was 0.855 after 2, 0.861 after 3, 0.876 after 10 and 0.875 after 20.
    const SWEEPS: usize = 10;

    /// Codewords compared at a time.
    const LANES: usize = 16;

    /// Points in step where codewords are few: a choice waits for the one before it, but not for other points'.
    const TOGETHER: usize = 4;

    #[inline(always)]
    pub fn tables(
        books: Codebooks<'_>,
        query: &[f32],
        factor: f32,
        room: (&mut [f32], &mut [f32]),
        bytes: &mut [u8],
    ) -> (f32, f32) {
        match books.shape.bits {
            Bits::B4 => tables_of::<16>(books, query, factor, room, bytes),
            Bits::B8 => tables_of::<256>(books, query, factor, room, bytes),
        }
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255 by construction")]
    fn tables_of<const N: usize>(
        books: Codebooks<'_>,
        query: &[f32],
        factor: f32,
        (entries, lows): (&mut [f32], &mut [f32]),
        bytes: &mut [u8],
    ) -> (f32, f32) {
        let shape = books.shape;
        let (entries, _) = entries.as_chunks_mut::<N>();
        let (bytes, _) = bytes.as_chunks_mut::<N>();
        let (mut bias, mut widest, mut from) = (0.0, 0.0_f32, 0);
        let words = books.values.chunks_exact(shape.width() * N);
        for (m, ((entries, words), low)) in entries.iter_mut().zip(words).zip(lows.iter_mut()).enumerate() {
            let to = shape.dims(m).end;
            let mut sums = [0.0; N];
            for (&q, words) in query[from..to].iter().zip(words.as_chunks::<N>().0) {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum += q * word;
                }
            }
            from = to;
            *entries = sums.map(|sum| factor * sum);
            let least = bound(entries, |a, b| if b < a { b } else { a });
            widest = widest.max(bound(entries, |a, b| if b > a { b } else { a }) - least);
            *low = least;
            bias += least;
        }
        let step = widest / 255.0;
        let inverse = if step >= SCALE_MIN { 1.0 / step } else { 0.0 };
        for ((entries, bytes), low) in entries.iter().zip(bytes).zip(lows) {
            for (byte, entry) in bytes.iter_mut().zip(entries) {
                // Nearest, ties to even: adding 2²³ leaves no bit for fractions.
                let rounded = ((entry - *low) * inverse).min(255.0) + 8_388_608.0;
                *byte = rounded.to_bits() as u8;
            }
        }
        (bias, step)
    }

    /// The entry that `choose` prefers to all others.
    #[inline(always)]
    fn bound<const N: usize>(entries: &[f32; N], choose: impl Fn(f32, f32) -> f32) -> f32 {
        let (chunks, _) = entries.as_chunks::<LANES>();
        let mut lanes = chunks[0];
        for chunk in &chunks[1..] {
            for (lane, &entry) in lanes.iter_mut().zip(chunk) {
                *lane = choose(*lane, entry);
            }
        }
        // Halves, so that this too is vectors.
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = choose(lanes[i], lanes[i + width]);
            }
            width /= 2;
        }
        lanes[0]
    }

    #[inline(always)]
    pub fn choose_codes(
        books: Codebooks<'_>,
        points: Points<'_>,
        again: bool,
        room: &mut CodeRoom,
        codes: &mut [u8],
    ) -> f64 {
        let (m, n) = (books.shape.m, points.excess.len());
        let (mut loss, mut i) = (0.0, 0);
        while i < n {
            let together = if books.shape.bits == Bits::B4 && n - i >= TOGETHER { TOGETHER } else { 1 };
            let (part, codes) = (points.part(i..i + together), &mut codes[i * m..(i + together) * m]);
            loss += match (books.shape.bits, together) {
                (Bits::B4, TOGETHER) => choose::<16, TOGETHER>(books, part, again, room, codes),
                (Bits::B4, _) => choose::<16, 1>(books, part, again, room, codes),
                (Bits::B8, _) => choose::<256, 1>(books, part, again, room, codes),
            };
            i += together;
        }
        loss
    }

    /// Chooses the codes of `P` points out of `N` codewords a subspace.
    #[inline(always)]
    fn choose<const N: usize, const P: usize>(
        books: Codebooks<'_>,
        points: Points<'_>,
        again: bool,
        room: &mut CodeRoom,
        codes: &mut [u8],
    ) -> f64 {
        let (shape, s) = (books.shape, books.shape.s);
        room.errors.resize(shape.m * P * N, 0.0);
        room.along.resize(shape.m * P * N, 0.0);
        // [m][P][N].
        let (errors, _) = room.errors.as_chunks_mut::<N>();
        let (along, _) = room.along.as_chunks_mut::<N>();
        let books = books.values.chunks_exact(shape.width() * N);
        // The error along u of all subspaces.
        let (mut all, mut from) = ([0.0; P], 0);
        let rooms = errors.chunks_exact_mut(P).zip(along.chunks_exact_mut(P));
        for (m, ((errors, along), words)) in rooms.zip(books).enumerate() {
            let to = shape.dims(m).end;
            for (p, (errors, along)) in errors.iter_mut().zip(along).enumerate() {
                (*errors, *along) = ([0.0; N], [0.0; N]);
                let dims = p * s + from..p * s + to;
                let parts = points.residuals[dims.clone()].iter().zip(&points.directions[dims]);
                for ((&x, &u), words) in parts.zip(words.as_chunks::<N>().0) {
                    for ((error, along), word) in errors.iter_mut().zip(along.iter_mut()).zip(words) {
                        let r = x - word;
                        *error += r * r;
                        *along += r * u;
                    }
                }
                let code = &mut codes[p * shape.m + m];
                if !again {
                    *code = cheapest::<N>(|word| errors[word]);
                }
                all[p] += along[usize::from(*code)];
            }
            from = to;
        }
        if points.excess.iter().any(|&excess| excess > 0.0) {
            for _ in 0..SWEEPS {
                let mut changed = false;
                let rooms = errors.chunks_exact(P).zip(along.chunks_exact(P));
                for (m, (errors, along)) in rooms.enumerate() {
                    for p in 0..P {
                        let (errors, along, code) = (&errors[p], &along[p], &mut codes[p * shape.m + m]);
                        let rest = all[p] - along[usize::from(*code)];
                        let best = cheapest::<N>(|word| {
                            let whole = rest + along[word];
                            errors[word] + points.excess[p] * whole * whole
                        });
                        all[p] = if best == *code { all[p] } else { rest + along[usize::from(best)] };
                        changed |= best != *code;
                        *code = best;
                    }
                }
                if !changed {
                    break;
                }
            }
        }
        let mut loss = 0.0;
        for (p, codes) in codes.chunks_exact(shape.m).enumerate() {
            let error = |(m, &code): (usize, &u8)| errors[m * P + p][usize::from(code)];
            let whole: f32 = codes.iter().enumerate().map(error).sum();
            loss += f64::from(whole + points.excess[p] * all[p] * all[p]);
        }
        loss
    }

    /// The codeword of least loss, to four bits of its last place. Floats from 0 on are ordered like their bits, the
    /// last four of which give way to the lane: one minimum over integers finds loss and lane.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "there are at most 256 codewords")]
    fn cheapest<const N: usize>(loss: impl Fn(usize) -> f32) -> u8 {
        let (mut keys, mut chunks) = ([u32::MAX; LANES], [0_u8; LANES]);
        for chunk in 0..N / LANES {
            for lane in 0..LANES {
                let key = loss(chunk * LANES + lane).to_bits() & !(LANES as u32 - 1) | lane as u32;
                if key < keys[lane] {
                    (keys[lane], chunks[lane]) = (key, chunk as u8);
                }
            }
        }
        let key = keys.iter().fold(u32::MAX, |least, &key| least.min(key));
        let lane = (key % LANES as u32) as u8;
        if N == LANES { lane } else { chunks[usize::from(lane)] * LANES as u8 + lane }
    }

    #[inline(always)]
    pub fn least(values: &[u8]) -> f32 {
        let (values, _) = values.as_chunks::<4>();
        let less = |a: f32, b: f32| if b < a { b } else { a };
        let mut lanes = [f32::INFINITY; LANES];
        for chunk in values.chunks(LANES) {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane = less(*lane, f32::from_le_bytes(value));
            }
        }
        lanes.iter().fold(f32::INFINITY, |a, &b| less(a, b))
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "there are fewer than 2³² scores")]
    pub fn largest(scores: &mut [f32], out: &mut [u32]) {
        let more = |best: f32, v: f32| if v > best { v } else { best };
        for place in out {
            let (chunks, rest) = scores.as_chunks::<LANES>();
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for chunk in chunks {
                for (lane, &v) in lanes.iter_mut().zip(chunk) {
                    *lane = more(*lane, v);
                }
            }
            let top = rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |best, &v| more(best, v));
            let reaches = |chunk: &[f32; LANES]| chunk.iter().fold(false, |any, &v| any | (v >= top));
            let from = chunks.iter().position(reaches).unwrap_or(chunks.len()) * LANES;
            let at = from + scores[from..].iter().position(|&v| v >= top).unwrap_or(0);
            if let Some(score) = scores.get_mut(at) {
                *score = f32::NEG_INFINITY;
            }
            *place = at as u32;
        }
    }

    #[inline(always)]
    pub fn best_scale(values: &[f32], top: f32, limit: f32, shares: &[f32]) -> bf16 {
        let mut best = (f32::INFINITY, bf16::from_f32(top));
        for share in shares {
            let stored = bf16::from_f32(top * share);
            let scale = stored.to_f32();
            if scale <= 0.0 {
                break;
            }
            let step = 1.0 / scale;
            let error = |v: f32| {
                let e = v - nearest((v * step).clamp(-limit, limit)) * scale;
                e * e
            };
            let (chunks, rest) = values.as_chunks::<LANES>();
            let mut errors = [0.0_f32; LANES];
            for chunk in chunks {
                for (sum, &v) in errors.iter_mut().zip(chunk) {
                    *sum += error(v);
                }
            }
            for (sum, &v) in errors.iter_mut().zip(rest) {
                *sum += error(v);
            }
            let error: f32 = errors.iter().sum();
            if error < best.0 {
                best = (error, stored);
            }
        }
        best.1
    }
}
