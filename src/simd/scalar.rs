//! Portable kernels in plain Rust: the twin every other instruction set is tested against.

use half::{bf16, f16};

use super::BlockRun;
use crate::{
    block::{BLOCK, SCALE_MIN},
    spec::Bits,
    topk::Tail,
};

pub fn project_f16(w: &[f16], [(q, y)]: [(&[f32], &mut [f32]); 1]) {
    y.fill(0.0);
    for (&v, row) in q.iter().zip(w.chunks_exact(y.len().max(1))) {
        for (sum, weight) in y.iter_mut().zip(row) {
            *sum += v * weight.to_f32();
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "|v·inverse| is at most 127 and a half")]
pub fn quantise(values: &[f32], codes: &mut [i8]) -> (f32, i32) {
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

/// Scores of the 16 vectors of one block.
fn one_block(run: &BlockRun<'_>, block: usize) -> [f32; BLOCK] {
    let [first_at, norm_at, scale_at] = run.shape.heads(run.n_blocks());
    let float = |at: usize, lane: usize| {
        let at = at + (block * BLOCK + lane) * 4;
        f32::from_le_bytes(std::array::from_fn(|i| run.bytes[at + i]))
    };
    let mut dots = [0_i32; BLOCK];
    let q = &run.queries[0].codes;
    let codes = &run.bytes[block * run.shape.code_bytes()..(block + 1) * run.shape.code_bytes()];
    for (row, words) in codes.chunks_exact(BLOCK * 4).enumerate() {
        for (dot, word) in dots.iter_mut().zip(words.chunks_exact(4)) {
            for (j, &byte) in word.iter().enumerate() {
                *dot += match run.shape.bits {
                    Bits::B8 => i32::from(q[row * 4 + j]) * i32::from(byte),
                    Bits::B4 => {
                        i32::from(q[row * 8 + j]) * i32::from(byte & 15)
                            + i32::from(q[row * 8 + 4 + j]) * i32::from(byte >> 4)
                    }
                };
            }
        }
    }
    let first = run.factor * run.queries[0].first;
    let factor = run.factor * run.queries[0].scale;
    std::array::from_fn(|lane| {
        let norm = if run.shape.has_norm { float(norm_at, lane) } else { 0.0 };
        let at = scale_at + (block * BLOCK + lane) * 2;
        let scale = bf16::from_le_bytes([run.bytes[at], run.bytes[at + 1]]).to_f32();
        let dot = (dots[lane] - run.offset_term(run.queries[0])) as f32;
        float(first_at, lane) * first + (scale * factor) * dot + norm
    })
}

pub fn block_scores(run: &BlockRun<'_>, [out]: [&mut [f32]; 1]) {
    for (block, out) in out.chunks_exact_mut(BLOCK).take(run.n_blocks()).enumerate() {
        out.copy_from_slice(&one_block(run, block));
    }
}

/// Writes survivors from vector `start` on until the tail may overflow; returns where it stopped.
pub fn scan_blocks(run: &BlockRun<'_>, start: usize, base: u32, [tail]: &mut [Tail<'_>; 1]) -> usize {
    let mut seen = start;
    while seen < run.n_vectors && tail.has_room() {
        let lanes = BLOCK.min(run.n_vectors - seen);
        for (position, &score) in (base..).skip(seen).zip(&one_block(run, seen / BLOCK)[..lanes]) {
            if score <= tail.threshold {
                tail.put(score, position);
            }
        }
        seen += BLOCK;
    }
    seen
}

/// Sums `term(i)` over `n` in eight interleaved parts, which compilers turn into vectors.
fn sum_of(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut parts = [0.0; 8];
    let whole = n / 8 * 8;
    for i in (0..whole).step_by(8) {
        for (lane, part) in parts.iter_mut().enumerate() {
            *part += term(i + lane);
        }
    }
    parts.iter().sum::<f32>() + (whole..n).map(term).sum::<f32>()
}

pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a.len(), |i| a[i] * b[i])
}

pub fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a.len(), |i| (a[i] - b[i]).powi(2))
}

pub fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of(a.len(), |i| a[i] * b[i].to_f32())
}

pub fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of(a.len(), |i| (a[i] - b[i].to_f32()).powi(2))
}

pub fn dot_u8(a: &[f32], codes: &[u8]) -> f32 {
    sum_of(a.len(), |i| a[i] * f32::from(codes[i]))
}

pub fn l2_u8(a: &[f32], step: &[f32], codes: &[u8]) -> f32 {
    sum_of(a.len(), |i| (a[i] - step[i] * f32::from(codes[i])).powi(2))
}
