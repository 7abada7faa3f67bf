//! Lookup-table scans.
//!
//! A block's rows hold 32 bytes, one a point: two 4-bit codes or one of 8 bits. A byte shuffle looks all of them up in a table
//! of 16 entries at once; sums are 16 bits wide for at most [`TABLES_U16`] tables, then 32. Of at
//! most that many tables a sum that cannot reach the running threshold never becomes a float: see [`PqRun::limit`]. Codes
//! of 8 bits take plain lookups, one by one, where there is no VBMI: a fifteenth of its speed.

use super::{Level, Simd};
use crate::{
    codes::{BLOCK, PqShape, TABLES_U16},
    spec::Bits,
    topk::{Candidates, Tail, fill},
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

    /// No sum above this reaches the threshold: one step and the rounding of all terms beyond the exact bound, so that
    /// nothing is lost that the comparison of scores would keep. `least`: the least norm of the list, or 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what u16 holds")]
    pub(super) fn limit(&self, threshold: f32, least: f32) -> Option<u16> {
        let steps = (threshold - (self.part + least)) / self.step;
        if !steps.is_finite() {
            return Some(u16::MAX);
        }
        let terms = threshold.abs() + self.part.abs() + least.abs();
        let margin = 1.0 + 8.0 * f32::EPSILON * terms / self.step;
        let limit = steps + margin;
        if limit < 0.0 { None } else { Some(limit.min(65_535.0) as u16) }
    }
}

impl Simd {
    /// Offers every point's score to `kept`, point `i` under position `base + i`.
    pub(crate) fn scan_pq(
        self,
        run: PqRun<'_>,
        base: u32,
        kept: &mut Candidates,
        id_of: &impl Fn(u32) -> u64,
    ) {
        run.check();
        let terms = run.shape.terms_at(run.n_vectors)..;
        let least = if run.shape.has_norm { self.least(&run.bytes[terms][..run.n_vectors * 4]) } else { 0.0 };
        fill([kept], run.n_vectors, id_of, |seen, [tail]| {
            let limit = run.limit(tail.threshold, least)?;
            let mut out = Survivors { base, limit, tail };
            Some(match (self.0, run.shape.bits) {
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
            })
        });
    }
}

/// Where a scan puts what reaches the threshold.
pub(super) struct Survivors<'a, 't> {
    pub base: u32,
    pub limit: u16,
    pub tail: &'a mut Tail<'t>,
}

/// Scans block by block from point `start` on, until the tail may overflow; returns where it stopped. `sums_of` gives a
/// block's sums, or nothing where none is within the limit.
#[inline(always)]
pub(super) fn scan(
    run: &PqRun<'_>,
    start: usize,
    out: &mut Survivors<'_, '_>,
    sums_of: impl Fn(usize) -> Option<[u32; BLOCK]>,
) -> usize {
    let mut seen = start;
    while seen < run.n_vectors && out.tail.has_room() {
        if let Some(sums) = sums_of(seen / BLOCK) {
            let lanes = BLOCK.min(run.n_vectors - seen);
            for (lane, &sum) in sums[..lanes].iter().enumerate() {
                let score = run.score(sum, seen + lane);
                if score <= out.tail.threshold {
                    out.tail.put(score, out.base + u32::try_from(seen + lane).unwrap_or(u32::MAX));
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
