//! The network by SIMD: convolutions are products of f16 weights with windows of padded rows, several at a time.

use super::{KERNEL, Network};
use crate::{
    network::{Layer, MOST, dense},
    simd::Simd,
};

/// Memory that layers live in. Positions have one of zeros before and one behind them.
#[derive(Default)]
pub(crate) struct Room {
    x: Vec<f32>,
    u: Vec<f32>,
    paired: Vec<f32>,
    second: Vec<f32>,
    features: Vec<f32>,
}

/// What becomes of queries `q`, `[m, s]`: `t`, `[m, s]`.
pub(crate) fn forward(simd: Simd, net: Network<'_>, q: &[f32], t: &mut [f32], room: &mut Room) {
    if net.is_nothing() {
        t.copy_from_slice(q);
        return;
    }
    let (shape, layout, values) = (net.shape, net.layout, net.values);
    let (s, width, channels, positions) = (shape.s, shape.width, shape.channels, shape.positions());
    let [deviation, inverse] = [0, 1].map(|i| values.biases(layout.scales_at, 2)[i]);
    let standard = |v: f32| (v * inverse).clamp(-MOST, MOST);
    let centre = values.biases(layout.centre_at, s * (channels - 1));
    let [first, second, third] = &layout.convolutions;
    let Room { x, u, paired, second: between, features } = room;
    let padded = |room: &mut Vec<f32>, n: usize, channels: usize| {
        room.clear();
        room.resize((n + KERNEL - 1) * channels, 0.0);
    };
    u.resize(s * width, 0.0);
    features.resize(q.len() / s * shape.features(), 0.0);
    for (q, features) in q.chunks_exact(s).zip(features.chunks_exact_mut(shape.features())) {
        padded(x, s, channels);
        for (i, (x, &q)) in x[channels..].chunks_exact_mut(channels).zip(q).enumerate() {
            x[0] = standard(q);
            if let (Some(x), Some(&centre)) = (x.get_mut(1), centre.get(i)) {
                *x = standard(centre);
            }
        }
        convolve(simd, net, first, x, u);
        padded(paired, positions, width);
        for (paired, pair) in paired[width..].chunks_exact_mut(width).zip(u.chunks(2 * width)) {
            paired.copy_from_slice(&pair[..width]);
            paired.iter_mut().zip(&pair[width..]).for_each(|(v, u)| *v = v.max(*u));
        }
        padded(between, positions, width);
        convolve(simd, net, second, paired, &mut between[width..(positions + 1) * width]);
        convolve(simd, net, third, between, features);
    }
    dense(simd, values, &layout.dense, (features, shape.features()), t);
    t.iter_mut().zip(q).for_each(|(t, q)| *t = q + deviation * *t);
}

/// `relu(x ∗ C + c)` for a padded `x`.
fn convolve(simd: Simd, net: Network<'_>, layer: &Layer, x: &[f32], y: &mut [f32]) {
    dense(simd, net.values, layer, (x, layer.from / KERNEL), y);
    y.iter_mut().for_each(|v| *v = v.max(0.0));
}
