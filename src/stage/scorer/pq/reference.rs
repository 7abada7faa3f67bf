//! The lookups' meaning: every table entry, every byte, one after the other.

use super::{Pq, PqTables};
use crate::block::SCALE_MIN;

/// A query's tables.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255 by construction")]
pub(crate) fn tables(pq: &Pq, reduced: &[f32]) -> PqTables {
    let (shape, n_words) = (pq.shape, pq.shape.n_words());
    let entry = |m: usize, word: usize| {
        let words = &pq.codebooks[m * shape.width() * n_words..];
        let terms = shape.dims(m).enumerate().map(|(i, d)| reduced[d] * words[i * n_words + word]);
        pq.metric.product_factor() * terms.sum::<f32>()
    };
    let tables: Vec<Vec<f32>> =
        (0..shape.m).map(|m| (0..n_words).map(|word| entry(m, word)).collect()).collect();
    let low = |table: &[f32]| table.iter().copied().fold(f32::INFINITY, f32::min);
    let high = |table: &[f32]| table.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let widest = tables.iter().map(|table| high(table) - low(table)).fold(0.0, f32::max);
    let step = widest / 255.0;
    let inverse = if step >= SCALE_MIN { 1.0 / step } else { 0.0 };
    let byte = |entry: f32, low: f32| ((entry - low) * inverse).min(255.0).round_ties_even() as u8;
    let mut bytes: Vec<u8> =
        tables.iter().flat_map(|table| table.iter().map(|&entry| byte(entry, low(table)))).collect();
    bytes.resize(shape.n_tables() * n_words, 0);
    let bias = tables.iter().fold(0.0, |sum, table| sum + low(table));
    PqTables { bytes, bias, step, ..Default::default() }
}

/// Internal scores (l2: without `‖q‖²`) of the `m` points of a list; `base`: the router's score of the list.
pub(crate) fn scores(pq: &Pq, list: usize, m: usize, tables: &PqTables, base: f32) -> Vec<f32> {
    let (shape, run) = (pq.shape, pq.run(list));
    let part = shape.alpha(run, m) * base + tables.bias;
    (0..m)
        .map(|i| {
            let entry =
                |table| usize::from(tables.bytes[table * shape.n_words() + shape.code(run, i, table)]);
            let sum: usize = (0..shape.m).map(entry).sum();
            tables.step * sum as f32 + (part + shape.norm(run, m, i))
        })
        .collect()
}
