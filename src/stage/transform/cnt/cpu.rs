//! The network by SIMD: every layer is a product of f16 weights with several rows at a time.

use super::{super::cpu::Projection, Cnt, Layer, MOST, Shape, Weights};
use crate::{
    network::{self, Values},
    simd::Simd,
};

/// Memory that layers live in.
#[derive(Default)]
pub(crate) struct Room {
    inputs: Vec<f32>,
    outputs: Vec<f32>,
    x: Vec<f32>,
    wide: Vec<f32>,
    tokens: Vec<f32>,
    direct: Vec<f32>,
    /// The tokens that a stage changes.
    own: Vec<f32>,
    keys: Vec<f32>,
    queries: Vec<f32>,
    seen: Vec<f32>,
    hidden: Vec<f32>,
    added: Vec<f32>,
    fits: Vec<f32>,
}

/// Reduces queries.
pub(crate) fn project<const N: usize>(simd: Simd, cnt: &Cnt, queries: [Projection<'_>; N], room: &mut Room) {
    let s = cnt.shape.s;
    let (mut inputs, mut outputs) = (std::mem::take(&mut room.inputs), std::mem::take(&mut room.outputs));
    inputs.clear();
    for query in &queries {
        inputs.extend_from_slice(query.q);
    }
    outputs.resize(N * s, 0.0);
    forward(simd, cnt.weights(), &inputs, &mut outputs, room);
    for (query, y) in queries.into_iter().zip(outputs.chunks_exact(s)) {
        query.reduced.clear();
        query.reduced.extend_from_slice(y);
    }
    (room.inputs, room.outputs) = (inputs, outputs);
}

/// Reduces `rows`, `[m, d]`, to `y`, `[m, s]`.
pub(crate) fn forward(simd: Simd, net: Weights<'_>, rows: &[f32], y: &mut [f32], room: &mut Room) {
    let (shape, layout, net) = (net.shape, net.layout, net.values);
    let (s, n) = (shape.s, shape.n_tokens);
    let (centre, scales) = (net.biases(layout.centre_at, shape.d), net.biases(layout.scales_at, 2));
    room.x.clear();
    for row in rows.chunks_exact(shape.d) {
        room.x
            .extend(row.iter().zip(centre).map(|(v, centre)| ((v - centre) * scales[1]).clamp(-MOST, MOST)));
    }
    dense(simd, net, &layout.input, &room.x, &mut room.wide);

    let (gate, shift) = (net.biases(layout.gate_at, s), net.biases(layout.shift_at, s));
    room.tokens.clear();
    room.direct.clear();
    for wide in room.wide.chunks_exact_mut(shape.wide()) {
        let (tokens, direct) = wide.split_at_mut((n + 1) * s);
        for (i, token) in tokens[n * s..].iter_mut().enumerate() {
            *token = gate[i] * hswish(*token) + shift[i] + direct[i];
        }
        room.tokens.extend_from_slice(tokens);
        room.direct.extend_from_slice(direct);
    }
    let mut tokens = std::mem::take(&mut room.tokens);
    for (i, stage) in layout.stages.iter().enumerate() {
        dense(simd, net, &stage.keys, &tokens, &mut room.keys);
        // The tokens that go on: in the last stage those of compression alone.
        let is_last = i + 1 == layout.stages.len();
        let mut own = std::mem::take(&mut room.own);
        own.clear();
        for row in tokens.chunks_exact((n + 1) * s) {
            own.extend_from_slice(if is_last { &row[n * s..] } else { row });
        }
        let each = if is_last { 1 } else { n + 1 };
        dense(simd, net, &stage.queries, &own, &mut room.queries);
        attend(simd, shape, each, room);
        dense(simd, net, &stage.out, &room.seen, &mut room.added);
        add(&mut own, &room.added);
        dense(simd, net, &stage.up, &own, &mut room.hidden);
        room.hidden.iter_mut().for_each(|v| *v = hswish(*v));
        dense(simd, net, &stage.down, &room.hidden, &mut room.added);
        add(&mut own, &room.added);
        for (own, direct) in own.chunks_exact_mut(each * s).zip(room.direct.chunks_exact(s)) {
            add(&mut own[(each - 1) * s..], direct);
        }
        std::mem::swap(&mut tokens, &mut own);
        room.own = own;
    }
    dense(simd, net, &layout.output, &tokens, &mut room.added);
    y.iter_mut().zip(&room.added).for_each(|(y, v)| *y = scales[0] * v);
    room.tokens = tokens;
}

fn hswish(v: f32) -> f32 {
    v * (v + 3.0).clamp(0.0, 6.0) * (1.0 / 6.0)
}

fn add(to: &mut [f32], what: &[f32]) {
    to.iter_mut().zip(what).for_each(|(to, v)| *to += v);
}

/// `y = xW + b` for the rows of `x`.
fn dense(simd: Simd, net: Values<'_>, layer: &Layer, x: &[f32], y: &mut Vec<f32>) {
    y.resize(x.len() / layer.from * layer.to, 0.0);
    network::dense(simd, net, layer, (x, layer.from), y);
}

/// What `each` tokens of a row see of all its tokens, through all heads.
fn attend(simd: Simd, shape: Shape, each: usize, room: &mut Room) {
    let (s, key, n_heads, n) = (shape.s, shape.key, shape.n_heads, shape.n_tokens + 1);
    let head_width = key + s;
    let Room { queries, keys, seen, fits, .. } = room;
    let factor = 1.0 / (key as f32).sqrt();
    seen.clear();
    seen.resize(queries.len() / key * s, 0.0);
    fits.resize(n, 0.0);
    let heads = queries.chunks_exact(key).zip(seen.chunks_exact_mut(s)).enumerate();
    for (i, (query, seen)) in heads {
        let (row, head) = (i / (each * n_heads), i % n_heads);
        let of = |token: usize| {
            let at = ((row * n + token) * n_heads + head) * head_width;
            keys[at..at + head_width].split_at(key)
        };
        let mut most = f32::NEG_INFINITY;
        for (token, fit) in fits.iter_mut().enumerate() {
            *fit = factor * simd.dot_f32(query, of(token).0);
            most = most.max(*fit);
        }
        fits.iter_mut().for_each(|fit| *fit = (*fit - most).exp());
        let share = 1.0 / fits.iter().sum::<f32>();
        for (token, fit) in fits.iter().enumerate() {
            let weight = fit * share;
            seen.iter_mut().zip(of(token).1).for_each(|(seen, v)| *seen += weight * v);
        }
        seen.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
    }
}
