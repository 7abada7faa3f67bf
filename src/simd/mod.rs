//! Leaf kernels: the few inner loops where queries spend their time, once per instruction set.
//!
//! A [`Simd`] is a token: it can only be had by detection on the running machine (or as the portable
//! fallback), so calling one of its methods never reaches an instruction the machine lacks. Detection
//! happens once; a lower token than the best can be asked for by name, which is how every path is tested
//! on one machine.
//!
//! Integer results are equal on every token. Float sums are taken in an order that suits each
//! instruction set and differ by rounding only.

use std::fmt;

use half::f16;

use crate::{
    block::{BLOCK, BlockQuery, BlockShape},
    spec::Bits,
    topk::{Candidates, fill},
};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod pq;
#[cfg(target_arch = "aarch64")]
mod pq_neon;
#[cfg(target_arch = "x86_64")]
mod pq_x86;
mod scalar;
mod select;

pub(crate) use portable::{CodeRoom, Codebooks, Points};
pub(crate) use pq::PqRun;

/// An instruction set that this machine has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Simd(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Scalar,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi,
}

/// A run of blocks and the queries they meet together.
#[derive(Clone, Copy)]
pub(crate) struct BlockRun<'a, const N: usize = 1> {
    /// Shape of each block.
    pub shape: BlockShape,
    /// The run, as `block.rs` lays it out.
    pub bytes: &'a [u8],
    /// Vectors in it; the last block may be partly filled.
    pub n_vectors: usize,
    /// The queries.
    pub queries: [&'a BlockQuery; N],
    /// Factor on the product with a query.
    pub factor: f32,
}

impl<'a, const N: usize> BlockRun<'a, N> {
    fn check(&self) {
        assert!(self.bytes.len() >= self.shape.run_bytes(self.n_blocks()), "the run is cut short");
        let longest = self.queries.iter().all(|query| query.codes.len() >= self.shape.query_len());
        assert!(longest, "a query is shorter than the blocks");
    }

    /// The same run for one of its queries.
    fn alone(&self, query: &'a BlockQuery) -> BlockRun<'a> {
        BlockRun {
            shape: self.shape,
            bytes: self.bytes,
            n_vectors: self.n_vectors,
            queries: [query],
            factor: self.factor,
        }
    }

    fn n_blocks(&self) -> usize {
        self.n_vectors.div_ceil(BLOCK)
    }

    /// What the unsigned codes add to every integer product with a query.
    fn offset_term(&self, query: &BlockQuery) -> i32 {
        let offset = match self.shape.bits {
            Bits::B8 => 128,
            Bits::B4 => 8,
        };
        query.sum.wrapping_mul(offset)
    }
}

/// Calls the same kernel of the module that belongs to the level.
macro_rules! dispatch {
    ($self:ident, $kernel:ident ( $($arg:expr),* )) => {
        match $self.0 {
            Level::Scalar => scalar::$kernel($($arg),*),
            // SAFETY: the level is only made by `available`, which has seen every feature the module
            // enables on this machine.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon::plain::$kernel($($arg),*) },
            // SAFETY: as above, `dotprod` included.
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => unsafe { neon::dot::$kernel($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::plain::$kernel($($arg),*) },
            // SAFETY: as above, `avxvnni` included.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni => unsafe { avx2::vnni::$kernel($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vbmi => unsafe { avx512::$kernel($($arg),*) },
        }
    };
}

impl Simd {
    /// Every instruction set of this machine that has kernels here, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self(Level::Scalar)];
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("neon") {
                levels.push(Self(Level::Neon));
                if std::arch::is_aarch64_feature_detected!("dotprod") {
                    levels.push(Self(Level::NeonDot));
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                levels.push(Self(Level::Avx2));
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                levels.push(Self(Level::Avx2Vnni));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
            {
                levels.push(Self(Level::Avx512));
                if is_x86_feature_detected!("avx512vbmi") {
                    levels.push(Self(Level::Avx512Vbmi));
                }
            }
        }
        levels
    }

    /// The best of [`Simd::available`].
    #[must_use]
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self(Level::Scalar))
    }

    /// The token of this name, if the machine has it: `scalar`, `avx2`, `avx2-vnni`, `avx512-vnni`,
    /// `avx512-vbmi`, `neon`, `neon-dotprod`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::available().into_iter().find(|simd| simd.name() == name)
    }

    /// The token's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => "neon-dotprod",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni => "avx2-vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vbmi => "avx512-vbmi",
        }
    }

    /// Whether kernels take several queries at a time.
    pub(crate) fn takes_several(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Level::Avx512 | Level::Avx512Vbmi);
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// `y = qW` for pairs of a query and its result. `w`: `[q.len(), y.len()]` row-major.
    pub(crate) fn project_f16<const N: usize>(self, w: &[f16], pairs: [(&[f32], &mut [f32]); N]) {
        let (d, s) = pairs.first().map_or((0, 0), |(q, y)| (q.len(), y.len()));
        assert!(w.len() == d * s && pairs.iter().all(|(q, y)| q.len() == d && y.len() == s));
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512 | Level::Avx512Vbmi = self.0 {
            // SAFETY: the level is only made by `available`, which has seen the features; lengths are as asserted.
            return unsafe { avx512::project_f16(w, pairs) };
        }
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx2 | Level::Avx2Vnni = self.0 {
            // SAFETY: as above.
            return unsafe { avx2::project_f16(w, pairs) };
        }
        for pair in pairs {
            dispatch!(self, project_f16(w, [pair]));
        }
    }

    /// Rounds `values` to int8 with one scale, absmax / 127; `codes` beyond them become zero.
    /// Returns the scale and the sum of the codes.
    pub(crate) fn quantise(self, values: &[f32], codes: &mut [i8]) -> (f32, i32) {
        assert!(codes.len() >= values.len());
        codes[values.len()..].fill(0);
        dispatch!(self, quantise(values, &mut codes[..values.len()]))
    }

    /// Products of each query with all vectors of whole blocks: `out[i] = factor · product_i + norm_i`.
    pub(crate) fn block_scores<const N: usize>(self, run: BlockRun<'_, N>, out: [&mut [f32]; N]) {
        run.check();
        assert!(out.iter().all(|out| out.len() >= run.n_blocks() * BLOCK));
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512 | Level::Avx512Vbmi = self.0 {
            // SAFETY: the level is only made by `available`, which has seen the features; the rest is checked.
            return unsafe { avx512::block_scores(&run, out) };
        }
        for (query, out) in run.queries.into_iter().zip(out) {
            dispatch!(self, block_scores(&run.alone(query), [out]));
        }
    }

    /// Offers every vector's score to each query's candidates, vector `i` under position `base + i`.
    pub(crate) fn scan_blocks<const N: usize>(
        self,
        run: BlockRun<'_, N>,
        base: u32,
        kept: [&mut Candidates; N],
        id_of: &impl Fn(u32) -> u64,
    ) {
        run.check();
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512 | Level::Avx512Vbmi = self.0 {
            // SAFETY: the level is only made by `available`, which has seen the features; the run is checked.
            return fill(kept, run.n_vectors, id_of, |seen, tails| unsafe {
                Some(avx512::scan_blocks(&run, seen, base, tails))
            });
        }
        for (query, kept) in run.queries.into_iter().zip(kept) {
            let run = run.alone(query);
            fill([kept], run.n_vectors, id_of, |seen, tails| {
                Some(dispatch!(self, scan_blocks(&run, seen, base, tails)))
            });
        }
    }

    /// `Σ a_i·b_i`.
    pub(crate) fn dot_f32(self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        dispatch!(self, dot_f32(a, b))
    }

    /// `Σ (a_i − b_i)²`.
    pub(crate) fn l2_f32(self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        dispatch!(self, l2_f32(a, b))
    }

    /// `Σ a_i·b_i` with half-precision `b`.
    pub(crate) fn dot_f16(self, a: &[f32], b: &[f16]) -> f32 {
        assert_eq!(a.len(), b.len());
        dispatch!(self, dot_f16(a, b))
    }

    /// `Σ (a_i − b_i)²` with half-precision `b`.
    pub(crate) fn l2_f16(self, a: &[f32], b: &[f16]) -> f32 {
        assert_eq!(a.len(), b.len());
        dispatch!(self, l2_f16(a, b))
    }

    /// `Σ a_i·c_i` with byte codes `c`.
    pub(crate) fn dot_u8(self, a: &[f32], codes: &[u8]) -> f32 {
        assert_eq!(a.len(), codes.len());
        dispatch!(self, dot_u8(a, codes))
    }

    /// `Σ (a_i − step_i·c_i)²` with byte codes `c`.
    pub(crate) fn l2_u8(self, a: &[f32], step: &[f32], codes: &[u8]) -> f32 {
        assert_eq!((a.len(), a.len()), (step.len(), codes.len()));
        dispatch!(self, l2_u8(a, step, codes))
    }
}

impl fmt::Debug for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes asked for ahead, at most: half of a second-level cache, so that what is being scanned stays there. (Lists of 3.7 MB
/// asked for whole: a third fewer queries.)
#[cfg(target_arch = "x86_64")]
const AHEAD_MAX: usize = 512 << 10;

/// Asks for `bytes`, as far as there is room, to be brought into the second-level cache; a hint, without effect on results.
///
/// Not into the first level: its few miss buffers would hold up the loads of the row being scored. On a Zen 4
/// core, f32 rows of 784 dimensions took 0.19 µs each this way and 0.38 µs with the first level as target.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes[..bytes.len().min(AHEAD_MAX)].chunks(64) {
        // SAFETY: prefetching has no effect but on the cache, and the address is inside a slice.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests;
