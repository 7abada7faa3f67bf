//! The network's meaning, line by line as `mod.rs` writes it down.

use super::{Cnt, MOST};
use crate::network::dense_reference as dense;

/// Reduced query, `[s]`.
#[allow(clippy::cast_possible_truncation, reason = "results are rounded once, to f32")]
pub(crate) fn project(cnt: &Cnt, q: &[f32]) -> Vec<f32> {
    let net = cnt.weights();
    let (shape, layout, net) = (net.shape, net.layout, net.values);
    let (s, n) = (shape.s, shape.n_tokens);
    let wide = |at: usize, n: usize| net.biases(at, n).iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let [deviation, inverse] = [wide(layout.scales_at, 2)[0], wide(layout.scales_at, 2)[1]];
    let centre = wide(layout.centre_at, shape.d);
    let standard = |(v, centre): (&f32, f64)| (f64::from(*v) - centre) * inverse;
    let most = f64::from(MOST);
    let x: Vec<f64> = q.iter().zip(centre).map(standard).map(|v| v.clamp(-most, most)).collect();

    let inputs = dense(net, &layout.input, &x);
    let mut tokens: Vec<Vec<f64>> = inputs.chunks_exact(s).map(<[f64]>::to_vec).collect();
    let direct = tokens.pop().unwrap_or_default();
    let (gate, shift) = (wide(layout.gate_at, s), wide(layout.shift_at, s));
    for i in 0..s {
        tokens[n][i] = gate[i] * hswish(tokens[n][i]) + shift[i] + direct[i];
    }
    for (i, stage) in layout.stages.iter().enumerate() {
        let keys: Vec<Vec<f64>> = tokens.iter().map(|token| dense(net, &stage.keys, token)).collect();
        let first = if i + 1 == layout.stages.len() { n } else { 0 };
        for token in &mut tokens[first..] {
            let queries = dense(net, &stage.queries, token);
            let seen: Vec<f64> = (0..shape.n_heads)
                .flat_map(|head| attend(shape.key, s, head, &queries, &keys))
                .map(|v| v.clamp(-1.0, 1.0))
                .collect();
            add(token, &dense(net, &stage.out, &seen));
            let hidden: Vec<f64> = dense(net, &stage.up, token).into_iter().map(hswish).collect();
            add(token, &dense(net, &stage.down, &hidden));
        }
        add(&mut tokens[n], &direct);
    }
    dense(net, &layout.output, &tokens[n]).into_iter().map(|v| (deviation * v) as f32).collect()
}

fn hswish(v: f64) -> f64 {
    v * (v + 3.0).clamp(0.0, 6.0) / 6.0
}

fn add(to: &mut [f64], what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, v)| *to += v);
}

/// What a head sees: values weighted by how well their keys fit its query.
fn attend(key: usize, s: usize, head: usize, queries: &[f64], keys: &[Vec<f64>]) -> Vec<f64> {
    let query = &queries[head * key..(head + 1) * key];
    let own = |token: &Vec<f64>| token[head * (key + s)..(head + 1) * (key + s)].to_vec();
    let pairs: Vec<(f64, Vec<f64>)> = keys
        .iter()
        .map(|token| {
            let own = own(token);
            let fit: f64 = query.iter().zip(&own).map(|(a, b)| a * b).sum();
            (fit / (key as f64).sqrt(), own[key..].to_vec())
        })
        .collect();
    let most = pairs.iter().map(|pair| pair.0).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = pairs.iter().map(|pair| (pair.0 - most).exp()).sum();
    (0..s).map(|i| pairs.iter().map(|(fit, value)| (fit - most).exp() / total * value[i]).sum()).collect()
}
