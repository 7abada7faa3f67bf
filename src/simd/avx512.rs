//! AVX-512 with VNNI: 16 vectors a register, `vpdpbusd` for four byte products a lane.
//!
//! Tails are masked, never read past: a mask of the `n` lowest lanes is `(1 << n) − 1`.

use std::arch::x86_64::*;

use half::f16;

use super::BlockRun;
use crate::{
    block::{BLOCK, SCALE_MIN},
    spec::Bits,
    topk::{APPEND, Tail},
};

/// Blocks scored together, so that one broadcast of the query serves four loads.
const TILE: usize = 4;

/// A mask of the `n` lowest of 16 lanes.
fn low_lanes(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. `w.len() == q.len() * y.len()` for every pair of q and y.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn project_f16<const N: usize>(w: &[f16], mut pairs: [(&[f32], &mut [f32]); N]) {
    let s = pairs.first().map_or(0, |(_, y)| y.len());
    let mut at = 0;
    while at < s {
        // SAFETY: by 2; as many columns stand at `at`.
        at += unsafe {
            match s - at {
                128.. if N == 1 => project_columns::<8, N>(w, &mut pairs, at, u16::MAX),
                64.. => project_columns::<4, N>(w, &mut pairs, at, u16::MAX),
                32.. => project_columns::<2, N>(w, &mut pairs, at, u16::MAX),
                left => project_columns::<1, N>(w, &mut pairs, at, low_lanes(left)),
            }
        };
    }
}

/// Columns `at..at + 16·T`: one accumulator a register, W streamed once. Of the last register only the lanes of `mask`.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. As [`project_f16`], and the columns that `mask` leaves are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn project_columns<const T: usize, const N: usize>(
    w: &[f16],
    pairs: &mut [(&[f32], &mut [f32]); N],
    at: usize,
    mask: u16,
) -> usize {
    let (d, s) = pairs.first().map_or((0, 0), |(q, y)| (q.len(), y.len()));
    let queries = pairs.each_ref().map(|(q, _)| q.as_ptr());
    let mut sums = [[_mm512_setzero_ps(); T]; N];
    for i in 0..d {
        // SAFETY: by 2 row i is w[i·s..(i + 1)·s], and every query has d values; lanes outside the mask are not read.
        unsafe {
            let row: [__m512; T] = std::array::from_fn(|t| {
                let at: *const f16 = w.as_ptr().add(i * s + at + 16 * t);
                let half = if t + 1 < T {
                    _mm256_loadu_si256(at.cast())
                } else {
                    _mm256_maskz_loadu_epi16(mask, at.cast())
                };
                _mm512_cvtph_ps(half)
            });
            for (sums, q) in sums.iter_mut().zip(queries) {
                let v = _mm512_set1_ps(*q.add(i));
                for (sum, row) in sums.iter_mut().zip(row) {
                    *sum = _mm512_fmadd_ps(v, row, *sum);
                }
            }
        }
    }
    for (sums, (_, y)) in sums.iter().zip(pairs) {
        for (t, &sum) in sums.iter().enumerate() {
            let lanes = if t + 1 < T { u16::MAX } else { mask };
            // SAFETY: by 2; lanes outside the mask are not written.
            unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr().add(at + 16 * t), lanes, sum) };
        }
    }
    16 * T
}

/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. `codes.len() == values.len()`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn quantise(values: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let n = values.len();
    let load = |i: usize| {
        // SAFETY: lanes past the end are masked and not read.
        unsafe { _mm512_maskz_loadu_ps(low_lanes(n - i), values.as_ptr().add(i)) }
    };
    let mut top = _mm512_setzero_ps();
    for i in (0..n).step_by(16) {
        top = _mm512_max_ps(top, _mm512_abs_ps(load(i)));
    }
    let scale = _mm512_reduce_max_ps(top) / 127.0;
    let inverse = _mm512_set1_ps(if scale >= SCALE_MIN { 1.0 / scale } else { 0.0 });
    let mut sum = _mm512_setzero_si512();
    for i in (0..n).step_by(16) {
        let code = _mm512_cvtps_epi32(_mm512_mul_ps(load(i), inverse));
        sum = _mm512_add_epi32(sum, code);
        // SAFETY: by 2; lanes past the end are masked and not written.
        unsafe {
            _mm_mask_storeu_epi8(codes.as_mut_ptr().add(i), low_lanes(n - i), _mm512_cvtepi32_epi8(code));
        }
    }
    (scale, _mm512_reduce_add_epi32(sum))
}

/// Scores of `T` blocks of 16 vectors, from `block` on, for each of `N` queries.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW and VNNI. 2. `run` is checked and has `T` blocks from `block` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_scores<const T: usize, const N: usize>(
    run: &BlockRun<'_, N>,
    block: usize,
) -> [[__m512; T]; N] {
    let code_bytes = run.shape.code_bytes();
    let [first_at, norm_at, scale_at] = run.shape.heads(run.n_blocks());
    let base = run.bytes.as_ptr();
    let mut dots = run.queries.map(|query| [_mm512_set1_epi32(run.offset_term(query).wrapping_neg()); T]);
    // SAFETY: by 2: row g of block b stands at b·code_bytes + 64·g, its heads at 64·b or 32·b behind their
    // beginnings, all inside the run; a checked query has four codes for every group.
    unsafe {
        let word = |n: usize, group: usize| {
            _mm512_set1_epi32(run.queries[n].codes.as_ptr().add(4 * group).cast::<i32>().read_unaligned())
        };
        let codes =
            |t: usize, row: usize| _mm512_loadu_si512(base.add((block + t) * code_bytes + 64 * row).cast());
        match run.shape.bits {
            Bits::B8 => {
                for g in 0..run.shape.groups {
                    let codes: [__m512i; T] = std::array::from_fn(|t| codes(t, g));
                    for (n, dots) in dots.iter_mut().enumerate() {
                        let word = word(n, g);
                        for (dot, codes) in dots.iter_mut().zip(codes) {
                            *dot = _mm512_dpbusd_epi32(*dot, codes, word);
                        }
                    }
                }
            }
            Bits::B4 => {
                let nibbles = _mm512_set1_epi8(15);
                for h in 0..run.shape.groups / 2 {
                    let both: [__m512i; T] = std::array::from_fn(|t| codes(t, h));
                    let lower = both.map(|both| _mm512_and_si512(both, nibbles));
                    let upper = both.map(|both| _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibbles));
                    for (n, dots) in dots.iter_mut().enumerate() {
                        let (low, high) = (word(n, 2 * h), word(n, 2 * h + 1));
                        for (t, dot) in dots.iter_mut().enumerate() {
                            *dot = _mm512_dpbusd_epi32(*dot, lower[t], low);
                            *dot = _mm512_dpbusd_epi32(*dot, upper[t], high);
                        }
                    }
                }
            }
        }
        let mut scores = [[_mm512_setzero_ps(); T]; N];
        for t in 0..T {
            let float = |at: usize| _mm512_loadu_ps(base.add(at + 64 * (block + t)).cast());
            let half = _mm256_loadu_si256(base.add(scale_at + 32 * (block + t)).cast());
            // bf16 is the upper half of an f32.
            let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
            let norm = if run.shape.has_norm { float(norm_at) } else { _mm512_setzero_ps() };
            let first = float(first_at);
            for (n, query) in run.queries.into_iter().enumerate() {
                let part = _mm512_fmadd_ps(first, _mm512_set1_ps(run.factor * query.first), norm);
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(run.factor * query.scale));
                scores[n][t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[n][t]), part);
            }
        }
        scores
    }
}

/// # Safety
/// 1. The machine has AVX-512 F, BW and VNNI. 2. `run` is checked, every `out` has 16 places for each block.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn block_scores<const N: usize>(run: &BlockRun<'_, N>, mut out: [&mut [f32]; N]) {
    let n_blocks = run.n_blocks();
    let mut b = 0;
    while b < n_blocks {
        // SAFETY: by 2, as many blocks stand at b and have their 16 places each in every `out`.
        unsafe {
            b += match n_blocks - b {
                TILE.. => put(&tile_scores::<TILE, N>(run, b), &mut out, b),
                2.. => put(&tile_scores::<2, N>(run, b), &mut out, b),
                _ => put(&tile_scores::<1, N>(run, b), &mut out, b),
            };
        }
    }
}

/// Writes a tile's scores from block `block` on.
///
/// # Safety
/// 1. The machine has AVX-512 F. 2. Every `out` has 16 places for each of the blocks.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put<const T: usize, const N: usize>(
    tile: &[[__m512; T]; N],
    out: &mut [&mut [f32]; N],
    block: usize,
) -> usize {
    for (scores, out) in tile.iter().zip(out) {
        for (t, &scores) in scores.iter().enumerate() {
            // SAFETY: by 2.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add((block + t) * BLOCK), scores) };
        }
    }
    T
}

/// Writes survivors from vector `start` on until a tail may overflow; returns where it stopped.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW and VNNI. 2. `run` is checked, `start` is a multiple of 16.
/// 3. A tail's scores and positions are equally many.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn scan_blocks<const N: usize>(
    run: &BlockRun<'_, N>,
    start: usize,
    base: u32,
    tails: &mut [Tail<'_>; N],
) -> usize {
    let mut seen = start;
    while seen < run.n_vectors && tails.iter().all(Tail::has_room) {
        let block = seen / BLOCK;
        // SAFETY: by 2, as many blocks stand at `block`. APPEND places are free, and each of at most four
        // blocks writes one register of 16 and then moves on by its survivors.
        unsafe {
            seen += match run.n_blocks() - block {
                TILE.. => keep(&tile_scores::<TILE, N>(run, block), run.n_vectors, seen, base, tails),
                2.. => keep(&tile_scores::<2, N>(run, block), run.n_vectors, seen, base, tails),
                _ => keep(&tile_scores::<1, N>(run, block), run.n_vectors, seen, base, tails),
            };
        }
    }
    seen
}

/// Appends what reaches each tail's threshold; vector `seen` is the tile's first.
///
/// # Safety
/// 1. The machine has AVX-512 F. 2. Every tail has [`APPEND`] free places.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn keep<const T: usize, const N: usize>(
    tile: &[[__m512; T]; N],
    n_vectors: usize,
    seen: usize,
    base: u32,
    tails: &mut [Tail<'_>; N],
) -> usize {
    const { assert!(T * BLOCK <= APPEND) };
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (scores, tail) in tile.iter().zip(tails) {
        let limit = _mm512_set1_ps(tail.threshold);
        for (t, &score) in scores.iter().enumerate() {
            let at = seen + t * BLOCK;
            let mask = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(low_lanes(n_vectors - at), score, limit);
            if mask != 0 {
                #[allow(
                    clippy::cast_possible_wrap,
                    clippy::cast_possible_truncation,
                    reason = "the bits of a u32 position"
                )]
                let position = _mm512_add_epi32(lanes, _mm512_set1_epi32((base + at as u32) as i32));
                // SAFETY: by 2; a register of 16 is written and then at most 16 places are taken.
                unsafe {
                    let scores = tail.scores.as_mut_ptr().add(tail.written);
                    let positions = tail.positions.as_mut_ptr().add(tail.written);
                    _mm512_storeu_ps(scores, _mm512_maskz_compress_ps(mask, score));
                    _mm512_storeu_si512(positions.cast(), _mm512_maskz_compress_epi32(mask, position));
                }
                tail.written += mask.count_ones() as usize;
            }
        }
    }
    T * BLOCK
}

/// Sums a term over `n` components, 64 a round in four accumulators; the tail is masked.
/// `$term(i, mask, sum)` adds components `i..i + 16`.
macro_rules! sum_of {
    ($n:expr, $term:expr) => {{
        let n = $n;
        let term = $term;
        let mut sums = [_mm512_setzero_ps(); 4];
        let mut i = 0;
        while i + 64 <= n {
            sums[0] = term(i, u16::MAX, sums[0]);
            sums[1] = term(i + 16, u16::MAX, sums[1]);
            sums[2] = term(i + 32, u16::MAX, sums[2]);
            sums[3] = term(i + 48, u16::MAX, sums[3]);
            i += 64;
        }
        while i < n {
            sums[0] = term(i, low_lanes(n - i), sums[0]);
            i += 16;
        }
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
    }};
}

/// # Safety
/// 1. The machine has AVX-512 F. 2. Slices are equally long.
#[target_feature(enable = "avx512f")]
pub unsafe fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of!(a.len(), |i: usize, mask, sum| {
        // SAFETY: by 2; lanes past the end are masked and not read.
        let (a, b) = unsafe {
            (_mm512_maskz_loadu_ps(mask, a.as_ptr().add(i)), _mm512_maskz_loadu_ps(mask, b.as_ptr().add(i)))
        };
        _mm512_fmadd_ps(a, b, sum)
    })
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "avx512f")]
pub unsafe fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of!(a.len(), |i: usize, mask, sum| {
        // SAFETY: by 2; lanes past the end are masked and not read.
        let (a, b) = unsafe {
            (_mm512_maskz_loadu_ps(mask, a.as_ptr().add(i)), _mm512_maskz_loadu_ps(mask, b.as_ptr().add(i)))
        };
        let difference = _mm512_sub_ps(a, b);
        _mm512_fmadd_ps(difference, difference, sum)
    })
}

/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. Slices are equally long.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of!(a.len(), |i: usize, mask, sum| {
        // SAFETY: by 2; lanes past the end are masked and not read.
        let (a, b) = unsafe {
            (
                _mm512_maskz_loadu_ps(mask, a.as_ptr().add(i)),
                _mm256_maskz_loadu_epi16(mask, b.as_ptr().add(i).cast()),
            )
        };
        _mm512_fmadd_ps(a, _mm512_cvtph_ps(b), sum)
    })
}

/// # Safety
/// As [`dot_f16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of!(a.len(), |i: usize, mask, sum| {
        // SAFETY: by 2; lanes past the end are masked and not read.
        let (a, b) = unsafe {
            (
                _mm512_maskz_loadu_ps(mask, a.as_ptr().add(i)),
                _mm256_maskz_loadu_epi16(mask, b.as_ptr().add(i).cast()),
            )
        };
        let difference = _mm512_sub_ps(a, _mm512_cvtph_ps(b));
        _mm512_fmadd_ps(difference, difference, sum)
    })
}

/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. Slices are equally long.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn dot_u8(a: &[f32], codes: &[u8]) -> f32 {
    sum_of!(a.len(), |i: usize, mask, sum| {
        // SAFETY: by 2; lanes past the end are masked and not read.
        let (a, c) = unsafe {
            (
                _mm512_maskz_loadu_ps(mask, a.as_ptr().add(i)),
                _mm_maskz_loadu_epi8(mask, codes.as_ptr().add(i).cast()),
            )
        };
        _mm512_fmadd_ps(a, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(c)), sum)
    })
}

/// # Safety
/// As [`dot_u8`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn l2_u8(a: &[f32], step: &[f32], codes: &[u8]) -> f32 {
    sum_of!(a.len(), |i: usize, mask, sum| {
        // SAFETY: by 2; lanes past the end are masked and not read.
        let (a, step, c) = unsafe {
            (
                _mm512_maskz_loadu_ps(mask, a.as_ptr().add(i)),
                _mm512_maskz_loadu_ps(mask, step.as_ptr().add(i)),
                _mm_maskz_loadu_epi8(mask, codes.as_ptr().add(i).cast()),
            )
        };
        let difference = _mm512_fnmadd_ps(step, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(c)), a);
        _mm512_fmadd_ps(difference, difference, sum)
    })
}
