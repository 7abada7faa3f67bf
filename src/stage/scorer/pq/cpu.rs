//! The lookups by SIMD: tables in registers, 32 points at a time.

use std::ops::Range;

use super::{Pq, PqTables};
use crate::{
    format::ALIGN,
    simd::{self, Codebooks, PqRun, Simd},
    topk::Candidates,
};

impl PqTables {
    /// Works out a query's tables; `reduced`: the reduced query.
    pub fn prepare(&mut self, simd: Simd, pq: &Pq, reduced: &[f32]) {
        let shape = pq.shape;
        self.entries.resize(shape.m * shape.n_words(), 0.0);
        self.lows.resize(shape.m, 0.0);
        self.bytes.clear();
        self.bytes.resize(shape.n_tables() * shape.n_words(), 0);
        let books = Codebooks { shape, values: &pq.codebooks };
        let room = (&mut self.entries[..], &mut self.lows[..]);
        (self.bias, self.step) =
            simd.tables(books, reduced, pq.metric.product_factor(), room, &mut self.bytes);
    }
}

/// Asks for a list's run, or its first page, and its α.
pub(crate) fn prefetch(pq: &Pq, list: usize, whole: bool) {
    let run = pq.run(list);
    simd::prefetch(&run[..if whole { run.len() } else { run.len().min(4096) }]);
    // α stands in the last line.
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
