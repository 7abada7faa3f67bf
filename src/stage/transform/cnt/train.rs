//! Training a network: burn gives the gradients.
//!
//! Of burn only tensors and their differentiation are used; the loss, its gradient, the optimiser and what is kept are
//! `train/inrp`'s, as for linear maps. (Burn 0.22 with its `flex` backend, not candle 0.11: a step of the default network and
//! 512 rows, 384 to 96 dimensions, took 49 ms against 492, 784 to 196 159 ms against 856, two cores.)

use burn_tensor::{Device, Tensor, TensorData, activation::softmax};
use faer::MatRef;
use half::f16;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{BIASES, Layer, Layout, Shape, WEIGHTS, Weights};
use crate::{
    network::OwnValues,
    simd::Simd,
    train::{
        Network, Parameter,
        inrp::Standard,
        tensors::{floats, gradients, rows},
    },
};

/// Added to variances.
const EPSILON: f32 = 1e-5;

/// A network on its way.
pub(crate) struct CntNetwork {
    shape: Shape,
    layout: Layout,
    places: Places,
    start: Vec<Parameter>,
    /// Standard rows that batch normalisation is folded by, `[n, d]`.
    sample: Vec<f32>,
}

/// Which parameter is which.
struct Places {
    projections: usize,
    normal: [usize; 2],
    token: usize,
    token_bias: usize,
    token_normal: [usize; 2],
    direct: usize,
    output: usize,
    stages: Vec<StagePlaces>,
}

struct StagePlaces {
    /// Weights and biases.
    queries: [usize; 2],
    keys: [usize; 2],
    out: usize,
    out_normal: [usize; 2],
    up: [usize; 2],
    down: usize,
    down_normal: [usize; 2],
}

/// Collects parameters.
struct Start<'r> {
    all: Vec<Parameter>,
    rng: &'r mut ChaCha8Rng,
}

impl Start<'_> {
    fn push(&mut self, values: Vec<f32>, is_direct: bool) -> usize {
        self.all.push(Parameter { values, is_direct });
        self.all.len() - 1
    }

    fn constant(&mut self, n: usize, value: f32) -> usize {
        self.push(vec![value; n], false)
    }

    /// Weights of a layer, uniform in `±1/√from`.
    fn dense(&mut self, from: usize, to: usize) -> usize {
        let most = 1.0 / (from as f32).sqrt();
        let values = (0..from * to).map(|_| self.rng.random_range(-most..most)).collect();
        self.push(values, false)
    }

    fn layer(&mut self, from: usize, to: usize) -> [usize; 2] {
        [self.dense(from, to), self.constant(to, 0.0)]
    }

    /// Factor and shift of a batch normalisation.
    fn normal(&mut self, n: usize, factor: f32) -> [usize; 2] {
        [self.constant(n, factor), self.constant(n, 0.0)]
    }
}

/// Mean and variance of what went into each batch normalisation.
type Statistics = Vec<[Vec<f32>; 2]>;

impl CntNetwork {
    /// A network that is `axes`, `[d, s]`, to begin with.
    pub fn new(shape: Shape, axes: MatRef<'_, f32>, sample: Vec<f32>, rng: &mut ChaCha8Rng) -> Self {
        let Shape { d, s, n_tokens, n_heads, n_stages, hidden, key } = shape;
        let sparse = super::super::linear::train::srp(d, n_tokens * s, rng);
        let mut start = Start { all: Vec::new(), rng };
        let projections = start.push(
            (0..d * n_tokens * s).map(|i| sparse[(i / (n_tokens * s), i % (n_tokens * s))]).collect(),
            false,
        );
        let normal = start.normal(n_tokens * s, 1.0);
        let [token, token_bias] = start.layer(d, s);
        let token_normal = start.normal(s, 0.0);
        let share = 1.0 / (n_stages + 1) as f32;
        let direct = start.push((0..d * s).map(|i| share * axes[(i / s, i % s)]).collect(), true);
        let output = start.push((0..s * s).map(|i| if i / s == i % s { 1.0 } else { 0.0 }).collect(), true);
        let stages = (0..n_stages)
            .map(|_| StagePlaces {
                queries: start.layer(s, n_heads * key),
                keys: start.layer(s, n_heads * (key + s)),
                out: start.dense(n_heads * s, s),
                out_normal: start.normal(s, 0.0),
                up: start.layer(s, hidden),
                down: start.dense(hidden, s),
                down_normal: start.normal(s, 0.0),
            })
            .collect();
        let places = Places { projections, normal, token, token_bias, token_normal, direct, output, stages };
        Self { shape, layout: shape.layout(), places, start: start.all, sample }
    }

    /// Outputs for `x`, normalised by its own statistics, which are told to `seen`.
    fn forward(
        &self,
        p: &[Tensor<2>],
        x: Tensor<2>,
        seen: &mut dyn FnMut(&Tensor<2>, &Tensor<2>),
    ) -> Tensor<2> {
        let Shape { s, n_tokens, n_heads, key, .. } = self.shape;
        let Places { projections, normal, token, token_bias, token_normal, direct, output, .. } = self.places;
        let [m, _] = x.dims();
        let n = n_tokens + 1;
        let at = |i: usize| p[i].clone();
        let mut normalise = |x: Tensor<2>, [factor, shift]: [usize; 2]| {
            let mean = x.clone().mean_dim(0);
            let centred = x - mean.clone();
            let variance = centred.clone().powi_scalar(2).mean_dim(0);
            seen(&mean, &variance);
            centred / (variance + EPSILON).sqrt() * at(factor) + at(shift)
        };
        let tokens = normalise(x.clone().matmul(at(projections)), normal).reshape([m, n_tokens, s]);
        let gated = normalise(hswish(x.clone().matmul(at(token)) + at(token_bias)), token_normal);
        let direct = x.matmul(at(direct));
        let last: Tensor<3> = (gated + direct.clone()).reshape([m, 1, s]);
        let mut tokens: Tensor<3> = Tensor::cat(vec![tokens, last], 1);
        for (i, stage) in self.places.stages.iter().enumerate() {
            let is_last = i + 1 == self.places.stages.len();
            let all: Tensor<2> = tokens.clone().reshape([m * n, s]);
            let keys: Tensor<4> = (all.matmul(at(stage.keys[0])) + at(stage.keys[1]))
                .reshape([m, n, n_heads, key + s])
                .swap_dims(1, 2);
            let values = keys.clone().narrow(3, key, s);
            let keys = keys.narrow(3, 0, key);
            let own = if is_last { tokens.clone().narrow(1, n_tokens, 1) } else { tokens.clone() };
            let each = own.dims()[1];
            let own: Tensor<2> = own.reshape([m * each, s]);
            let queries: Tensor<4> = (own.clone().matmul(at(stage.queries[0])) + at(stage.queries[1]))
                .reshape([m, each, n_heads, key])
                .swap_dims(1, 2);
            let fits = softmax(queries.matmul(keys.swap_dims(2, 3)) / (key as f32).sqrt(), 3);
            let values: Tensor<2> = fits.matmul(values).swap_dims(1, 2).reshape([m * each, n_heads * s]);
            let own = own + normalise(values.clamp(-1.0, 1.0).matmul(at(stage.out)), stage.out_normal);
            let up = hswish(own.clone().matmul(at(stage.up[0])) + at(stage.up[1]));
            let own = own + normalise(up.matmul(at(stage.down)), stage.down_normal);
            let own: Tensor<3> = own.reshape([m, each, s]);
            let last = own.clone().narrow(1, each - 1, 1) + direct.clone().reshape([m, 1, s]);
            tokens = if is_last { last } else { Tensor::cat(vec![own.narrow(1, 0, n_tokens), last], 1) };
        }
        tokens.reshape([m, s]).matmul(at(output))
    }

    /// Parameters as tensors.
    fn tensors(&self, values: &[Vec<f32>], device: &Device) -> Vec<Tensor<2>> {
        let shapes = self.shapes();
        let pairs = values.iter().zip(shapes);
        pairs.map(|(v, shape)| Tensor::from_data(TensorData::new(v.clone(), shape), device)).collect()
    }

    /// Rows and columns of each parameter.
    fn shapes(&self) -> Vec<[usize; 2]> {
        let Shape { d, s, n_heads, hidden, .. } = self.shape;
        let rows = |i: usize| {
            let places = &self.places;
            let of_stage = |stage: &StagePlaces| match i {
                _ if i == stage.queries[0] || i == stage.keys[0] || i == stage.up[0] => Some(s),
                _ if i == stage.out => Some(n_heads * s),
                _ if i == stage.down => Some(hidden),
                _ => None,
            };
            match i {
                _ if i == places.projections || i == places.token || i == places.direct => d,
                _ if i == places.output => s,
                _ => places.stages.iter().find_map(of_stage).unwrap_or(1),
            }
        };
        self.start.iter().enumerate().map(|(i, p)| [rows(i), p.values.len() / rows(i)]).collect()
    }

    /// Mean and variance of everything that is normalised, over the sample.
    fn statistics(&self, values: &[Vec<f32>]) -> Statistics {
        let device = Device::flex();
        let x = rows(&self.sample, self.shape.d, &device);
        let mut statistics = Vec::new();
        self.forward(&self.tensors(values, &device), x, &mut |mean, variance| {
            statistics.push([mean, variance].map(floats));
        });
        statistics
    }

    /// What an index stores: batch normalisation folded in, outputs turned, for rows of a standard; without one for rows that have been
    /// brought to it.
    pub fn weights(
        &self,
        values: &[Vec<f32>],
        turn: Option<MatRef<'_, f32>>,
        standard: Option<&Standard>,
    ) -> OwnWeights {
        let Shape { d, s, n_tokens, .. } = self.shape;
        let (places, layout) = (&self.places, &self.layout);
        let mut weights = vec![f16::ZERO; layout.n_weights];
        let mut biases = vec![0.0; layout.n_biases];
        // Factors and shifts in the order of the forward pass.
        let mut statistics = self.statistics(values).into_iter();
        let mut fold = |[factor, shift]: [usize; 2]| -> [Vec<f32>; 2] {
            let [means, variances] = statistics.next().unwrap_or_default();
            let factors: Vec<f32> =
                values[factor].iter().zip(variances).map(|(f, v)| f / (v + EPSILON).sqrt()).collect();
            let shifts = values[shift].iter().zip(&factors).zip(means).map(|((s, f), m)| s - f * m).collect();
            [factors, shifts]
        };
        let mut put = |layer: &Layer, column: usize, values: &[f32], factors: Option<&[f32]>| {
            let n = values.len() / layer.from;
            for (i, v) in values.iter().enumerate() {
                let at = layer.weights_at + i / n * layer.to + column + i % n;
                weights[at] = f16::from_f32(v * factors.map_or(1.0, |f| f[i % n]));
            }
        };
        let deviation = standard.map_or(1.0, |standard| standard.deviation);
        biases[layout.scales_at..][..2].copy_from_slice(&[deviation, 1.0 / deviation]);
        if let Some(standard) = standard {
            biases[layout.centre_at..][..d].copy_from_slice(&standard.centre);
        }
        let [factors, shifts] = fold(places.normal);
        put(&layout.input, 0, &values[places.projections], Some(&factors));
        biases[layout.input.biases_at..][..n_tokens * s].copy_from_slice(&shifts);
        put(&layout.input, n_tokens * s, &values[places.token], None);
        biases[layout.input.biases_at + n_tokens * s..][..s].copy_from_slice(&values[places.token_bias]);
        put(&layout.input, (n_tokens + 1) * s, &values[places.direct], None);
        let [gate, shift] = fold(places.token_normal);
        biases[layout.gate_at..][..s].copy_from_slice(&gate);
        biases[layout.shift_at..][..s].copy_from_slice(&shift);
        for (stage, at) in layout.stages.iter().zip(&places.stages) {
            for (layer, [w, b]) in [(&stage.queries, at.queries), (&stage.keys, at.keys), (&stage.up, at.up)]
            {
                put(layer, 0, &values[w], None);
                biases[layer.biases_at..][..layer.to].copy_from_slice(&values[b]);
            }
            for (layer, w, normal) in
                [(&stage.out, at.out, at.out_normal), (&stage.down, at.down, at.down_normal)]
            {
                let [factors, shifts] = fold(normal);
                put(layer, 0, &values[w], Some(&factors));
                biases[layer.biases_at..][..layer.to].copy_from_slice(&shifts);
            }
        }
        match turn {
            None => put(&layout.output, 0, &values[places.output], None),
            Some(turn) => {
                let turned = crate::train::linalg::par_product(&values[places.output], turn);
                put(&layout.output, 0, &turned, None);
            }
        }
        OwnWeights { shape: self.shape, layout: layout.clone(), values: OwnValues { weights, biases } }
    }
}

/// Weights of a network that no index holds yet.
pub(crate) struct OwnWeights {
    shape: Shape,
    layout: Layout,
    values: OwnValues,
}

impl OwnWeights {
    /// As inference sees them.
    pub fn view(&self) -> Weights<'_> {
        Weights { shape: self.shape, layout: &self.layout, values: self.values.view() }
    }

    /// Fills in the tensors.
    pub fn write(&self, parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>) {
        if let Some(out) = parts.get_mut(WEIGHTS) {
            out.copy_from_slice(bytemuck::cast_slice(&self.values.weights));
        }
        if let Some(out) = parts.get_mut(BIASES) {
            out.copy_from_slice(bytemuck::cast_slice(&self.values.biases));
        }
    }
}

impl Network for CntNetwork {
    fn parameters(&self) -> Vec<Parameter> {
        self.start.clone()
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
        let y = self.forward(&parameters, rows(x, self.shape.d, &device), &mut |_, _| {});
        let dy = rows(&slope(&floats(&y)), self.shape.s, &device);
        gradients(y, dy, &parameters)
    }

    fn outputs(&self, values: &[Vec<f32>], x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / self.shape.d * self.shape.s];
        let weights = self.weights(values, None, None);
        super::cpu::forward(Simd::detect(), weights.view(), x, &mut y, &mut super::cpu::Room::default());
        y
    }
}

fn hswish(x: Tensor<2>) -> Tensor<2> {
    x.clone() * ((x + 3.0).clamp(0.0, 6.0) / 6.0)
}

#[cfg(test)]
mod tests {
    use faer::Mat;

    use super::*;
    use crate::{
        spec::CntSizes,
        stage::transform::cnt::{cpu, tests::queries},
        train::{generator, linalg, normal, rotation},
    };

    /// A network of which every part does something.
    fn moved(stages: u8) -> (CntNetwork, Vec<Vec<f32>>) {
        let shape = Shape::new(33, 10, CntSizes { tokens: 3, heads: 2, stages, expansion: 2 });
        let mut rng = generator(7, "test");
        let axes = Mat::from_fn(33, 10, |i, j| if i == j { 1.0 } else { 0.0 });
        let network = CntNetwork::new(shape, axes.as_ref(), queries(200, 33), &mut rng);
        let mut values: Vec<Vec<f32>> = network.start.iter().map(|p| p.values.clone()).collect();
        values.iter_mut().flatten().for_each(|v| *v += 0.2 * normal(&mut rng));
        (network, values)
    }

    fn assert_near(got: &[f32], want: &[f32], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let size = want.iter().map(|v| v * v).sum::<f32>();
        let error = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        // Weights are rounded to 11 bits.
        assert!(error < 1e-5 * size, "{what}: squared error {error} of {size}");
    }

    #[test]
    fn what_is_stored_is_what_was_trained() {
        for stages in 1..=3 {
            let (network, values) = moved(stages);
            let (d, s) = (33, 10);
            let device = Device::flex();
            let x = rows(&network.sample, d, &device);
            let want = floats(&network.forward(&network.tensors(&values, &device), x, &mut |_, _| {}));
            assert_near(&network.outputs(&values, &network.sample), &want, &format!("{stages} stages"));

            // Turned, and for rows that have not been brought to the standard.
            let standard = Standard { centre: (0..d).map(|i| i as f32).collect(), deviation: 5.0 };
            let turn = rotation::random(s, &mut generator(8, "test"));
            let raw = network.sample.chunks_exact(d).flat_map(|row| {
                row.iter().zip(&standard.centre).map(|(v, centre)| 5.0 * v + centre).collect::<Vec<f32>>()
            });
            let mut got = vec![0.0; want.len()];
            let stored = network.weights(&values, Some(turn.as_ref()), Some(&standard));
            let raw: Vec<f32> = raw.collect();
            cpu::forward(Simd::detect(), stored.view(), &raw, &mut got, &mut cpu::Room::default());
            let turned: Vec<f32> =
                linalg::par_product(&want, turn.as_ref()).iter().map(|v| 5.0 * v).collect();
            assert_near(&got, &turned, &format!("{stages} stages, turned"));
        }
    }

    #[test]
    fn gradients_are_those_of_the_outputs() {
        let (network, values) = moved(2);
        let x = &network.sample[..50 * 33];
        // The sum of squares of the outputs, whose slope is twice the outputs.
        let loss = |values: &[Vec<f32>]| {
            let device = Device::flex();
            let y = network.forward(&network.tensors(values, &device), rows(x, 33, &device), &mut |_, _| {});
            floats(&y).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
        };
        let gradients = network.gradients(&values, x, &mut |y| y.iter().map(|v| 2.0 * v).collect());
        for (i, gradient) in gradients.iter().enumerate() {
            let (at, steepest) =
                gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
            let by = 3e-3;
            let moved = |by: f32| {
                let mut values = values.clone();
                values[i][at] += by;
                loss(&values)
            };
            let want = (moved(by) - moved(-by)) / (2.0 * f64::from(by));
            let got = f64::from(*steepest);
            assert!((got - want).abs() < 0.03 * want.abs() + 0.02, "parameter {i}: {got} against {want}");
        }
    }
}
