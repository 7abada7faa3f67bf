//! The network's meaning, line by line as `mod.rs` writes it down.

use super::{KERNEL, Network};
use crate::network::{Layer, MOST, dense_reference};

/// What becomes of a query, `[s]`.
#[allow(clippy::cast_possible_truncation, reason = "results are rounded once, to f32")]
pub(crate) fn forward(net: Network<'_>, q: &[f32]) -> Vec<f32> {
    if net.is_nothing() {
        return q.to_vec();
    }
    let (shape, layout, values) = (net.shape, net.layout, net.values);
    let wide = |at: usize, n: usize| values.biases(at, n).iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let [deviation, inverse] = [0, 1].map(|i| wide(layout.scales_at, 2)[i]);
    let most = f64::from(MOST);
    let standard = |v: f64| (v * inverse).clamp(-most, most);
    let centre = wide(layout.centre_at, shape.s * (shape.channels - 1));
    let x: Vec<Vec<f64>> = (0..shape.s)
        .map(|i| {
            let channels = std::iter::once(f64::from(q[i])).chain(centre.get(i).copied());
            channels.map(standard).collect()
        })
        .collect();
    let [first, second, third] = layout.convolutions;
    let u = convolve(net, &first, &x);
    let v: Vec<Vec<f64>> = u
        .chunks(2)
        .map(|pair| (0..shape.width).map(|c| pair.iter().map(|u| u[c]).fold(0.0, f64::max)).collect())
        .collect();
    let v = convolve(net, &third, &convolve(net, &second, &v)).concat();
    let moved = dense_reference(values, &layout.dense, &v);
    q.iter().zip(moved).map(|(&q, moved)| (f64::from(q) + deviation * moved) as f32).collect()
}

/// `relu(x ∗ C + c)`, position by position.
fn convolve(net: Network<'_>, layer: &Layer, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let zeros = vec![0.0; layer.from / KERNEL];
    (0..x.len())
        .map(|i| {
            let before = if i > 0 { &x[i - 1] } else { &zeros };
            let window = [before, &x[i], x.get(i + 1).unwrap_or(&zeros)].map(|x| &x[..]).concat();
            dense_reference(net.values, layer, &window).into_iter().map(|v| v.max(0.0)).collect()
        })
        .collect()
}
