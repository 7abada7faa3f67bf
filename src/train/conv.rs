//! Training a convolutional network: burn gives the gradients.
//!
//! Convolutions are matrix products of windows, for of burn only tensors and their differentiation are used; the loss and what walks
//! down it are `classes.rs`'s. Weights start at random (He et al., "Delving Deep into Rectifiers", ICCV 2015), P at zero: the
//! network starts as nothing beside the query.

use burn_tensor::{Device, Tensor, TensorData, activation::relu};
use half::f16;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    Network, Parameter, normal,
    tensors::{floats, gradients, rows},
};
use crate::{
    network::{
        OwnValues,
        conv::{self, KERNEL, Layout, Shape, cpu},
    },
    simd::Simd,
};

/// Rows that go through the network together.
const CHUNK: usize = 16;

/// A network on its way, for queries by some standard.
pub(crate) struct ConvNetwork {
    shape: Shape,
    layout: Layout,
    deviation: f32,
    /// The second channel, where there is one.
    centre: Vec<f32>,
    start: Vec<Vec<f32>>,
}

impl ConvNetwork {
    /// A network for queries whose coordinates deviate so much from zero, and `centre`, `[s]` or nothing, beside them.
    pub fn new(shape: Shape, deviation: f32, centre: Vec<f32>, rng: &mut ChaCha8Rng) -> Self {
        let layout = shape.layout();
        let mut start = Vec::new();
        for layer in &layout.convolutions {
            let spread = (2.0 / layer.from as f32).sqrt();
            start.push((0..layer.from * layer.to).map(|_| spread * normal(rng)).collect());
            start.push(vec![0.0; layer.to]);
        }
        start.push(vec![0.0; layout.dense.from * layout.dense.to]);
        start.push(vec![0.0; layout.dense.to]);
        Self { shape, layout, deviation, centre, start }
    }

    /// What an index stores, for queries `unit` times as long as those trained on.
    pub fn stored(&self, values: &[Vec<f32>], unit: f32) -> OwnValues {
        let deviation = self.deviation * unit;
        let mut weights = Vec::with_capacity(self.layout.n_weights);
        let mut biases = vec![deviation, 1.0 / deviation];
        biases.extend(self.centre.iter().map(|v| v * unit));
        for pair in values.chunks_exact(2) {
            weights.extend(pair[0].iter().map(|&v| f16::from_f32(v)));
            biases.extend_from_slice(&pair[1]);
        }
        OwnValues { weights, biases }
    }

    /// What an index stores of a network that is nothing.
    pub fn nothing(&self) -> OwnValues {
        OwnValues { weights: vec![f16::ZERO; self.layout.n_weights], biases: vec![0.0; self.layout.n_biases] }
    }

    /// Windows of `[m, n, channels]`, as rows: `[m·n, 3·channels]`.
    fn windows(x: Tensor<3>, device: &Device) -> Tensor<2> {
        let [m, n, channels] = x.dims();
        let zeros = Tensor::<3>::zeros([m, 1, channels], device);
        let padded = Tensor::cat(vec![zeros.clone(), x, zeros], 1);
        let taps = (0..KERNEL).map(|tap| padded.clone().narrow(1, tap, n)).collect();
        Tensor::cat(taps, 2).reshape([m * n, KERNEL * channels])
    }

    fn forward(&self, p: &[Tensor<2>], q: Tensor<2>, device: &Device) -> Tensor<2> {
        let Shape { s, width, channels } = self.shape;
        let [m, _] = q.dims();
        let most = crate::network::MOST;
        let standard = |x: Tensor<2>| (x * (1.0 / self.deviation)).clamp(-most, most).reshape([m, s, 1]);
        let mut x: Tensor<3> = standard(q.clone());
        if channels > 1 {
            let centre = Tensor::<2>::from_data(TensorData::new(self.centre.clone(), [1, s]), device);
            x = Tensor::cat(vec![x, standard(centre.repeat_dim(0, m))], 2);
        }
        let convolve = |x: Tensor<3>, i: usize| {
            relu(Self::windows(x, device).matmul(p[2 * i].clone()) + p[2 * i + 1].clone())
        };
        let mut u: Tensor<3> = convolve(x, 0).reshape([m, s, width]);
        let n = self.shape.positions();
        if s % 2 == 1 {
            // Values are at least zero, so that zeros beside the last one leave it as it is.
            u = Tensor::cat(vec![u, Tensor::zeros([m, 1, width], device)], 1);
        }
        let paired: Tensor<3> = u.reshape([m * n, 2, width]).max_dim(1).reshape([m, n, width]);
        let v: Tensor<3> = convolve(paired, 1).reshape([m, n, width]);
        let features: Tensor<2> = convolve(v, 2).reshape([m, self.shape.features()]);
        q + (features.matmul(p[6].clone()) + p[7].clone()) * self.deviation
    }

    fn tensors(&self, values: &[Vec<f32>], device: &Device) -> Vec<Tensor<2>> {
        let layers = self.layout.convolutions.iter().chain([&self.layout.dense]);
        let shapes = layers.flat_map(|layer| [[layer.from, layer.to], [1, layer.to]]);
        let pairs = values.iter().zip(shapes);
        pairs.map(|(v, shape)| Tensor::from_data(TensorData::new(v.clone(), shape), device)).collect()
    }
}

/// How far values are from zero, in the mean of squares; 1 where all are zero.
#[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
pub(crate) fn deviation(values: &[f32]) -> f32 {
    let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    let deviation = (squares / values.len().max(1) as f64).sqrt() as f32;
    if deviation > f32::MIN_POSITIVE { deviation } else { 1.0 }
}

impl Network for ConvNetwork {
    fn parameters(&self) -> Vec<Parameter> {
        self.start.iter().map(|values| Parameter { values: values.clone(), is_direct: false }).collect()
    }

    fn gradients(
        &self,
        values: &[Vec<f32>],
        x: &[f32],
        slope: &mut dyn FnMut(&[f32]) -> Vec<f32>,
    ) -> Vec<Vec<f32>> {
        let device = Device::flex().autodiff();
        let parameters: Vec<Tensor<2>> =
            self.tensors(values, &device).into_iter().map(Tensor::require_grad).collect();
        let t = self.forward(&parameters, rows(x, self.shape.s, &device), &device);
        let dt = rows(&slope(&floats(&t)), self.shape.s, &device);
        gradients(t, dt, &parameters)
    }

    fn outputs(&self, values: &[Vec<f32>], x: &[f32]) -> Vec<f32> {
        let stored = self.stored(values, 1.0);
        let net = conv::Network { shape: self.shape, layout: &self.layout, values: stored.view() };
        let mut t = vec![0.0; x.len()];
        let some = CHUNK * self.shape.s;
        t.par_chunks_mut(some).zip(x.par_chunks(some)).for_each_init(cpu::Room::default, |room, (t, x)| {
            cpu::forward(Simd::detect(), net, x, t, room);
        });
        t
    }
}
