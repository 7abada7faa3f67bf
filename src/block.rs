//! Interleaved integer blocks: the one layout for everything multiplied with an int8 query.
//!
//! Centroids, the columns of a regression's A and the columns of its B are all "vectors that meet a
//! quantised query". They stand in blocks of 16, so that one 512-bit dot-product instruction serves 16
//! of them without a horizontal sum, and 16 GPU lanes read 64 consecutive bytes:
//!
//! ```text
//! scale  [16] f32      value of one code step, per vector
//! first  [16] f32      the component kept in f32
//! norm   [16] f32      only where the metric needs an additive term
//! codes  x8: [groups][16][4] u8       code + 128, four components of one vector a word
//!        x4: [groups/2][16][4] u8     byte j: component 8g+j in the low nibble, 8g+4+j in the high one; code + 8
//! ```
//!
//! The product with a query `(first: f, codes: q, scale: qs)` is
//! `norm + f·first + (qs·scale)·Σ q_i·code_i`. Codes are stored with an offset so that they are unsigned:
//! `Σ q_i·(code_i + 128) = Σ q_i·code_i + 128·Σ q_i`, and the last term depends on the query alone.
//! The integer sum is bounded by 65 536 · 127 · 255 = 2 122 383 360 < 2³¹.

use crate::spec::Bits;

/// Vectors in a block: one 512-bit register of 32-bit lanes.
pub(crate) const BLOCK: usize = 16;

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

    /// Bytes ahead of the codes.
    pub fn head_bytes(self) -> usize {
        BLOCK * 4 * (2 + usize::from(self.has_norm))
    }

    /// Bytes of one block.
    pub fn bytes(self) -> usize {
        self.head_bytes() + self.groups * BLOCK * 4 * self.bits.count() / 8
    }

    /// Integer components a query needs, padding included.
    pub fn query_len(self) -> usize {
        self.groups * 4
    }

    /// Writes one block. `vectors`: up to 16 of `(first, quantised components, norm)`; places left over
    /// hold zeros. `out`: [`BlockShape::bytes`] long.
    pub fn encode(self, vectors: &[(f32, &[f32], f32)], out: &mut [u8]) {
        let (head, codes) = out.split_at_mut(self.head_bytes());
        let offset = match self.bits {
            Bits::B8 => 0x80,
            Bits::B4 => 0x88,
        };
        head.fill(0);
        codes.fill(offset);
        for (lane, &(first, components, norm)) in vectors.iter().enumerate() {
            let scale = match self.bits {
                Bits::B8 => absmax(components) / 127.0,
                Bits::B4 => best_scale(components, 7.0),
            };
            let mut put = |place: usize, value: f32| {
                let at = (place * BLOCK + lane) * 4;
                head[at..at + 4].copy_from_slice(&value.to_le_bytes());
            };
            put(0, scale);
            put(1, first);
            if self.has_norm {
                put(2, norm);
            }
            let step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for (i, &v) in components.iter().enumerate() {
                match self.bits {
                    Bits::B8 => {
                        codes[((i / 4) * BLOCK + lane) * 4 + i % 4] = code(v, step, 127.0).wrapping_add(128);
                    }
                    Bits::B4 => {
                        let nibble = code(v, step, 7.0).wrapping_add(8) & 15;
                        let byte = &mut codes[((i / 8) * BLOCK + lane) * 4 + i % 4];
                        *byte = if i % 8 < 4 { (*byte & 0xf0) | nibble } else { (*byte & 0x0f) | (nibble << 4) };
                    }
                }
            }
        }
    }

    /// Scale, first component, norm and code `i` of the vector in place `lane`: the layout's meaning.
    pub fn decode(self, block: &[u8], lane: usize) -> (f32, f32, f32, Vec<i32>) {
        let float = |place: usize| {
            let at = (place * BLOCK + lane) * 4;
            f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        };
        let codes = &block[self.head_bytes()..];
        let codes = (0..self.query_len())
            .map(|i| match self.bits {
                Bits::B8 => i32::from(codes[((i / 4) * BLOCK + lane) * 4 + i % 4]) - 128,
                Bits::B4 => {
                    let byte = codes[((i / 8) * BLOCK + lane) * 4 + i % 4];
                    i32::from(if i % 8 < 4 { byte & 15 } else { byte >> 4 }) - 8
                }
            })
            .collect();
        (float(0), float(1), if self.has_norm { float(2) } else { 0.0 }, codes)
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
    /// The quantisation's meaning: codes of absmax/127, ties to even.
    #[allow(clippy::cast_possible_truncation, reason = "|v / scale| is at most 127 and a half")]
    pub fn quantise_reference(first: f32, values: &[f32], query_len: usize) -> Self {
        let scale = absmax(values) / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let mut codes: Vec<i8> = values.iter().map(|v| (v * inverse).round_ties_even() as i8).collect();
        codes.resize(query_len, 0);
        Self { first, scale, sum: codes.iter().map(|&c| i32::from(c)).sum(), codes }
    }

    /// The block layout's meaning: `norm + factor·product` with the vector in place `lane`, in the order
    /// and with the fused steps that the SIMD kernels take.
    pub fn score_reference(&self, shape: BlockShape, block: &[u8], lane: usize, factor: f32) -> f32 {
        let (scale, first, norm, codes) = shape.decode(block, lane);
        let dot: i32 = codes.iter().zip(&self.codes).map(|(&c, &q)| c * i32::from(q)).sum();
        let part = first.mul_add(factor * self.first, norm);
        (scale * (factor * self.scale)).mul_add(dot as f32, part)
    }
}

fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| v.abs().max(m))
}

/// `v` to the nearest integer, ties to even, for |v| below 2²². Adding 1.5·2²³ leaves no bit for fractions;
/// unlike `round_ties_even` this is two additions on every instruction set.
fn nearest(v: f32) -> f32 {
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
fn best_scale(values: &[f32], limit: f32) -> f32 {
    let top = absmax(values) / limit;
    let mut best = (f32::INFINITY, top);
    // 24 steps down to 0.54·absmax; a Gaussian's optimum for 15 levels lies near 0.8.
    for i in 0..24_u8 {
        let scale = top * (1.0 - 0.02 * f32::from(i));
        if scale <= 0.0 {
            break;
        }
        let step = 1.0 / scale;
        // In eight interleaved sums, which compilers turn into vectors.
        let mut errors = [0.0_f32; 8];
        for chunk in values.chunks(8) {
            for (error, v) in errors.iter_mut().zip(chunk) {
                let e = v - nearest((v * step).clamp(-limit, limit)) * scale;
                *error += e * e;
            }
        }
        let error: f32 = errors.iter().sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoding_is_within_half_a_step(
            values in proptest::collection::vec(-100.0_f32..100.0, 1..70),
            lane in 0..BLOCK,
            has_norm in any::<bool>(),
        ) {
            let shape = BlockShape::new(values.len(), Bits::B8, has_norm);
            let mut vectors = vec![(0.0, &[][..], 0.0); lane];
            vectors.push((3.5, &values, 7.25));
            let mut bytes = vec![0; shape.bytes()];
            shape.encode(&vectors, &mut bytes);
            let (scale, first, norm, codes) = shape.decode(&bytes, lane);
            prop_assert_eq!((first, norm), (3.5, if has_norm { 7.25 } else { 0.0 }));
            for (v, c) in values.iter().zip(&codes) {
                prop_assert!((v - scale * *c as f32).abs() <= 0.5001 * scale);
            }
            prop_assert!(codes[values.len()..].iter().all(|&c| c == 0));
        }

        #[test]
        fn four_bits_never_lose_to_absmax(values in proptest::collection::vec(-1.0_f32..1.0, 1..70)) {
            let shape = BlockShape::new(values.len(), Bits::B4, false);
            let mut bytes = vec![0; shape.bytes()];
            shape.encode(&[(0.0, &values, 0.0)], &mut bytes);
            let (scale, _, _, codes) = shape.decode(&bytes, 0);
            let error: f32 = values.iter().zip(&codes).map(|(v, c)| (v - scale * *c as f32).powi(2)).sum();
            let top = absmax(&values) / 7.0;
            let plain: f32 = values.iter()
                .map(|v| if top > 0.0 { (v - (v / top).round_ties_even() * top).powi(2) } else { 0.0 })
                .sum();
            prop_assert!(error <= plain * 1.0001 + 1e-9);
        }
    }
}
