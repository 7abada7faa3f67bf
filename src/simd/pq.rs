//! Lookup-table scans, and choosing codes.
//!
//! A block's rows hold 32 bytes, one a point: two 4-bit codes or one of 8 bits. A byte shuffle looks all of them up in a table
//! of 16 entries at once; sums are 16 bits wide for at most [`TABLES_U16`] tables, then 32. A sum that cannot reach
//! the running threshold never becomes a float: see [`PqRun::limit`].

use super::{Level, Simd};
use crate::{
    spec::Bits,
    stage::scorer::pq::{BLOCK, PqShape, TABLES_U16},
    topk::{APPEND, Candidates},
};

/// Rows whose tables a 16-bit sum has room for.
pub(super) const ROWS_U16: usize = TABLES_U16 / 2;

/// A list's codes and the tables they meet.
#[derive(Clone, Copy)]
pub(crate) struct PqRun<'a> {
    /// Sizes.
    pub shape: PqShape,
    /// The list's run.
    pub bytes: &'a [u8],
    /// Points in it; the last block may be partly filled.
    pub n_vectors: usize,
    /// `[n_tables][n_words]`.
    pub tables: &'a [u8],
    /// What every score of the list begins with.
    pub part: f32,
    /// Value of one step of the tables.
    pub step: f32,
}

impl PqRun<'_> {
    fn check(&self) {
        assert!(self.bytes.len() >= self.shape.run_bytes(self.n_vectors), "the run is cut short");
        assert_eq!(self.tables.len(), self.shape.n_tables() * self.shape.n_words());
    }

    /// Codes of a block.
    pub(super) fn block(&self, block: usize) -> &[u8] {
        &self.bytes[block * self.shape.block_bytes()..(block + 1) * self.shape.block_bytes()]
    }

    /// The score of a sum: what all backends compute, in this order.
    fn score(&self, sum: u32, point: usize) -> f32 {
        self.step * sum as f32 + (self.part + self.shape.norm(self.bytes, self.n_vectors, point))
    }

    /// No sum above this reaches the threshold: one step and the rounding of both terms beyond the exact bound, so that
    /// nothing is lost that the comparison of scores would keep. Norms differ by point, so with them there is none.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what u16 holds")]
    pub(super) fn limit(&self, threshold: f32) -> Option<u16> {
        let steps = (threshold - self.part) / self.step;
        if self.shape.has_norm || !steps.is_finite() {
            return Some(u16::MAX);
        }
        let margin = 1.0 + 4.0 * f32::EPSILON * (threshold.abs() + self.part.abs()) / self.step;
        let limit = steps + margin;
        if limit < 0.0 { None } else { Some(limit.min(65_535.0) as u16) }
    }
}

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
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
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

/// Calls the kernel as compiled for the level's instruction set.
macro_rules! vectorised {
    ($self:ident, $kernel:ident ( $($arg:expr),* )) => {
        match $self.0 {
            // SAFETY: the level is only made by `available`, which has seen these features on this machine.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx2Vnni => unsafe { with_avx2::$kernel($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vbmi => unsafe { with_avx512::$kernel($($arg),*) },
            _ => portable::$kernel($($arg),*),
        }
    };
}

/// Plain loops that compilers turn into vectors of whatever width is enabled.
mod portable {
    use super::{Bits, CodeRoom, Codebooks, Points};

    /// Sweeps of coordinate descent, at most. With 192 subspaces (115 659 sentence embeddings, all lists, no reranking)
    /// recall@10 was 0.855 after 2, 0.861 after 3, 0.876 after 10 and 0.875 after 20.
    const SWEEPS: usize = 10;

    /// Codewords compared at a time.
    const LANES: usize = 16;

    /// Points in step where codewords are few: a choice waits for the one before it, but not for other points'.
    const TOGETHER: usize = 4;

    /// See [`Simd::word_products`](super::Simd::word_products).
    #[inline(always)]
    pub fn word_products(words: &[f32], q: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (&q, words) in q.iter().zip(words.chunks_exact(out.len())) {
            for (out, word) in out.iter_mut().zip(words) {
                *out += q * word;
            }
        }
    }

    /// See [`Simd::choose_codes`](super::Simd::choose_codes).
    #[inline(always)]
    pub fn choose_codes(
        books: Codebooks<'_>,
        points: Points<'_>,
        room: &mut CodeRoom,
        codes: &mut [u8],
    ) -> f64 {
        let (m, n) = (books.shape.m, points.excess.len());
        let (mut loss, mut i) = (0.0, 0);
        while i < n {
            let together = if books.shape.bits == Bits::B4 && n - i >= TOGETHER { TOGETHER } else { 1 };
            let (part, codes) = (points.part(i..i + together), &mut codes[i * m..(i + together) * m]);
            loss += match (books.shape.bits, together) {
                (Bits::B4, TOGETHER) => choose::<16, TOGETHER>(books, part, room, codes),
                (Bits::B4, _) => choose::<16, 1>(books, part, room, codes),
                (Bits::B8, _) => choose::<256, 1>(books, part, room, codes),
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
                let nearest = least::<N>(|word| errors[word]);
                codes[p * shape.m + m] = nearest;
                all[p] += along[usize::from(nearest)];
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
                        let best = least::<N>(|word| {
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
    fn least<const N: usize>(loss: impl Fn(usize) -> f32) -> u8 {
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
}

#[cfg(target_arch = "x86_64")]
macro_rules! compiled_with {
    ($module:ident, $features:literal) => {
        mod $module {
            use super::{CodeRoom, Codebooks, Points, portable};

            /// # Safety
            /// The machine has the features.
            #[target_feature(enable = $features)]
            pub unsafe fn word_products(words: &[f32], q: &[f32], out: &mut [f32]) {
                portable::word_products(words, q, out);
            }

            /// # Safety
            /// The machine has the features.
            #[target_feature(enable = $features)]
            pub unsafe fn choose_codes(
                books: Codebooks<'_>,
                points: Points<'_>,
                room: &mut CodeRoom,
                codes: &mut [u8],
            ) -> f64 {
                portable::choose_codes(books, points, room, codes)
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled_with!(with_avx2, "avx2");
#[cfg(target_arch = "x86_64")]
compiled_with!(with_avx512, "avx512f,avx512bw,avx512vl");

impl Simd {
    /// Products of a part of a query with every codeword of a subspace: `out[j] = Σ_i q_i·words[i][j]`, summed in order.
    /// `words`: `[≥ q.len()][out.len()]`.
    pub(crate) fn word_products(self, words: &[f32], q: &[f32], out: &mut [f32]) {
        vectorised!(self, word_products(words, q, out));
    }

    /// Chooses points' codes `[n, m]`, from the nearest codewords on by coordinate descent; returns the sum of the
    /// score-aware losses.
    ///
    /// All but one subspace fixed, the loss of codeword j is `errors_j + (η − 1)·(rest + along_j)²`: its squared error, the
    /// others' error along u, its own. No subspace's turn raises the loss by more than its last four bits.
    pub(crate) fn choose_codes(
        self,
        books: Codebooks<'_>,
        points: Points<'_>,
        room: &mut CodeRoom,
        codes: &mut [u8],
    ) -> f64 {
        vectorised!(self, choose_codes(books, points, room, codes))
    }

    /// Offers every point's score to `kept`, point `i` under position `base + i`.
    pub(crate) fn scan_pq(
        self,
        run: PqRun<'_>,
        base: u32,
        kept: &mut Candidates,
        id_of: &impl Fn(u32) -> u64,
    ) {
        run.check();
        kept.fill(run.n_vectors, id_of, |seen, threshold, scores, positions| {
            let limit = run.limit(threshold)?;
            let mut out = Survivors { base, threshold, limit, scores, positions, written: 0 };
            let reached = match (self.0, run.shape.bits) {
                // SAFETY: the level is only made by `available`, which has seen these features; the run is checked.
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512 | Level::Avx512Vbmi, Bits::B4) => unsafe {
                    super::pq_x86::scan_x4_avx512(&run, seen, &mut out)
                },
                // SAFETY: as above, VBMI included.
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512Vbmi, Bits::B8) => unsafe { super::pq_x86::scan_x8_vbmi(&run, seen, &mut out) },
                // SAFETY: as above, for AVX2.
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2 | Level::Avx2Vnni, Bits::B4) => unsafe {
                    super::pq_x86::scan_x4_avx2(&run, seen, &mut out)
                },
                // SAFETY: as above, for NEON.
                #[cfg(target_arch = "aarch64")]
                (Level::Neon | Level::NeonDot, Bits::B4) => unsafe {
                    super::pq_neon::scan_x4(&run, seen, &mut out)
                },
                _ => scan(&run, seen, &mut out, |block| plain_sums(&run, block)),
            };
            Some((reached, out.written))
        });
    }
}

/// Where a scan puts what reaches the threshold.
pub(super) struct Survivors<'a> {
    pub base: u32,
    pub threshold: f32,
    pub limit: u16,
    pub scores: &'a mut [f32],
    pub positions: &'a mut [u32],
    pub written: usize,
}

impl Survivors<'_> {
    /// Whether [`APPEND`] more have room.
    pub fn has_room(&self) -> bool {
        self.written + APPEND <= self.scores.len()
    }
}

/// Scans block by block from point `start` on, until the tail may overflow; returns where it stopped. `sums_of` gives a
/// block's sums, or nothing where none is within the limit.
#[inline(always)]
pub(super) fn scan(
    run: &PqRun<'_>,
    start: usize,
    out: &mut Survivors<'_>,
    sums_of: impl Fn(usize) -> Option<[u32; BLOCK]>,
) -> usize {
    let mut seen = start;
    while seen < run.n_vectors && out.has_room() {
        if let Some(sums) = sums_of(seen / BLOCK) {
            let lanes = BLOCK.min(run.n_vectors - seen);
            for (lane, &sum) in sums[..lanes].iter().enumerate() {
                let score = run.score(sum, seen + lane);
                if score <= out.threshold {
                    out.scores[out.written] = score;
                    out.positions[out.written] = out.base + u32::try_from(seen + lane).unwrap_or(u32::MAX);
                    out.written += 1;
                }
            }
        }
        seen += BLOCK;
    }
    seen
}

/// Sums of a block's lookups, one by one.
fn plain_sums(run: &PqRun<'_>, block: usize) -> Option<[u32; BLOCK]> {
    let mut sums = [0; BLOCK];
    let n_words = run.shape.n_words();
    let rows = run.block(block).chunks_exact(BLOCK);
    match run.shape.bits {
        Bits::B8 => {
            for (row, table) in rows.zip(run.tables.chunks_exact(n_words)) {
                for (sum, &code) in sums.iter_mut().zip(row) {
                    *sum += u32::from(table[usize::from(code)]);
                }
            }
        }
        Bits::B4 => {
            for (row, tables) in rows.zip(run.tables.chunks_exact(2 * n_words)) {
                for (sum, &code) in sums.iter_mut().zip(row) {
                    let (low, high) = (usize::from(code & 15), usize::from(code >> 4));
                    *sum += u32::from(tables[low]) + u32::from(tables[n_words + high]);
                }
            }
        }
    }
    Some(sums)
}
