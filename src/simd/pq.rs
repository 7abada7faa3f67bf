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

    pub(super) fn n_blocks(&self) -> usize {
        self.n_vectors.div_ceil(BLOCK)
    }

    /// Codes of a block.
    pub(super) fn block(&self, block: usize) -> &[u8] {
        &self.bytes[block * self.shape.block_bytes()..(block + 1) * self.shape.block_bytes()]
    }

    /// Where the norms begin.
    pub(super) fn norms_at(&self) -> usize {
        self.shape.terms_at(self.n_vectors)
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

/// A point to encode: its residual, its direction u, and η − 1, at least 0.
#[derive(Clone, Copy)]
pub(crate) struct Point<'a> {
    pub residual: &'a [f32],
    pub direction: &'a [f32],
    pub excess: f32,
}

/// Room for what each codeword would leave of a point, `[m][n_words]`.
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
    use super::{Bits, CodeRoom, Codebooks, Point};

    /// Sweeps of coordinate descent, at most. With 192 subspaces (115 659 sentence embeddings, all lists, no reranking)
    /// recall@10 was 0.855 after 2, 0.861 after 3, 0.876 after 10 and 0.875 after 20.
    const SWEEPS: usize = 10;

    /// Codewords compared at a time.
    const LANES: usize = 16;

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
        point: Point<'_>,
        room: &mut CodeRoom,
        codes: &mut [u8],
    ) -> f32 {
        match books.shape.bits {
            Bits::B4 => choose::<16>(books, point, room, codes),
            Bits::B8 => choose::<256>(books, point, room, codes),
        }
    }

    #[inline(always)]
    fn choose<const N: usize>(
        books: Codebooks<'_>,
        point: Point<'_>,
        room: &mut CodeRoom,
        codes: &mut [u8],
    ) -> f32 {
        let shape = books.shape;
        room.errors.resize(shape.m * N, 0.0);
        room.along.resize(shape.m * N, 0.0);
        let (errors, _) = room.errors.as_chunks_mut::<N>();
        let (along, _) = room.along.as_chunks_mut::<N>();
        let books = books.values.chunks_exact(shape.width() * N);
        // The error along u of all subspaces.
        let (mut all, mut from) = (0.0, 0);
        for (m, (((errors, along), words), code)) in
            errors.iter_mut().zip(along.iter_mut()).zip(books).zip(codes.iter_mut()).enumerate()
        {
            let to = shape.dims(m).end;
            (*errors, *along) = ([0.0; N], [0.0; N]);
            let parts = point.residual[from..to].iter().zip(&point.direction[from..to]);
            for ((&x, &u), words) in parts.zip(words.as_chunks::<N>().0) {
                for ((error, along), word) in errors.iter_mut().zip(along.iter_mut()).zip(words) {
                    let r = x - word;
                    *error += r * r;
                    *along += r * u;
                }
            }
            let nearest = least::<N>(|word| errors[word]);
            *code = nearest;
            all += along[usize::from(nearest)];
            from = to;
        }
        if point.excess > 0.0 {
            for _ in 0..SWEEPS {
                let mut changed = false;
                for ((errors, along), code) in errors.iter().zip(along.iter()).zip(codes.iter_mut()) {
                    let rest = all - along[usize::from(*code)];
                    let best = least::<N>(|word| {
                        let whole = rest + along[word];
                        errors[word] + point.excess * whole * whole
                    });
                    changed |= best != *code;
                    *code = best;
                    all = rest + along[usize::from(best)];
                }
                if !changed {
                    break;
                }
            }
        }
        let whole: f32 =
            codes.iter().zip(errors.iter()).map(|(&code, errors)| errors[usize::from(code)]).sum();
        whole + point.excess * all * all
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
            use super::{CodeRoom, Codebooks, Point, portable};

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
                point: Point<'_>,
                room: &mut CodeRoom,
                codes: &mut [u8],
            ) -> f32 {
                portable::choose_codes(books, point, room, codes)
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

    /// Chooses a point's codes, from the nearest codewords on by coordinate descent; returns the score-aware loss.
    ///
    /// All but one subspace fixed, the loss of codeword j is `errors_j + (η − 1)·(rest + along_j)²`: its squared error, the
    /// others' error along u, its own. No subspace's turn raises the loss by more than its last four bits.
    pub(crate) fn choose_codes(
        self,
        books: Codebooks<'_>,
        point: Point<'_>,
        room: &mut CodeRoom,
        codes: &mut [u8],
    ) -> f32 {
        vectorised!(self, choose_codes(books, point, room, codes))
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
