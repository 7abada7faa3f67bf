//! The lookups by SIMD: tables in registers, 32 points at a time.

use std::ops::Range;

use super::{Pq, PqTables};
use crate::{
    codes::PqShape,
    format::ALIGN,
    simd::{self, PqRun, Simd},
    topk::Candidates,
};

impl PqTables {
    /// Works out a query's tables; `reduced`: the reduced query.
    pub fn prepare(&mut self, simd: Simd, pq: &Pq, reduced: &[f32]) {
        let (shape, n_words) = (pq.shape, pq.shape.n_words());
        self.entries.resize(shape.m * n_words, 0.0);
        let words = pq.codebooks.chunks_exact(shape.width() * n_words);
        for (m, (words, entries)) in words.zip(self.entries.chunks_exact_mut(n_words)).enumerate() {
            simd.word_products(words, &reduced[shape.dims(m)], entries);
        }
        self.round(shape, pq.metric.product_factor());
    }

    /// From products to bytes.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255 by construction")]
    fn round(&mut self, shape: PqShape, factor: f32) {
        let n_words = shape.n_words();
        let mut widest = 0.0_f32;
        self.bias = 0.0;
        self.lows.clear();
        for entries in self.entries.chunks_exact_mut(n_words) {
            let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
            for chunk in entries.chunks_exact_mut(16) {
                for ((entry, low), high) in chunk.iter_mut().zip(&mut low).zip(&mut high) {
                    *entry *= factor;
                    *low = if *entry < *low { *entry } else { *low };
                    *high = if *entry > *high { *entry } else { *high };
                }
            }
            let low = low.iter().fold(f32::INFINITY, |a, &b| a.min(b));
            let high = high.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            widest = widest.max(high - low);
            self.bias += low;
            self.lows.push(low);
        }
        self.step = widest / 255.0;
        let inverse = if self.step >= crate::block::SCALE_MIN { 1.0 / self.step } else { 0.0 };
        self.bytes.clear();
        self.bytes.resize(shape.n_tables() * n_words, 0);
        let tables = self.entries.chunks_exact(n_words).zip(self.bytes.chunks_exact_mut(n_words));
        for ((entries, bytes), low) in tables.zip(&self.lows) {
            for (byte, entry) in bytes.iter_mut().zip(entries) {
                // Nearest, ties to even: adding 2²³ leaves no bit for fractions.
                let rounded = ((entry - low) * inverse).min(255.0) + 8_388_608.0;
                *byte = rounded.to_bits() as u8;
            }
        }
    }
}

/// Asks for the head of a list's run, ahead of its scan.
pub(crate) fn prefetch(pq: &Pq, list: usize) {
    let run = pq.run(list);
    // A page: from there on the hardware follows the stream. α stands in the last line.
    simd::prefetch(&run[..run.len().min(4096)]);
    simd::prefetch(&run[run.len().saturating_sub(ALIGN)..]);
}

/// Offers every point of a list; `range` are its positions, `base` the router's score of it.
#[allow(clippy::too_many_arguments, reason = "the loop's state, one thing each")]
pub(crate) fn scan(
    simd: Simd,
    pq: &Pq,
    list: usize,
    range: Range<usize>,
    tables: &PqTables,
    base: f32,
    kept: &mut Candidates,
    id_of: &impl Fn(u32) -> u64,
) {
    let (bytes, n_vectors) = (pq.run(list), range.len());
    let run = PqRun {
        shape: pq.shape,
        bytes,
        n_vectors,
        tables: &tables.bytes,
        part: pq.shape.alpha(bytes, n_vectors) * base + tables.bias,
        step: tables.step,
    };
    // Positions are below 2³².
    simd.scan_pq(run, u32::try_from(range.start).unwrap_or(u32::MAX), kept, id_of);
}
