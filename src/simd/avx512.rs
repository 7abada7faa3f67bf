//! AVX-512 with VNNI: 16 vectors a register, `vpdpbusd` for four byte products a lane.
//!
//! Tails are masked, never read past: a mask of the `n` lowest lanes is `(1 << n) − 1`.

use std::arch::x86_64::*;

use half::f16;

use super::BlockRun;
use crate::{
    block::{BLOCK, SCALE_MIN},
    spec::Bits,
    topk::APPEND,
};

/// Blocks scored together, so that one broadcast of the query serves four loads.
const TILE: usize = 4;

/// A mask of the `n` lowest of 16 lanes.
fn low_lanes(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// # Safety
/// 1. The machine has AVX-512 F, BW, VL. 2. `w.len() == q.len() * y.len()`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn project_f16(w: &[f16], q: &[f32], y: &mut [f32]) {
    let mut at = 0;
    while at < y.len() {
        // SAFETY: by 2; each tile starts at `at < y.len()` and masks what lies beyond.
        at += unsafe {
            match y.len() - at {
                113.. => project_columns::<8>(w, q, y, at),
                49.. => project_columns::<4>(w, q, y, at),
                17.. => project_columns::<2>(w, q, y, at),
                _ => project_columns::<1>(w, q, y, at),
            }
        };
    }
}

/// Columns `at..at + 16·T`, as far as there are: one accumulator a register, W streamed once.
///
/// # Safety
/// As [`project_f16`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn project_columns<const T: usize>(w: &[f16], q: &[f32], y: &mut [f32], at: usize) -> usize {
    let s = y.len();
    let masks: [u16; T] = std::array::from_fn(|t| low_lanes((s - at).saturating_sub(16 * t)));
    let mut sums = [_mm512_setzero_ps(); T];
    for (i, &v) in q.iter().enumerate() {
        let v = _mm512_set1_ps(v);
        for t in 0..T {
            // SAFETY: by 2 row i is w[i·s..(i + 1)·s]; lanes past s are masked and not read.
            let half = unsafe {
                _mm256_maskz_loadu_epi16(masks[t], w.as_ptr().wrapping_add(i * s + at + 16 * t).cast())
            };
            sums[t] = _mm512_fmadd_ps(v, _mm512_cvtph_ps(half), sums[t]);
        }
    }
    for t in 0..T {
        // SAFETY: lanes past y's end are masked and not written.
        unsafe {
            _mm512_mask_storeu_ps(y.as_mut_ptr().wrapping_add(at + 16 * t), masks[t], sums[t]);
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

/// Scores of `T` blocks of 16 vectors, from `block` on.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW and VNNI. 2. `run` is checked and has `T` blocks from `block` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_scores<const T: usize>(run: &BlockRun<'_>, block: usize) -> [__m512; T] {
    let code_bytes = run.shape.code_bytes();
    let [first_at, norm_at, scale_at] = run.shape.heads(run.n_blocks());
    let (base, q) = (run.bytes.as_ptr(), run.query.codes.as_ptr());
    let mut dots = [_mm512_set1_epi32(run.offset_term().wrapping_neg()); T];
    // SAFETY: by 2: row g of block b stands at b·code_bytes + 64·g, its heads at 64·b or 32·b behind their
    // beginnings, all inside the run; a checked query has four codes for every group.
    unsafe {
        let word = |group: usize| _mm512_set1_epi32(q.add(4 * group).cast::<i32>().read_unaligned());
        let codes =
            |t: usize, row: usize| _mm512_loadu_si512(base.add((block + t) * code_bytes + 64 * row).cast());
        match run.shape.bits {
            Bits::B8 => {
                for g in 0..run.shape.groups {
                    let word = word(g);
                    for (t, dot) in dots.iter_mut().enumerate() {
                        *dot = _mm512_dpbusd_epi32(*dot, codes(t, g), word);
                    }
                }
            }
            Bits::B4 => {
                let nibbles = _mm512_set1_epi8(15);
                for h in 0..run.shape.groups / 2 {
                    let (low, high) = (word(2 * h), word(2 * h + 1));
                    for (t, dot) in dots.iter_mut().enumerate() {
                        let both = codes(t, h);
                        let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibbles);
                        *dot = _mm512_dpbusd_epi32(*dot, _mm512_and_si512(both, nibbles), low);
                        *dot = _mm512_dpbusd_epi32(*dot, upper, high);
                    }
                }
            }
        }
        let first = _mm512_set1_ps(run.factor * run.query.first);
        let factor = _mm512_set1_ps(run.factor * run.query.scale);
        let mut scores = [_mm512_setzero_ps(); T];
        for t in 0..T {
            let float = |at: usize| _mm512_loadu_ps(base.add(at + 64 * (block + t)).cast());
            let half = _mm256_loadu_si256(base.add(scale_at + 32 * (block + t)).cast());
            // bf16 is the upper half of an f32.
            let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
            let norm = if run.shape.has_norm { float(norm_at) } else { _mm512_setzero_ps() };
            let part = _mm512_fmadd_ps(float(first_at), first, norm);
            scores[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, factor), _mm512_cvtepi32_ps(dots[t]), part);
        }
        scores
    }
}

/// # Safety
/// 1. The machine has AVX-512 F, BW and VNNI. 2. `run` is checked, `out` has 16 places for each block.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn block_scores(run: &BlockRun<'_>, out: &mut [f32]) {
    let n_blocks = run.n_blocks();
    let mut b = 0;
    while b < n_blocks {
        // SAFETY: by 2, as many blocks stand at b and have their 16 places each in `out`.
        unsafe {
            let place = out.as_mut_ptr().add(b * BLOCK);
            let put = |scores: &[__m512]| {
                for (t, &scores) in scores.iter().enumerate() {
                    _mm512_storeu_ps(place.add(t * BLOCK), scores);
                }
                scores.len()
            };
            b += match n_blocks - b {
                TILE.. => put(&tile_scores::<TILE>(run, b)),
                2.. => put(&tile_scores::<2>(run, b)),
                _ => put(&tile_scores::<1>(run, b)),
            };
        }
    }
}

/// Writes survivors from vector `start` on until the tail may overflow; returns where it stopped and the
/// number of survivors.
///
/// # Safety
/// 1. The machine has AVX-512 F, BW and VNNI. 2. `run` is checked, `start` is a multiple of 16.
/// 3. `scores` and `positions` are equally long.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn scan_blocks(
    run: &BlockRun<'_>,
    start: usize,
    base: u32,
    threshold: f32,
    scores: &mut [f32],
    positions: &mut [u32],
) -> (usize, usize) {
    let limit = _mm512_set1_ps(threshold);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let (mut seen, mut written) = (start, 0_usize);
    while seen < run.n_vectors && written + APPEND <= scores.len() {
        let block = seen / BLOCK;
        // SAFETY: by 2, as many blocks stand at `block`. APPEND places are free, and each of at most four
        // blocks writes one register of 16 and then moves on by its survivors.
        unsafe {
            let mut keep = |tile: &[__m512]| {
                for (t, &score) in tile.iter().enumerate() {
                    let at = seen + t * BLOCK;
                    let valid = low_lanes(run.n_vectors - at);
                    let mask = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(valid, score, limit);
                    if mask != 0 {
                        #[allow(
                            clippy::cast_possible_wrap,
                            clippy::cast_possible_truncation,
                            reason = "the bits of a u32 position"
                        )]
                        let position = _mm512_add_epi32(lanes, _mm512_set1_epi32((base + at as u32) as i32));
                        let (to_scores, to_positions) =
                            (scores.as_mut_ptr().add(written), positions.as_mut_ptr().add(written));
                        _mm512_storeu_ps(to_scores, _mm512_maskz_compress_ps(mask, score));
                        _mm512_storeu_si512(to_positions.cast(), _mm512_maskz_compress_epi32(mask, position));
                        written += mask.count_ones() as usize;
                    }
                }
                tile.len() * BLOCK
            };
            seen += match run.n_blocks() - block {
                TILE.. => keep(&tile_scores::<TILE>(run, block)),
                2.. => keep(&tile_scores::<2>(run, block)),
                _ => keep(&tile_scores::<1>(run, block)),
            };
        }
    }
    (seen, written)
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
