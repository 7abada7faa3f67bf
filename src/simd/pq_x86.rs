//! Lookup-table scans on x86-64.
//!
//! Looked-up bytes are summed as 16-bit words: one sum takes whole words, in which the odd points' bytes stand 256 times too
//! high, the other the odd points' bytes alone; at the end `256·odd` is taken off the first, whose overflows then do
//! not matter.

use std::arch::x86_64::*;

use super::pq::{PqRun, ROWS_U16, Survivors, scan};
use crate::{codes::BLOCK, topk::APPEND};

/// Blocks summed together, so that a table loaded once serves them all.
const TILE: usize = 4;

const _: () = assert!(TILE * BLOCK <= APPEND);

/// 16-bit sums of one block's even points and of its odd ones.
type Sums = (__m256i, __m256i);

/// A mask of the `n` lowest of 16 lanes.
fn low_lanes(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// Sums over rows `rows` of `T` blocks from `block` on, two rows a register.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. `run` is checked and has `T` blocks from `block` on.
/// 3. At most [`ROWS_U16`] rows, all in the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn sums_x4<const T: usize>(run: &PqRun<'_>, block: usize, from: usize, to: usize) -> [Sums; T] {
    let nibbles = _mm512_set1_epi8(15);
    let (mut all, mut odd) = ([_mm512_setzero_si512(); T], [_mm512_setzero_si512(); T]);
    let block_bytes = run.shape.block_bytes();
    let (base, tables) = (run.bytes.as_ptr(), run.tables.as_ptr());
    let mut row = from;
    while row < to {
        // The last of an odd number of rows: what stands above it is not read and adds zeros.
        let mask = if to - row > 1 { u64::MAX } else { u64::from(u32::MAX) };
        // SAFETY: by 2 and 3 row r of block b stands at b·block_bytes + 32·r, its two tables at 32·r.
        unsafe {
            // Lanes: tables 2r, 2r + 1, 2r + 2, 2r + 3 → those of the low nibbles and those of the high ones.
            let four = _mm512_maskz_loadu_epi8(mask, tables.add(32 * row).cast());
            let low_table = _mm512_shuffle_i64x2::<0b10_10_00_00>(four, four);
            let high_table = _mm512_shuffle_i64x2::<0b11_11_01_01>(four, four);
            for t in 0..T {
                let codes =
                    _mm512_maskz_loadu_epi8(mask, base.add((block + t) * block_bytes + 32 * row).cast());
                let low = _mm512_shuffle_epi8(low_table, _mm512_and_si512(codes, nibbles));
                let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibbles);
                let high = _mm512_shuffle_epi8(high_table, upper);
                all[t] = _mm512_add_epi16(_mm512_add_epi16(all[t], low), high);
                let odds = _mm512_add_epi16(_mm512_srli_epi16::<8>(low), _mm512_srli_epi16::<8>(high));
                odd[t] = _mm512_add_epi16(odd[t], odds);
            }
        }
        row += 2;
    }
    std::array::from_fn(|t| {
        let even = _mm512_sub_epi16(all[t], _mm512_slli_epi16::<8>(odd[t]));
        (halves(even), halves(odd[t]))
    })
}

/// Sums over all tables of `T` pairs of blocks from `block` on: 64 points a register. The second block of the last pair
/// may be missing.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW, VL, VBMI. 2. `run` is checked and has `2T − 1` blocks from `block` on.
/// 3. At most [`TABLES_U16`](crate::codes::TABLES_U16) rows, all in the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn sums_x8<const T: usize>(
    run: &PqRun<'_>,
    block: usize,
    from: usize,
    to: usize,
) -> [(__m512i, __m512i); T] {
    let (mut all, mut odd) = ([_mm512_setzero_si512(); T], [_mm512_setzero_si512(); T]);
    let block_bytes = run.shape.block_bytes();
    let (base, tables) = (run.bytes.as_ptr(), run.tables.as_ptr());
    let last = run.n_vectors.div_ceil(BLOCK) - 1;
    for row in from..to {
        // SAFETY: by 2 and 3 row r of block b stands at b·block_bytes + 32·r, its table at 256·r.
        unsafe {
            let quarter = |i: usize| _mm512_loadu_si512(tables.add(256 * row + 64 * i).cast());
            let table = [quarter(0), quarter(1), quarter(2), quarter(3)];
            for t in 0..T {
                let codes_of =
                    |b: usize| _mm256_loadu_si256(base.add(b.min(last) * block_bytes + 32 * row).cast());
                let first = block + 2 * t;
                let codes =
                    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes_of(first)), codes_of(first + 1));
                let below = _mm512_permutex2var_epi8(table[0], codes, table[1]);
                let above = _mm512_permutex2var_epi8(table[2], codes, table[3]);
                let found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), below, above);
                all[t] = _mm512_add_epi16(all[t], found);
                odd[t] = _mm512_add_epi16(odd[t], _mm512_srli_epi16::<8>(found));
            }
        }
    }
    std::array::from_fn(|t| (_mm512_sub_epi16(all[t], _mm512_slli_epi16::<8>(odd[t])), odd[t]))
}

/// The sum of a register's halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn halves(v: __m512i) -> __m256i {
    _mm256_add_epi16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
}

/// 32 sums in the order of their points, 32 bits each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn in_order((even, odd): Sums) -> [__m512i; 2] {
    // Points 0–7 and 16–23, points 8–15 and 24–31.
    let (a, b) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
    [
        _mm512_cvtepu16_epi32(_mm256_permute2x128_si256::<0x20>(a, b)),
        _mm512_cvtepu16_epi32(_mm256_permute2x128_si256::<0x31>(a, b)),
    ]
}

/// Whether any sum is within the limit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn any_within((even, odd): Sums, limit: __m256i) -> bool {
    _mm256_cmple_epu16_mask(even, limit) | _mm256_cmple_epu16_mask(odd, limit) != 0
}

/// Keeps a block's points that reach the threshold.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. `run` is checked and has the block. 3. `out` has 32 places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn keep(run: &PqRun<'_>, block: usize, sums: [__m512i; 2], out: &mut Survivors<'_, '_>) {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let threshold = _mm512_set1_ps(out.tail.threshold);
    for (half, sums) in sums.into_iter().enumerate() {
        let at = block * BLOCK + half * 16;
        if at >= run.n_vectors {
            return;
        }
        let mut part = _mm512_set1_ps(run.part);
        if run.shape.has_norm {
            // SAFETY: by 2 a norm stands for each of the block's 32 points.
            let norms = unsafe {
                _mm512_loadu_ps(run.bytes.as_ptr().add(run.shape.terms_at(run.n_vectors) + 4 * at).cast())
            };
            part = _mm512_add_ps(part, norms);
        }
        let score = _mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(run.step), _mm512_cvtepi32_ps(sums)), part);
        let valid = low_lanes(run.n_vectors - at);
        let mask = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(valid, score, threshold);
        if mask != 0 {
            #[allow(
                clippy::cast_possible_wrap,
                clippy::cast_possible_truncation,
                reason = "the bits of a u32 position"
            )]
            let position = _mm512_add_epi32(lanes, _mm512_set1_epi32((out.base + at as u32) as i32));
            // SAFETY: by 3; a register of 16 is written and then at most 16 places are taken.
            unsafe {
                let scores = out.tail.scores.as_mut_ptr().add(out.tail.written);
                let positions = out.tail.positions.as_mut_ptr().add(out.tail.written);
                _mm512_storeu_ps(scores, _mm512_maskz_compress_ps(mask, score));
                _mm512_storeu_si512(positions.cast(), _mm512_maskz_compress_epi32(mask, position));
            }
            out.tail.written += mask.count_ones() as usize;
        }
    }
}

/// Scans from point `start` on until the tail may overflow; returns where it stopped.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. `run` is checked, of 4 bits, `start` a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn scan_x4_avx512(run: &PqRun<'_>, start: usize, out: &mut Survivors<'_, '_>) -> usize {
    // SAFETY: by 1 and 2; TILE or one block stand at the block asked for, and APPEND = TILE·BLOCK places are free.
    unsafe {
        let rows = run.shape.rows();
        let n_blocks = run.n_vectors.div_ceil(BLOCK);
        #[allow(clippy::cast_possible_wrap, reason = "the bits of the limit")]
        let limit = _mm256_set1_epi16(out.limit as i16);
        let mut block = start / BLOCK;
        while block < n_blocks && out.tail.has_room() {
            if rows > ROWS_U16 {
                let mut sums = [_mm512_setzero_si512(); 2];
                for from in (0..rows).step_by(ROWS_U16) {
                    let [part] = sums_x4::<1>(run, block, from, rows.min(from + ROWS_U16));
                    let part = in_order(part);
                    sums = [_mm512_add_epi32(sums[0], part[0]), _mm512_add_epi32(sums[1], part[1])];
                }
                keep(run, block, sums, out);
                block += 1;
            } else if block + TILE <= n_blocks {
                for sums in sums_x4::<TILE>(run, block, 0, rows) {
                    if any_within(sums, limit) {
                        keep(run, block, in_order(sums), out);
                    }
                    block += 1;
                }
            } else {
                let [sums] = sums_x4::<1>(run, block, 0, rows);
                if any_within(sums, limit) {
                    keep(run, block, in_order(sums), out);
                }
                block += 1;
            }
        }
        block * BLOCK
    }
}

/// Scans from point `start` on until the tail may overflow; returns where it stopped.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW, VL, VBMI. 2. `run` is checked, of 8 bits, `start` a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub unsafe fn scan_x8_vbmi(run: &PqRun<'_>, start: usize, out: &mut Survivors<'_, '_>) -> usize {
    // SAFETY: by 1 and 2; the blocks asked for are there, and APPEND = TILE·BLOCK places are free.
    unsafe {
        let rows = run.shape.rows();
        let n_blocks = run.n_vectors.div_ceil(BLOCK);
        #[allow(clippy::cast_possible_wrap, reason = "the bits of the limit")]
        let limit = _mm256_set1_epi16(out.limit as i16);
        let split = |v: __m512i| (_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
        let mut block = start / BLOCK;
        while block < n_blocks && out.tail.has_room() {
            if rows > 2 * ROWS_U16 {
                let mut sums = [[_mm512_setzero_si512(); 2]; 2];
                for from in (0..rows).step_by(2 * ROWS_U16) {
                    let [(even, odd)] = sums_x8::<1>(run, block, from, rows.min(from + 2 * ROWS_U16));
                    let (even, odd) = (split(even), split(odd));
                    for (sums, pair) in sums.iter_mut().zip([(even.0, odd.0), (even.1, odd.1)]) {
                        let part = in_order(pair);
                        *sums = [_mm512_add_epi32(sums[0], part[0]), _mm512_add_epi32(sums[1], part[1])];
                    }
                }
                for sums in sums {
                    if block < n_blocks {
                        keep(run, block, sums, out);
                    }
                    block += 1;
                }
            } else {
                let (one, two);
                let pairs: &[(__m512i, __m512i)] = if block + TILE <= n_blocks {
                    two = sums_x8::<{ TILE / 2 }>(run, block, 0, rows);
                    &two
                } else {
                    one = sums_x8::<1>(run, block, 0, rows);
                    &one
                };
                for &(even, odd) in pairs {
                    let (even, odd) = (split(even), split(odd));
                    for sums in [(even.0, odd.0), (even.1, odd.1)] {
                        if block < n_blocks && any_within(sums, limit) {
                            keep(run, block, in_order(sums), out);
                        }
                        block += 1;
                    }
                }
            }
        }
        block * BLOCK
    }
}

/// Scans from point `start` on until the tail may overflow; returns where it stopped.
///
/// # Safety
/// 1. The machine has AVX2. 2. `run` is checked, of 4 bits, `start` a multiple of 32.
#[target_feature(enable = "avx2")]
pub unsafe fn scan_x4_avx2(run: &PqRun<'_>, start: usize, out: &mut Survivors<'_, '_>) -> usize {
    let limit = out.limit;
    // SAFETY: by 1 and 2; `scan` asks for blocks of the run.
    scan(run, start, out, |block| unsafe { sums_x4_avx2(run, block, limit) })
}

/// A block's sums, or nothing where none is within the limit.
///
/// # Safety
/// 1. The machine has AVX2. 2. `run` is checked, of 4 bits, and has the block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sums_x4_avx2(run: &PqRun<'_>, block: usize, limit: u16) -> Option<[u32; BLOCK]> {
    let rows = run.shape.rows();
    let nibbles = _mm256_set1_epi8(15);
    let mut sums = [0_u32; BLOCK];
    for from in (0..rows).step_by(ROWS_U16) {
        let to = rows.min(from + ROWS_U16);
        let (mut all, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for row in from..to {
            // SAFETY: by 2, row r stands at 32·r of the block, its two tables at 32·r.
            let (codes, low_table, high_table) = unsafe {
                let tables = run.tables.as_ptr().add(32 * row);
                (
                    _mm256_loadu_si256(run.block(block).as_ptr().add(32 * row).cast()),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(tables.cast())),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(tables.add(16).cast())),
                )
            };
            let low = _mm256_shuffle_epi8(low_table, _mm256_and_si256(codes, nibbles));
            let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibbles);
            let high = _mm256_shuffle_epi8(high_table, upper);
            all = _mm256_add_epi16(_mm256_add_epi16(all, low), high);
            let odds = _mm256_add_epi16(_mm256_srli_epi16::<8>(low), _mm256_srli_epi16::<8>(high));
            odd = _mm256_add_epi16(odd, odds);
        }
        let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
        if rows <= ROWS_U16 {
            #[allow(clippy::cast_possible_wrap, reason = "the bits of the limit")]
            let limit = _mm256_set1_epi16(limit as i16);
            // Within the limit: the smaller of both is the sum itself.
            let within = |sums| _mm256_cmpeq_epi16(_mm256_min_epu16(sums, limit), sums);
            if _mm256_movemask_epi8(_mm256_or_si256(within(even), within(odd))) == 0 {
                return None;
            }
        }
        let (mut evens, mut odds) = ([0_u16; 16], [0_u16; 16]);
        // SAFETY: 32 bytes each.
        unsafe {
            _mm256_storeu_si256(evens.as_mut_ptr().cast(), even);
            _mm256_storeu_si256(odds.as_mut_ptr().cast(), odd);
        }
        for (pair, (even, odd)) in sums.chunks_exact_mut(2).zip(evens.iter().zip(&odds)) {
            pair[0] += u32::from(*even);
            pair[1] += u32::from(*odd);
        }
    }
    Some(sums)
}
