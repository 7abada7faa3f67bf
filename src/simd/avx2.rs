//! AVX2 with FMA and F16C: 8 vectors a register, two registers a block row.
//!
//! [`vnni`] has the four-byte dot product as one instruction. [`plain`] makes it of three: with codes taken
//! back to signed bytes, `maddubs(|q|, sign(code, q))` adds neighbouring products in 16 bits, at most
//! 2·127·127 = 32 258 < 2¹⁵, so nothing saturates; `madd` with ones adds the pairs.

use std::arch::x86_64::*;

use half::f16;

use crate::block::SCALE_MIN;

/// The kernels that multiply bytes, for one way of doing so.
macro_rules! block_kernels {
    ($features:literal, $signed:expr, $dot:expr) => {
        use std::arch::x86_64::*;

        use crate::{block::BLOCK, simd::BlockRun, spec::Bits, topk::Tail};

        /// Scores of the 16 vectors of one block, in two halves.
        ///
        /// # Safety
        /// 1. The machine has the features named. 2. `run` is checked and has a block `block`.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn one_block(run: &BlockRun<'_>, block: usize) -> [__m256; 2] {
            let [first_at, norm_at, scale_at] = run.shape.heads(run.n_blocks());
            let (base, q) = (run.bytes.as_ptr(), run.queries[0].codes.as_ptr());
            let start = block * run.shape.code_bytes();
            let offset =
                if $signed && run.shape.bits == Bits::B8 { 0 } else { run.offset_term(run.queries[0]) };
            let mut dots = [_mm256_set1_epi32(offset.wrapping_neg()); 2];
            // SAFETY: by 2: half t of row g stands at start + 64·g + 32·t, the heads at 64·block + 32·t or
            // 32·block + 16·t behind their beginnings, all inside the run; a checked query has four codes
            // for every group.
            unsafe {
                let word = |group: usize| _mm256_set1_epi32(q.add(4 * group).cast::<i32>().read_unaligned());
                let codes =
                    |row: usize, t: usize| _mm256_loadu_si256(base.add(start + 64 * row + 32 * t).cast());
                match run.shape.bits {
                    Bits::B8 => {
                        for g in 0..run.shape.groups {
                            let word = word(g);
                            for t in 0..2 {
                                dots[t] = $dot(dots[t], codes(g, t), word, $signed);
                            }
                        }
                    }
                    Bits::B4 => {
                        let nibbles = _mm256_set1_epi8(15);
                        for h in 0..run.shape.groups / 2 {
                            let (low, high) = (word(2 * h), word(2 * h + 1));
                            for t in 0..2 {
                                let both = codes(h, t);
                                let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibbles);
                                dots[t] = $dot(dots[t], _mm256_and_si256(both, nibbles), low, false);
                                dots[t] = $dot(dots[t], upper, high, false);
                            }
                        }
                    }
                }
                let first = _mm256_set1_ps(run.factor * run.queries[0].first);
                let factor = _mm256_set1_ps(run.factor * run.queries[0].scale);
                let mut scores = [_mm256_setzero_ps(); 2];
                for t in 0..2 {
                    let float = |at: usize| _mm256_loadu_ps(base.add(at + 64 * block + 32 * t).cast());
                    let half = _mm_loadu_si128(base.add(scale_at + 32 * block + 16 * t).cast());
                    // bf16 is the upper half of an f32.
                    let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
                    let norm = if run.shape.has_norm { float(norm_at) } else { _mm256_setzero_ps() };
                    let part = _mm256_fmadd_ps(float(first_at), first, norm);
                    let dot = _mm256_cvtepi32_ps(dots[t]);
                    scores[t] = _mm256_fmadd_ps(_mm256_mul_ps(scale, factor), dot, part);
                }
                scores
            }
        }

        /// # Safety
        /// 1. The machine has the features named. 2. `run` is checked.
        #[target_feature(enable = $features)]
        pub unsafe fn block_scores(run: &BlockRun<'_>, [out]: [&mut [f32]; 1]) {
            for (block, out) in out.chunks_exact_mut(BLOCK).take(run.n_blocks()).enumerate() {
                // SAFETY: a block of the run, by 2, and 16 places.
                unsafe {
                    let [low, high] = one_block(run, block);
                    _mm256_storeu_ps(out.as_mut_ptr(), low);
                    _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
                }
            }
        }

        /// Writes survivors from vector `start` on until the tail may overflow; returns where it stopped.
        ///
        /// # Safety
        /// 1. The machine has the features named. 2. `run` is checked.
        #[target_feature(enable = $features)]
        pub unsafe fn scan_blocks(
            run: &BlockRun<'_>,
            start: usize,
            base: u32,
            [tail]: &mut [Tail<'_>; 1],
        ) -> usize {
            let limit = _mm256_set1_ps(tail.threshold);
            let mut seen = start;
            while seen < run.n_vectors && tail.has_room() {
                // SAFETY: a block of the run, by 2.
                let halves = unsafe { one_block(run, seen / BLOCK) };
                let mask = |half: __m256| {
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(half, limit)).unsigned_abs()
                };
                let mut mask = mask(halves[0]) | mask(halves[1]) << 8;
                if run.n_vectors - seen < BLOCK {
                    mask &= (1 << (run.n_vectors - seen)) - 1;
                }
                if mask != 0 {
                    let mut lanes = [0.0_f32; BLOCK];
                    // SAFETY: 16 places.
                    unsafe {
                        _mm256_storeu_ps(lanes.as_mut_ptr(), halves[0]);
                        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), halves[1]);
                    }
                    while mask != 0 {
                        let lane = mask.trailing_zeros();
                        #[allow(clippy::cast_possible_truncation, reason = "positions are u32")]
                        tail.put(lanes[lane as usize], base + seen as u32 + lane);
                        mask &= mask - 1;
                    }
                }
                seen += BLOCK;
            }
            seen
        }
    };
}

/// AVX2 alone.
pub mod plain {
    pub use super::{dot_f16, dot_f32, dot_u8, l2_f16, l2_f32, l2_u8, project_f16, quantise};

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn dot(sum: __m256i, codes: __m256i, q: __m256i, signed: bool) -> __m256i {
        let pairs = if signed {
            let codes = _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
            _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(codes, q))
        } else {
            _mm256_maddubs_epi16(codes, q)
        };
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    block_kernels!("avx2,fma,f16c", true, dot);
}

/// AVX2 with AVX-VNNI.
pub mod vnni {
    pub use super::{dot_f16, dot_f32, dot_u8, l2_f16, l2_f32, l2_u8, project_f16, quantise};

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn dot(sum: __m256i, codes: __m256i, q: __m256i, _signed: bool) -> __m256i {
        _mm256_dpbusd_avx_epi32(sum, codes, q)
    }

    block_kernels!("avx2,fma,f16c,avxvnni", false, dot);
}

/// # Safety
/// 1. The machine has AVX2, FMA and F16C. 2. All `q` have one length and all `y` another, `w.len()` is their product.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn project_f16<const N: usize>(w: &[f16], mut pairs: [(&[f32], &mut [f32]); N]) {
    let s = pairs.first().map_or(0, |(_, y)| y.len());
    let mut at = 0;
    while at < s {
        // Of 16 registers, eight sum.
        // SAFETY: by 2; as many columns stand at `at`, of the last register at least one.
        at += unsafe {
            match s - at {
                64.. if N == 1 => project_columns::<8, N>(w, &mut pairs, at),
                32.. if N == 1 => project_columns::<4, N>(w, &mut pairs, at),
                16.. => project_columns::<2, N>(w, &mut pairs, at),
                _ => project_columns::<1, N>(w, &mut pairs, at),
            }
        };
    }
}

/// Columns `at..at + 8·T`, or up to the last: one accumulator a register and query, W streamed once.
///
/// # Safety
/// 1. The machine has AVX2, FMA and F16C. 2. As [`project_f16`], and `y` is longer than `at + 8·(T − 1)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn project_columns<const T: usize, const N: usize>(
    w: &[f16],
    pairs: &mut [(&[f32], &mut [f32]); N],
    at: usize,
) -> usize {
    let (d, s) = pairs.first().map_or((0, 0), |(q, y)| (q.len(), y.len()));
    let queries = pairs.each_ref().map(|(q, _)| q.as_ptr());
    let mut sums = [[_mm256_setzero_ps(); T]; N];
    // Where the last register is not full its lanes go on into the next row, and are not kept; of the last rows, after which there
    // are too few weights, a copy is read.
    let n_columns = (s - at).min(8 * T);
    let whole = (w.len() + s).saturating_sub(at + 8 * T) / s.max(1);
    let mut last = [f16::ZERO; 64];
    for i in 0..d {
        // SAFETY: by 2 every query has d values. Row i is w[i·s..(i + 1)·s]: for i < whole i·s + at + 8·T ≤ w.len(), and the copy has
        // 64 values, of which 8·T are read.
        unsafe {
            let weights = if i < whole {
                w.as_ptr().add(i * s + at)
            } else {
                last[..n_columns].copy_from_slice(&w[i * s + at..i * s + at + n_columns]);
                last.as_ptr()
            };
            let row: [__m256; T] =
                std::array::from_fn(|t| _mm256_cvtph_ps(_mm_loadu_si128(weights.add(8 * t).cast())));
            for (sums, q) in sums.iter_mut().zip(queries) {
                let v = _mm256_set1_ps(*q.add(i));
                for (sum, row) in sums.iter_mut().zip(row) {
                    *sum = _mm256_fmadd_ps(v, row, *sum);
                }
            }
        }
    }
    for (sums, (_, y)) in sums.iter().zip(pairs) {
        for (sum, y) in sums.iter().zip(y[at..].chunks_mut(8)) {
            let mut lanes = [0.0; 8];
            // SAFETY: the array has eight places.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), *sum) };
            y.copy_from_slice(&lanes[..y.len()]);
        }
    }
    8 * T
}

/// # Safety
/// 1. The machine has AVX2, FMA and F16C. 2. `codes.len() == values.len()`.
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::cast_possible_truncation, reason = "|v·inverse| is at most 127 and a half")]
pub unsafe fn quantise(values: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let absmax = values.iter().fold(0.0_f32, |m, v| v.abs().max(m));
    let scale = absmax / 127.0;
    let inverse = if scale >= SCALE_MIN { 1.0 / scale } else { 0.0 };
    let mut sum = 0;
    for (code, v) in codes.iter_mut().zip(values) {
        *code = (v * inverse).round_ties_even() as i8;
        sum += i32::from(*code);
    }
    (scale, sum)
}

/// Sum of a register's eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_lanes(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// Sums a term over components: `$wide(i, sum)` adds `i..i + 8`, `$one(i)` is a single one of the tail.
macro_rules! sum_of {
    ($n:expr, $wide:expr, $one:expr) => {{
        let n = $n;
        let wide = $wide;
        let mut sums = [_mm256_setzero_ps(); 4];
        let mut i = 0;
        while i + 32 <= n {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = wide(i + 8 * t, *sum);
            }
            i += 32;
        }
        while i + 8 <= n {
            sums[0] = wide(i, sums[0]);
            i += 8;
        }
        let sums = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
        let tail: f32 = (i..n).map($one).sum();
        add_lanes(sums) + tail
    }};
}

/// # Safety
/// 1. The machine has AVX2, FMA and F16C. 2. Slices are equally long.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of!(
        a.len(),
        |i: usize, sum| {
            // SAFETY: by 2; i + 8 ≤ n.
            let (a, b) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(i)), _mm256_loadu_ps(b.as_ptr().add(i))) };
            _mm256_fmadd_ps(a, b, sum)
        },
        |i| a[i] * b[i]
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of!(
        a.len(),
        |i: usize, sum| {
            // SAFETY: by 2; i + 8 ≤ n.
            let (a, b) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(i)), _mm256_loadu_ps(b.as_ptr().add(i))) };
            let difference = _mm256_sub_ps(a, b);
            _mm256_fmadd_ps(difference, difference, sum)
        },
        |i| (a[i] - b[i]).powi(2)
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of!(
        a.len(),
        |i: usize, sum| {
            // SAFETY: by 2; i + 8 ≤ n.
            let (a, b) =
                unsafe { (_mm256_loadu_ps(a.as_ptr().add(i)), _mm_loadu_si128(b.as_ptr().add(i).cast())) };
            _mm256_fmadd_ps(a, _mm256_cvtph_ps(b), sum)
        },
        |i| a[i] * b[i].to_f32()
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of!(
        a.len(),
        |i: usize, sum| {
            // SAFETY: by 2; i + 8 ≤ n.
            let (a, b) =
                unsafe { (_mm256_loadu_ps(a.as_ptr().add(i)), _mm_loadu_si128(b.as_ptr().add(i).cast())) };
            let difference = _mm256_sub_ps(a, _mm256_cvtph_ps(b));
            _mm256_fmadd_ps(difference, difference, sum)
        },
        |i| (a[i] - b[i].to_f32()).powi(2)
    )
}

/// Eight bytes as floats.
///
/// # Safety
/// 1. The machine has AVX2. 2. Eight bytes stand at `codes`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_u8(codes: *const u8) -> __m256 {
    // SAFETY: by 2.
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(codes.cast()) }))
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_u8(a: &[f32], codes: &[u8]) -> f32 {
    sum_of!(
        a.len(),
        |i: usize, sum| {
            // SAFETY: by 2; i + 8 ≤ n.
            let (a, c) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(i)), load_u8(codes.as_ptr().add(i))) };
            _mm256_fmadd_ps(a, c, sum)
        },
        |i| a[i] * f32::from(codes[i])
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn l2_u8(a: &[f32], step: &[f32], codes: &[u8]) -> f32 {
    sum_of!(
        a.len(),
        |i: usize, sum| {
            // SAFETY: by 2; i + 8 ≤ n.
            let (a, step, c) = unsafe {
                (
                    _mm256_loadu_ps(a.as_ptr().add(i)),
                    _mm256_loadu_ps(step.as_ptr().add(i)),
                    load_u8(codes.as_ptr().add(i)),
                )
            };
            let difference = _mm256_fnmadd_ps(step, c, a);
            _mm256_fmadd_ps(difference, difference, sum)
        },
        |i| (a[i] - step[i] * f32::from(codes[i])).powi(2)
    )
}
