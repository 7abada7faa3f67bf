//! NEON: four vectors a register, four registers a block row.
//!
//! [`dot`] uses the `sdot` instruction through inline assembly (its intrinsic is not stable in Rust);
//! [`plain`] makes it of widening multiplications: single products in 16 bits, at most 127·128 = 16 256 < 2¹⁵, whose
//! pairs are added in 32. Codes are taken back to signed bytes by flipping the top bit.

use std::arch::aarch64::*;

use half::f16;

use crate::block::SCALE_MIN;

/// The kernels that multiply bytes, for one way of doing so.
macro_rules! block_kernels {
    ($features:literal, $dot:expr) => {
        use std::arch::aarch64::*;

        use crate::{block::BLOCK, simd::BlockRun, spec::Bits, topk::Tail};

        pub use super::{dot_f16, dot_f32, dot_u8, l2_f16, l2_f32, l2_u8, project_f16, quantise};

        /// Scores of the 16 vectors of one block, in four quarters.
        ///
        /// # Safety
        /// 1. The machine has the features named. 2. `run` is checked and has a block `block`.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn one_block(run: &BlockRun<'_>, block: usize) -> [f32; BLOCK] {
            let [first_at, norm_at, scale_at] = run.shape.heads(run.n_blocks());
            let (base, q) = (run.bytes.as_ptr(), run.queries[0].codes.as_ptr());
            let start = block * run.shape.code_bytes();
            // Bytes are made signed below, so only nibbles (0..=15) carry an offset.
            let offset = if run.shape.bits == Bits::B8 { 0 } else { run.offset_term(run.queries[0]) };
            let mut dots = [vdupq_n_s32(offset.wrapping_neg()); 4];
            let mut out = [0.0; BLOCK];
            // SAFETY: by 2: quarter t of row g stands at start + 64·g + 16·t, the heads at 64·block + 16·t or
            // 32·block + 8·t behind their beginnings, all inside the run; a checked query has four codes for
            // every group.
            unsafe {
                let word = |group: usize| {
                    vreinterpretq_s8_s32(vdupq_n_s32(q.add(4 * group).cast::<i32>().read_unaligned()))
                };
                let codes = |row: usize, t: usize| vld1q_u8(base.add(start + 64 * row + 16 * t));
                match run.shape.bits {
                    Bits::B8 => {
                        let flip = vdupq_n_u8(0x80);
                        for g in 0..run.shape.groups {
                            let word = word(g);
                            for t in 0..4 {
                                let signed = vreinterpretq_s8_u8(veorq_u8(codes(g, t), flip));
                                dots[t] = $dot(dots[t], signed, word);
                            }
                        }
                    }
                    Bits::B4 => {
                        let nibbles = vdupq_n_u8(15);
                        for h in 0..run.shape.groups / 2 {
                            let (low, high) = (word(2 * h), word(2 * h + 1));
                            for t in 0..4 {
                                let both = codes(h, t);
                                let lower = vreinterpretq_s8_u8(vandq_u8(both, nibbles));
                                let upper = vreinterpretq_s8_u8(vshrq_n_u8::<4>(both));
                                dots[t] = $dot(dots[t], lower, low);
                                dots[t] = $dot(dots[t], upper, high);
                            }
                        }
                    }
                }
                let first = vdupq_n_f32(run.factor * run.queries[0].first);
                let factor = vdupq_n_f32(run.factor * run.queries[0].scale);
                for t in 0..4 {
                    let float = |at: usize| vld1q_f32(base.add(at + 64 * block + 16 * t).cast());
                    let half = vld1_u16(base.add(scale_at + 32 * block + 8 * t).cast());
                    // bf16 is the upper half of an f32.
                    let scale = vreinterpretq_f32_u32(vshll_n_u16::<16>(half));
                    let norm = if run.shape.has_norm { float(norm_at) } else { vdupq_n_f32(0.0) };
                    let part = vfmaq_f32(norm, float(first_at), first);
                    let score = vfmaq_f32(part, vmulq_f32(scale, factor), vcvtq_f32_s32(dots[t]));
                    vst1q_f32(out.as_mut_ptr().add(4 * t), score);
                }
            }
            out
        }

        /// # Safety
        /// 1. The machine has the features named. 2. `run` is checked.
        #[target_feature(enable = $features)]
        pub unsafe fn block_scores(run: &BlockRun<'_>, [out]: [&mut [f32]; 1]) {
            for (block, out) in out.chunks_exact_mut(BLOCK).take(run.n_blocks()).enumerate() {
                // SAFETY: a block of the run, by 2.
                out.copy_from_slice(&unsafe { one_block(run, block) });
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
            let mut seen = start;
            while seen < run.n_vectors && tail.has_room() {
                // SAFETY: a block of the run, by 2.
                let lanes = unsafe { one_block(run, seen / BLOCK) };
                let valid = BLOCK.min(run.n_vectors - seen);
                for (position, &score) in (base..).skip(seen).zip(&lanes[..valid]) {
                    if score <= tail.threshold {
                        tail.put(score, position);
                    }
                }
                seen += BLOCK;
            }
            seen
        }
    };
}

/// NEON alone.
pub mod plain {
    #[inline]
    #[target_feature(enable = "neon")]
    fn four_products(sum: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
        let low = vmull_s8(vget_low_s8(codes), vget_low_s8(q));
        let high = vmull_high_s8(codes, q);
        vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
    }

    block_kernels!("neon", four_products);
}

/// NEON with the dot-product extension.
pub mod dot {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn four_products(sum: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
        let mut sum = sum;
        // SAFETY: one instruction of the dotprod extension on registers alone.
        unsafe {
            std::arch::asm!(
                "sdot {sum:v}.4s, {codes:v}.16b, {q:v}.16b",
                sum = inout(vreg) sum,
                codes = in(vreg) codes,
                q = in(vreg) q,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    block_kernels!("neon,dotprod", four_products);
}

/// Four half-precision numbers as floats.
///
/// # Safety
/// 1. The machine has NEON. 2. Four numbers stand at `half`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_f16(half: *const f16) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: by 2; the conversion is a base instruction on registers alone.
    unsafe {
        let bits = vld1_u16(half.cast());
        std::arch::asm!(
            "fcvtl {wide:v}.4s, {bits:v}.4h",
            wide = out(vreg) wide,
            bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    wide
}

/// # Safety
/// 1. The machine has NEON. 2. `w.len() == q.len() * y.len()`.
#[target_feature(enable = "neon")]
pub unsafe fn project_f16(w: &[f16], [(q, y)]: [(&[f32], &mut [f32]); 1]) {
    const T: usize = 8;
    let s = y.len();
    let mut at = 0;
    while at + 4 * T <= s {
        let mut sums = [vdupq_n_f32(0.0); T];
        for (i, &v) in q.iter().enumerate() {
            for (t, sum) in sums.iter_mut().enumerate() {
                // SAFETY: by 2 row i is w[i·s..(i + 1)·s] and at + 4·T ≤ s.
                *sum = vfmaq_n_f32(*sum, unsafe { load_f16(w.as_ptr().add(i * s + at + 4 * t)) }, v);
            }
        }
        for (t, sum) in sums.into_iter().enumerate() {
            // SAFETY: at + 4·T ≤ s.
            unsafe { vst1q_f32(y.as_mut_ptr().add(at + 4 * t), sum) };
        }
        at += 4 * T;
    }
    for (column, out) in y.iter_mut().enumerate().skip(at) {
        *out = q.iter().enumerate().map(|(i, v)| v * w[i * s + column].to_f32()).sum();
    }
}

/// # Safety
/// 1. The machine has NEON. 2. `codes.len() == values.len()`.
#[target_feature(enable = "neon")]
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

/// Sums a term over components: `$wide(i, sum)` adds `i..i + 4`, `$one(i)` is a single one of the tail.
macro_rules! sum_of {
    ($n:expr, $wide:expr, $one:expr) => {{
        let n = $n;
        let wide = $wide;
        let mut sums = [vdupq_n_f32(0.0); 4];
        let mut i = 0;
        while i + 16 <= n {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = wide(i + 4 * t, *sum);
            }
            i += 16;
        }
        while i + 4 <= n {
            sums[0] = wide(i, sums[0]);
            i += 4;
        }
        let sums = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
        let tail: f32 = (i..n).map($one).sum();
        vaddvq_f32(sums) + tail
    }};
}

/// # Safety
/// 1. The machine has NEON. 2. Slices are equally long.
#[target_feature(enable = "neon")]
pub unsafe fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of!(
        a.len(),
        // SAFETY: by 2; i + 4 ≤ n.
        |i: usize, sum| unsafe { vfmaq_f32(sum, vld1q_f32(a.as_ptr().add(i)), vld1q_f32(b.as_ptr().add(i))) },
        |i| a[i] * b[i]
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "neon")]
pub unsafe fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of!(
        a.len(),
        // SAFETY: by 2; i + 4 ≤ n.
        |i: usize, sum| unsafe {
            let difference = vsubq_f32(vld1q_f32(a.as_ptr().add(i)), vld1q_f32(b.as_ptr().add(i)));
            vfmaq_f32(sum, difference, difference)
        },
        |i| (a[i] - b[i]).powi(2)
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "neon")]
pub unsafe fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of!(
        a.len(),
        // SAFETY: by 2; i + 4 ≤ n.
        |i: usize, sum| unsafe { vfmaq_f32(sum, vld1q_f32(a.as_ptr().add(i)), load_f16(b.as_ptr().add(i))) },
        |i| a[i] * b[i].to_f32()
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "neon")]
pub unsafe fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of!(
        a.len(),
        // SAFETY: by 2; i + 4 ≤ n.
        |i: usize, sum| unsafe {
            let difference = vsubq_f32(vld1q_f32(a.as_ptr().add(i)), load_f16(b.as_ptr().add(i)));
            vfmaq_f32(sum, difference, difference)
        },
        |i| (a[i] - b[i].to_f32()).powi(2)
    )
}

/// Four bytes as floats.
///
/// # Safety
/// 1. The machine has NEON. 2. Four bytes stand at `codes`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_u8(codes: *const u8) -> float32x4_t {
    // SAFETY: by 2.
    let word = unsafe { codes.cast::<u32>().read_unaligned() };
    let wide = vmovl_u8(vcreate_u8(u64::from(word)));
    vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)))
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "neon")]
pub unsafe fn dot_u8(a: &[f32], codes: &[u8]) -> f32 {
    sum_of!(
        a.len(),
        // SAFETY: by 2; i + 4 ≤ n.
        |i: usize, sum| unsafe {
            vfmaq_f32(sum, vld1q_f32(a.as_ptr().add(i)), load_u8(codes.as_ptr().add(i)))
        },
        |i| a[i] * f32::from(codes[i])
    )
}

/// # Safety
/// As [`dot_f32`].
#[target_feature(enable = "neon")]
pub unsafe fn l2_u8(a: &[f32], step: &[f32], codes: &[u8]) -> f32 {
    sum_of!(
        a.len(),
        // SAFETY: by 2; i + 4 ≤ n.
        |i: usize, sum| unsafe {
            let (a, step) = (vld1q_f32(a.as_ptr().add(i)), vld1q_f32(step.as_ptr().add(i)));
            let difference = vfmsq_f32(a, step, load_u8(codes.as_ptr().add(i)));
            vfmaq_f32(sum, difference, difference)
        },
        |i| (a[i] - step[i] * f32::from(codes[i])).powi(2)
    )
}
