//! What networks are made of: dense layers whose weights are f16.
//!
//! The compression network (`stage/transform/cnt`) and the convolutional one ([`conv`]) are chains of such layers. A convolution is a
//! dense layer too, for windows that overlap: rows that begin closer together than they are wide.

pub(crate) mod conv;

use half::f16;

use crate::simd::Simd;

/// Values of rows brought to a network's standard, at most: products of products of such are far from f32's end.
pub(crate) const MOST: f32 = 1e6;

/// Rows that meet weights together.
const TOGETHER: usize = 4;

/// A linear layer's place: weights `[from, to]` row-major, then biases `[to]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Layer {
    pub from: usize,
    pub to: usize,
    pub weights_at: usize,
    pub biases_at: usize,
}

/// Gives layers their places.
#[derive(Default)]
pub(crate) struct Places {
    pub n_weights: usize,
    pub n_biases: usize,
}

impl Places {
    /// The next `n` biases.
    pub fn take(&mut self, n: usize) -> usize {
        self.n_biases += n;
        self.n_biases - n
    }

    /// The next layer.
    pub fn layer(&mut self, from: usize, to: usize) -> Layer {
        let layer = Layer { from, to, weights_at: self.n_weights, biases_at: self.take(to) };
        self.n_weights += from * to;
        layer
    }
}

/// A network's values.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    pub weights: &'a [f16],
    pub biases: &'a [f32],
}

impl<'a> Values<'a> {
    /// A layer's weights and biases.
    pub fn layer(&self, layer: &Layer) -> (&'a [f16], &'a [f32]) {
        let Layer { from, to, weights_at, biases_at } = *layer;
        (&self.weights[weights_at..weights_at + from * to], &self.biases[biases_at..biases_at + to])
    }

    /// `n` of the biases.
    pub fn biases(&self, at: usize, n: usize) -> &'a [f32] {
        &self.biases[at..at + n]
    }
}

/// Values of a network that no index holds yet.
#[derive(Clone)]
pub(crate) struct OwnValues {
    pub weights: Vec<f16>,
    pub biases: Vec<f32>,
}

#[cfg(feature = "neural")]
impl OwnValues {
    /// As layers see them.
    pub fn view(&self) -> Values<'_> {
        Values { weights: &self.weights, biases: &self.biases }
    }
}

/// `y = xW + b` for one row, as it is meant.
pub(crate) fn dense_reference(net: Values<'_>, layer: &Layer, x: &[f64]) -> Vec<f64> {
    let (weights, biases) = net.layer(layer);
    (0..layer.to)
        .map(|j| {
            let products = x.iter().enumerate().map(|(i, v)| v * f64::from(weights[i * layer.to + j]));
            products.sum::<f64>() + f64::from(biases[j])
        })
        .collect()
}

/// `y = xW + b` for as many rows as `y` has room for; rows of `x` begin `stride` apart.
pub(crate) fn dense(simd: Simd, net: Values<'_>, layer: &Layer, (x, stride): (&[f32], usize), y: &mut [f32]) {
    let (weights, biases) = net.layer(layer);
    let row = |i: usize| &x[i * stride..i * stride + layer.from];
    for (group, y) in y.chunks_mut(TOGETHER * layer.to).enumerate() {
        let first = group * TOGETHER;
        let is_full = y.len() == TOGETHER * layer.to;
        let mut rows = y.chunks_exact_mut(layer.to).enumerate().map(|(i, y)| (row(first + i), y));
        if is_full
            && let (Some(a), Some(b), Some(c), Some(d)) = (rows.next(), rows.next(), rows.next(), rows.next())
        {
            simd.project_f16::<TOGETHER>(weights, [a, b, c, d]);
        } else {
            rows.for_each(|pair| simd.project_f16(weights, [pair]));
        }
    }
    for y in y.chunks_exact_mut(layer.to) {
        y.iter_mut().zip(biases).for_each(|(y, bias)| *y += bias);
    }
}
