//! The lookups' meaning: every table entry, every byte, one after the other.

use super::{Pq, PqTables};

/// A query's tables.
pub(crate) fn tables(pq: &Pq, reduced: &[f32]) -> PqTables {
    let n_words = pq.shape.n_words();
    let mut tables = PqTables::default();
    tables.prepare(pq, reduced, |words, q, entries| {
        for (word, entry) in entries.iter_mut().enumerate() {
            *entry = q.iter().enumerate().fold(0.0, |sum, (i, q)| sum + q * words[i * n_words + word]);
        }
    });
    tables
}

/// Internal scores (l2: without `‖q‖²`) of the `m` points of a list; `base`: the router's score of the list.
pub(crate) fn scores(pq: &Pq, list: usize, m: usize, tables: &PqTables, base: f32) -> Vec<f32> {
    let (shape, run) = (pq.shape, pq.run(list));
    (0..m)
        .map(|i| {
            let entry =
                |table| usize::from(tables.bytes[table * shape.n_words() + shape.code(run, i, table)]);
            let sum: usize = (0..shape.m).map(entry).sum();
            tables.step * sum as f32 + (base + tables.bias + shape.norm(run, m, i))
        })
        .collect()
}
