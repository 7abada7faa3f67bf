//! Interleaved integer blocks: the one layout for everything multiplied with an int8 query.
//!
//! Centroids, the columns of a regression's A and the columns of its B are all "vectors that meet a
//! quantised query". They stand in blocks of 16, so that one 512-bit dot-product instruction serves 16
//! of them without a horizontal sum, and 16 GPU lanes read 64 consecutive bytes:
//!
//! ```text
//! codes  [n_blocks] of  x8: [groups][16][4] u8    code + 128, four components of one vector a word
//!                       x4: [groups/2][16][4] u8  byte j: component 8g+j in the low nibble, 8g+4+j in the
//!                                                 high one; code + 8
//! first  [n_blocks][16] f32                       the component kept in f32
//! norm   [n_blocks][16] f32                       only where the metric needs an additive term
//! scale  [n_blocks][16] bf16                      value of one code step; codes are made for the rounded scale
//! ```
//!
//! The product with a query `(first: f, codes: q, scale: qs)` is
//! `norm + f·first + (qs·scale)·Σ q_i·code_i`. Codes are stored with an offset so that they are unsigned:
//! `Σ q_i·(code_i + 128) = Σ q_i·code_i + 128·Σ q_i`, and the last term depends on the query alone.
//! The integer sum is bounded by 65 536 · 127 · 255 = 2 122 383 360 < 2³¹. A run is padded to a cache line, and
//! every block's codes begin on one.

use half::bf16;

use crate::{format::ALIGN, simd::Simd, spec::Bits};

/// Vectors in a block: one 512-bit register of 32-bit lanes.
pub(crate) const BLOCK: usize = 16;

/// Smallest scale of a quantised query: below it 1 / scale is not a finite f32, and all codes are 0.
pub(crate) const SCALE_MIN: f32 = f32::MIN_POSITIVE;

/// Shape of a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockShape {
    /// Groups of four quantised components; even for 4 bits.
    pub groups: usize,
    /// Width of a code.
    pub bits: Bits,
    /// Whether an additive term stands before the codes.
    pub has_norm: bool,
}

impl BlockShape {
    /// The shape for vectors of `n_quantised` integer components.
    pub fn new(n_quantised: usize, bits: Bits, has_norm: bool) -> Self {
        let step = match bits {
            Bits::B8 => 4,
            Bits::B4 => 8,
        };
        Self { groups: n_quantised.div_ceil(step) * step / 4, bits, has_norm }
    }

    /// Bytes of one block's codes, a multiple of a cache line.
    pub fn code_bytes(self) -> usize {
        self.groups * BLOCK * 4 * self.bits.count() / 8
    }

    /// Where the firsts, the norms and the scales of a run of `n_blocks` begin.
    pub fn heads(self, n_blocks: usize) -> [usize; 3] {
        let first = n_blocks * self.code_bytes();
        let norm = first + n_blocks * BLOCK * 4;
        [first, norm, norm + if self.has_norm { n_blocks * BLOCK * 4 } else { 0 }]
    }

    /// Bytes of a run of `n_blocks`.
    pub fn run_bytes(self, n_blocks: usize) -> usize {
        (self.heads(n_blocks)[2] + n_blocks * BLOCK * 2).next_multiple_of(ALIGN)
    }

    /// Integer components a query needs, padding included.
    pub fn query_len(self) -> usize {
        self.groups * 4
    }

    /// Writes a run of vectors, each `(first, quantised components, norm)`; places left over in the last block
    /// hold zeros. `out`: [`BlockShape::run_bytes`] long.
    pub fn encode<'v>(self, vectors: impl ExactSizeIterator<Item = (f32, &'v [f32], f32)>, out: &mut [u8]) {
        let simd = Simd::detect();
        let n_blocks = vectors.len().div_ceil(BLOCK);
        let [first_at, norm_at, scale_at] = self.heads(n_blocks);
        let (codes, heads) = out.split_at_mut(first_at);
        heads.fill(0);
        codes.fill(match self.bits {
            Bits::B8 => 0x80,
            Bits::B4 => 0x88,
        });
        for (i, (first, components, norm)) in vectors.enumerate() {
            let (block, lane) = (i / BLOCK, i % BLOCK);
            let codes = &mut codes[block * self.code_bytes()..(block + 1) * self.code_bytes()];
            let scale = match self.bits {
                Bits::B8 => stored_scale(absmax(components) / 127.0),
                Bits::B4 => best_scale(simd, components, 7.0),
            };
            let mut put = |at: usize, bytes: &[u8]| {
                let at = at - first_at + i * bytes.len();
                heads[at..at + bytes.len()].copy_from_slice(bytes);
            };
            put(first_at, &first.to_le_bytes());
            if self.has_norm {
                put(norm_at, &norm.to_le_bytes());
            }
            put(scale_at, &scale.to_le_bytes());
            let scale = scale.to_f32();
            let step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for (i, &v) in components.iter().enumerate() {
                match self.bits {
                    Bits::B8 => {
                        codes[((i / 4) * BLOCK + lane) * 4 + i % 4] = code(v, step, 127.0).wrapping_add(128);
                    }
                    Bits::B4 => {
                        let nibble = code(v, step, 7.0).wrapping_add(8) & 15;
                        let byte = &mut codes[((i / 8) * BLOCK + lane) * 4 + i % 4];
                        *byte =
                            if i % 8 < 4 { (*byte & 0xf0) | nibble } else { (*byte & 0x0f) | (nibble << 4) };
                    }
                }
            }
        }
    }

    /// Scale and first component of vector `i` in a run of `n_blocks`.
    pub fn head(self, run: &[u8], n_blocks: usize, i: usize) -> (f32, f32) {
        let [first_at, _, scale_at] = self.heads(n_blocks);
        let (first, scale) = (first_at + 4 * i, scale_at + 2 * i);
        let first = f32::from_le_bytes([run[first], run[first + 1], run[first + 2], run[first + 3]]);
        (bf16::from_le_bytes([run[scale], run[scale + 1]]).to_f32(), first)
    }

    /// What is added to the score of vector `i` in a run of `n_blocks`.
    pub fn norm(self, run: &[u8], n_blocks: usize, i: usize) -> f32 {
        let at = self.heads(n_blocks)[1] + i * 4;
        if self.has_norm { f32::from_le_bytes([run[at], run[at + 1], run[at + 2], run[at + 3]]) } else { 0.0 }
    }

    /// Scale, first component, norm and codes of vector `i` in a run of `n_blocks`: the layout's meaning.
    pub fn decode(self, run: &[u8], n_blocks: usize, i: usize) -> (f32, f32, f32, Vec<i32>) {
        let (scale, first) = self.head(run, n_blocks, i);
        let norm = self.norm(run, n_blocks, i);
        let codes = &run[i / BLOCK * self.code_bytes()..];
        let lane = i % BLOCK;
        let codes = (0..self.query_len())
            .map(|i| match self.bits {
                Bits::B8 => i32::from(codes[((i / 4) * BLOCK + lane) * 4 + i % 4]) - 128,
                Bits::B4 => {
                    let byte = codes[((i / 8) * BLOCK + lane) * 4 + i % 4];
                    i32::from(if i % 8 < 4 { byte & 15 } else { byte >> 4 }) - 8
                }
            })
            .collect();
        (scale, first, norm, codes)
    }
}

/// A query ready for blocks: first component in f32, the rest int8 with one scale.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockQuery {
    /// The component kept in f32.
    pub first: f32,
    /// Value of one code step.
    pub scale: f32,
    /// Sum of the codes.
    pub sum: i32,
    /// Codes, zero-padded.
    pub codes: Vec<i8>,
}

impl BlockQuery {
    /// Quantises `values`, the first of which stays as it is.
    pub fn quantise(&mut self, simd: Simd, values: &[f32], query_len: usize) {
        self.codes.resize(query_len, 0);
        self.first = values[0];
        (self.scale, self.sum) = simd.quantise(&values[1..], &mut self.codes);
    }

    /// The quantisation's meaning: codes of absmax/127, ties to even.
    #[allow(clippy::cast_possible_truncation, reason = "|v / scale| is at most 127 and a half")]
    pub fn quantise_reference(first: f32, values: &[f32], query_len: usize) -> Self {
        let scale = absmax(values) / 127.0;
        let inverse = if scale >= SCALE_MIN { 1.0 / scale } else { 0.0 };
        let mut codes: Vec<i8> = values.iter().map(|v| (v * inverse).round_ties_even() as i8).collect();
        codes.resize(query_len, 0);
        Self { first, scale, sum: codes.iter().map(|&c| i32::from(c)).sum(), codes }
    }

    /// `norm + factor·product` with vector `i` of a run, which lies where it does: few cache lines of many hold it.
    pub fn score(&self, shape: BlockShape, run: &[u8], n_blocks: usize, i: usize, factor: f32) -> f32 {
        debug_assert!(matches!(shape.bits, Bits::B8), "only bytes are met one at a time");
        let (scale, first) = shape.head(run, n_blocks, i);
        let block = &run[i / BLOCK * shape.code_bytes()..][..shape.code_bytes()];
        let lanes = block.as_chunks::<4>().0.iter().skip(i % BLOCK).step_by(BLOCK);
        let groups = lanes.zip(self.codes.as_chunks::<4>().0);
        let dot: i32 = groups
            .map(|(codes, query)| {
                let terms = codes.iter().zip(query).map(|(&c, &q)| (i32::from(c) - 128) * i32::from(q));
                terms.sum::<i32>()
            })
            .sum();
        let part = first.mul_add(factor * self.first, shape.norm(run, n_blocks, i));
        (scale * (factor * self.scale)).mul_add(dot as f32, part)
    }

    /// The product's meaning: `norm + factor·product` with vector `i` of a run, in the order and with the
    /// fused steps that the SIMD kernels take.
    pub fn score_reference(
        &self,
        shape: BlockShape,
        run: &[u8],
        n_blocks: usize,
        i: usize,
        factor: f32,
    ) -> f32 {
        let (scale, first, norm, codes) = shape.decode(run, n_blocks, i);
        let dot: i32 = codes.iter().zip(&self.codes).map(|(&c, &q)| c * i32::from(q)).sum();
        let part = first.mul_add(factor * self.first, norm);
        (scale * (factor * self.scale)).mul_add(dot as f32, part)
    }
}

/// A scale as stored: to the nearest of bf16's values, which are finer (1/256) than a code step of 127.
fn stored_scale(scale: f32) -> bf16 {
    bf16::from_f32(scale)
}

fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| v.abs().max(m))
}

/// `v` to the nearest integer, ties to even, for |v| below 2²². Adding 1.5·2²³ leaves no bit for fractions;
/// unlike `round_ties_even` this is two additions on every instruction set.
#[inline(always)]
pub(crate) fn nearest(v: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (v + SHIFT) - SHIFT
}

/// The code of `v` as an unsigned byte in two's complement.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a signed byte")]
fn code(v: f32, step: f32, limit: f32) -> u8 {
    nearest((v * step).clamp(-limit, limit)) as i8 as u8
}

/// The scale of least squared error among absmax/limit and shrunk ones: with few codes, clipping the
/// largest value a little costs less than coarse steps everywhere.
fn best_scale(simd: Simd, values: &[f32], limit: f32) -> bf16 {
    // Down to 0.54·absmax; a Gaussian's optimum for 15 levels lies near 0.8.
    const SHARES: [f32; 24] = {
        let mut shares = [1.0; 24];
        let mut i = 1;
        while i < shares.len() {
            shares[i] = 1.0 - 0.02 * i as f32;
            i += 1;
        }
        shares
    };
    simd.best_scale(values, absmax(values) / limit, limit, &SHARES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoding_is_within_half_a_step(
            values in proptest::collection::vec(-100.0_f32..100.0, 1..70),
            lane in 0..3 * BLOCK,
            has_norm in any::<bool>(),
        ) {
            let shape = BlockShape::new(values.len(), Bits::B8, has_norm);
            let mut vectors = vec![(0.0, &[][..], 0.0); lane];
            vectors.push((3.5, &values, 7.25));
            let n_blocks = vectors.len().div_ceil(BLOCK);
            let mut bytes = vec![0; shape.run_bytes(n_blocks)];
            shape.encode(vectors.into_iter(), &mut bytes);
            let (scale, first, norm, codes) = shape.decode(&bytes, n_blocks, lane);
            prop_assert_eq!((first, norm), (3.5, if has_norm { 7.25 } else { 0.0 }));
            for (v, c) in values.iter().zip(&codes) {
                // Half a step, and what rounding the scale may clip off the largest value: 127/256 of one.
                prop_assert!((v - scale * *c as f32).abs() <= 0.5001 * scale);
            }
            prop_assert!(codes[values.len()..].iter().all(|&c| c == 0));
        }

        #[test]
        fn four_bits_never_lose_to_absmax(values in proptest::collection::vec(-1.0_f32..1.0, 1..70)) {
            let shape = BlockShape::new(values.len(), Bits::B4, false);
            let mut bytes = vec![0; shape.run_bytes(1)];
            shape.encode([(0.0, &values[..], 0.0)].into_iter(), &mut bytes);
            let (scale, _, _, codes) = shape.decode(&bytes, 1, 0);
            let error: f32 = values.iter().zip(&codes).map(|(v, c)| (v - scale * *c as f32).powi(2)).sum();
            let top = stored_scale(absmax(&values) / 7.0).to_f32();
            let plain: f32 = values.iter()
                .map(|v| if top > 0.0 { (v - (v / top).clamp(-7.0, 7.0).round_ties_even() * top).powi(2) } else { 0.0 })
                .sum();
            prop_assert!(error <= plain * 1.0001 + 1e-9);
        }
    }
}
