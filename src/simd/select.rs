//! Selection: of many scored positions those of least score, without sorting any.
//!
//! The largest score that stays is found by halving the interval of keys: each step counts the scores within a limit,
//! 16 an instruction with AVX-512.

#[cfg(target_arch = "x86_64")]
use super::Level;
use super::Simd;
use crate::topk::{key_score, order_key};

/// Scores compared at a time where the compiler makes the vectors.
const LANES: usize = 16;

impl Simd {
    /// Moves the pairs of least scores to the front, in their order: at least `keep` of them, and no more than `most` unless
    /// scores are equal. Returns their number and the largest score among them. There are more than `keep`, none is NaN.
    pub(crate) fn narrow(
        self,
        scores: &mut [f32],
        positions: &mut [u32],
        keep: usize,
        most: usize,
    ) -> (usize, f32) {
        assert_eq!(scores.len(), positions.len());
        match self.0 {
            // SAFETY: the level is only made by `available`, which has seen these features; lengths are equal.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vbmi => unsafe { narrow_avx512(scores, positions, keep, most) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx2Vnni => unsafe { narrow_avx2(scores, positions, keep, most) },
            _ => narrow(scores, positions, keep, most),
        }
    }

    /// Appends the places of the scores that are at most `margin` above the least.
    pub(crate) fn contenders(self, scores: &[f32], margin: f32, out: &mut Vec<u32>) {
        match self.0 {
            // SAFETY: the level is only made by `available`, which has seen these features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vbmi => unsafe { contenders_avx512(scores, margin, out) },
            _ => {
                let limit = bounds_of(scores).0 + margin;
                out.extend((0..).zip(scores).filter(|&(_, &score)| score <= limit).map(|(place, _)| place));
            }
        }
    }
}

/// # Safety
/// 1. The machine has AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn contenders_avx512(scores: &[f32], margin: f32, out: &mut Vec<u32>) {
    use std::arch::x86_64::*;

    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut least = _mm512_set1_ps(rest.iter().copied().fold(f32::INFINITY, f32::min));
    for chunk in chunks {
        // SAFETY: 16 scores.
        least = _mm512_min_ps(least, unsafe { _mm512_loadu_ps(chunk.as_ptr()) });
    }
    let limit = _mm512_reduce_min_ps(least) + margin;
    for (first, chunk) in (0..).step_by(LANES).zip(chunks) {
        // SAFETY: 16 scores.
        let scores = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
        let mut within = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(scores, _mm512_set1_ps(limit));
        while within != 0 {
            out.push(first + within.trailing_zeros());
            within &= within - 1;
        }
    }
    let first = scores.len() - rest.len();
    let within = rest.iter().enumerate().filter(|&(_, &score)| score <= limit);
    out.extend(within.map(|(lane, _)| u32::try_from(first + lane).unwrap_or(u32::MAX)));
}

/// The least limit within which there are at least `keep`, or a larger one with at most `most`. `bounds`: the least and
/// the largest score; `within`: how many are within a limit.
#[inline(always)]
fn limit(bounds: (f32, f32), keep: usize, most: usize, within: impl Fn(f32) -> usize) -> f32 {
    let (mut below, mut above) = (order_key(bounds.0), order_key(bounds.1));
    while below < above {
        let middle = below + (above - below) / 2;
        let n = within(key_score(middle));
        if n < keep {
            below = middle + 1;
        } else {
            above = middle;
            if n <= most {
                break;
            }
        }
    }
    key_score(above)
}

/// The least and the largest score.
#[inline(always)]
fn bounds_of(scores: &[f32]) -> (f32, f32) {
    let (mut least, mut largest) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for chunk in scores.chunks(LANES) {
        for ((least, largest), &score) in least.iter_mut().zip(&mut largest).zip(chunk) {
            *least = if score < *least { score } else { *least };
            *largest = if score > *largest { score } else { *largest };
        }
    }
    let least = least.into_iter().fold(f32::INFINITY, f32::min);
    (least, largest.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

#[inline(always)]
fn narrow(scores: &mut [f32], positions: &mut [u32], keep: usize, most: usize) -> (usize, f32) {
    let bounds = bounds_of(scores);
    let limit = limit(bounds, keep, most, |limit| {
        let (chunks, rest) = scores.as_chunks::<LANES>();
        let mut lanes = [0_u32; LANES];
        for chunk in chunks {
            for (lane, &score) in lanes.iter_mut().zip(chunk) {
                *lane += u32::from(score <= limit);
            }
        }
        lanes.iter().sum::<u32>() as usize + rest.iter().filter(|&&score| score <= limit).count()
    });
    let mut n = 0;
    for i in 0..scores.len() {
        let (score, position) = (scores[i], positions[i]);
        (scores[n], positions[n]) = (score, position);
        n += usize::from(score <= limit);
    }
    (n, limit)
}

/// # Safety
/// 1. The machine has AVX2. 2. Scores and positions are equally many.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn narrow_avx2(scores: &mut [f32], positions: &mut [u32], keep: usize, most: usize) -> (usize, f32) {
    use std::arch::x86_64::*;

    let whole = scores.len() / 8 * 8;
    // SAFETY: eight scores from `i` on, for `i` below `whole`.
    let within = |scores: &[f32], i: usize, limit: __m256| unsafe {
        _mm256_cmp_ps::<_CMP_LE_OQ>(_mm256_loadu_ps(scores.as_ptr().add(i)), limit)
    };
    let limit = limit(bounds_of(scores), keep, most, |limit| {
        let limits = _mm256_set1_ps(limit);
        let mut sum = _mm256_setzero_si256();
        for i in (0..whole).step_by(8) {
            // All bits set are −1.
            sum = _mm256_sub_epi32(sum, _mm256_castps_si256(within(scores, i, limits)));
        }
        let mut lanes = [0_u32; 8];
        // SAFETY: eight lanes.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
        lanes.iter().sum::<u32>() as usize + scores[whole..].iter().filter(|&&score| score <= limit).count()
    });
    let mut n = 0;
    let mut put = |scores: &mut [f32], i: usize| {
        (scores[n], positions[n]) = (scores[i], positions[i]);
        n += 1;
    };
    for i in (0..whole).step_by(8) {
        let mut mask = _mm256_movemask_ps(within(scores, i, _mm256_set1_ps(limit))).unsigned_abs();
        while mask != 0 {
            put(scores, i + mask.trailing_zeros() as usize);
            mask &= mask - 1;
        }
    }
    for i in whole..scores.len() {
        if scores[i] <= limit {
            put(scores, i);
        }
    }
    (n, limit)
}

/// # Safety
/// 1. The machine has AVX-512 F and BW. 2. Scores and positions are equally many.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn narrow_avx512(scores: &mut [f32], positions: &mut [u32], keep: usize, most: usize) -> (usize, f32) {
    use std::arch::x86_64::*;

    let n = scores.len();
    let lanes_at = |i: usize| if n - i >= 16 { u16::MAX } else { (1 << (n - i)) - 1 };
    let (mut least, mut largest) = (_mm512_set1_ps(f32::INFINITY), _mm512_set1_ps(f32::NEG_INFINITY));
    for i in (0..n).step_by(16) {
        // SAFETY: lanes past the end are masked and not read.
        unsafe {
            let at = scores.as_ptr().add(i);
            least = _mm512_min_ps(least, _mm512_mask_loadu_ps(least, lanes_at(i), at));
            largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(largest, lanes_at(i), at));
        }
    }
    let bounds = (_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(largest));
    let limit = limit(bounds, keep, most, |limit| {
        let (limit, one) = (_mm512_set1_ps(limit), _mm512_set1_epi32(1));
        let mut sums = [_mm512_setzero_si512(); 2];
        let mut i = 0;
        while i + 32 <= n {
            for (half, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 32 scores from i on.
                let scores = unsafe { _mm512_loadu_ps(scores.as_ptr().add(i + 16 * half)) };
                let within = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(scores, limit);
                *sum = _mm512_mask_add_epi32(*sum, within, *sum, one);
            }
            i += 32;
        }
        while i < n {
            // SAFETY: lanes past the end are masked and not read.
            let scores = unsafe { _mm512_maskz_loadu_ps(lanes_at(i), scores.as_ptr().add(i)) };
            let within = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(lanes_at(i), scores, limit);
            sums[0] = _mm512_mask_add_epi32(sums[0], within, sums[0], one);
            i += 16;
        }
        _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])).unsigned_abs() as usize
    });
    let mut written = 0;
    for i in (0..n).step_by(16) {
        // SAFETY: lanes past the end are masked and not read. At most as many are written as have been read, and no more
        // than there are, so nothing is overwritten before it is read.
        unsafe {
            let score = _mm512_maskz_loadu_ps(lanes_at(i), scores.as_ptr().add(i));
            let position = _mm512_maskz_loadu_epi32(lanes_at(i), positions.as_ptr().add(i).cast());
            let within = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(lanes_at(i), score, _mm512_set1_ps(limit));
            let count = within.count_ones() as usize;
            let places = if count == 16 { u16::MAX } else { (1 << count) - 1 };
            let (to_scores, to_positions) =
                (scores.as_mut_ptr().add(written), positions.as_mut_ptr().add(written));
            _mm512_mask_storeu_ps(to_scores, places, _mm512_maskz_compress_ps(within, score));
            let position = _mm512_maskz_compress_epi32(within, position);
            _mm512_mask_storeu_epi32(to_positions.cast(), places, position);
            written += count;
        }
    }
    (written, limit)
}
