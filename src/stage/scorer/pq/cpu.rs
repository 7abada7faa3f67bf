//! The lookups by SIMD: tables in registers, 32 points at a time.

use std::ops::Range;

use super::{Pq, PqTables};
use crate::{
    simd::{self, PqRun, Simd},
    topk::Candidates,
};

/// A query's tables.
pub(crate) fn prepare(simd: Simd, pq: &Pq, reduced: &[f32], tables: &mut PqTables) {
    tables.prepare(pq, reduced, |words, q, entries| simd.word_products(words, q, entries));
}

/// Asks for the head of a list's run, ahead of its scan.
pub(crate) fn prefetch(pq: &Pq, list: usize) {
    let run = pq.run(list);
    // A page: from there on the hardware follows the stream.
    simd::prefetch(&run[..run.len().min(4096)]);
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
    let run = PqRun {
        shape: pq.shape,
        bytes: pq.run(list),
        n_vectors: range.len(),
        tables: &tables.bytes,
        part: base + tables.bias,
        step: tables.step,
    };
    // Positions are below 2³².
    simd.scan_pq(run, u32::try_from(range.start).unwrap_or(u32::MAX), kept, id_of);
}
