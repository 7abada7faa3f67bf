//! CNT: a small transformer that compresses.
//!
//! A vector becomes n projections of it and a *compression token*, which attends to them; what has become of the token, through
//! one more linear map, is the result. Beside all that a linear map A of the vector is added to the token at the start and after
//! each stage: the direct path, which starts as principal axes. There are no positions: projections are a set.
//!
//! ```text
//! x̂ = (x − centre) / deviation
//! t_i = x̂·P_i + p_i                          n tokens, [s] each
//! t_n = gate ⊙ hswish(x̂·C + c) + shift + x̂·A  the compression token
//! per stage, for every token; in the last one for t_n alone:
//!     o_h = Σ_j softmax_j(q_h·k_h,j / √w) v_h,j    heads h, w = ⌈s/4⌉ wide queries and keys, s wide values
//!     t += clamp(o, −1, 1)·O + o_bias
//!     t += hswish(t·U + u)·D + d_bias          a perceptron of expansion·s hidden values
//!     t_n += x̂·A
//! y = deviation·(t_n·B)
//! ```
//!
//! hswish(v) = v·clamp(v + 3, 0, 6)/6. Batch normalisation, which follows P, C, O and D in training, is folded into them.
//!
//! Source: Zhang, Tang, Hu, Wang, "Connecting Compression Spaces with Transformer for Approximate Nearest Neighbor Search",
//! ECCV 2022 (first called CNT), section 3.2. Ours differ from the paper's: the direct path starts as principal axes and the other paths
//! as nothing, and sizes are smaller ([`CntSizes`]); docs/compression.md says why.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
#[cfg(feature = "neural")]
pub(crate) mod train;

use std::sync::Arc;

use half::f16;

use crate::{
    format::{Image, OpenError, TensorDecl, View},
    network::{Layer, MOST, Places, Values},
    spec::CntSizes,
};

const WEIGHTS: &str = "cnt.weights";
const BIASES: &str = "cnt.biases";

/// Rows that batch normalisation is folded by.
pub(crate) const STATISTICS: usize = 2048;

/// Sizes of everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub d: usize,
    pub s: usize,
    /// Projections, the compression token not among them.
    pub n_tokens: usize,
    pub n_heads: usize,
    pub n_stages: usize,
    /// Hidden values of a perceptron.
    pub hidden: usize,
    /// Width of a query or key.
    pub key: usize,
}

/// The layers of a stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage {
    /// To queries, head by head.
    pub queries: Layer,
    /// To keys and values: of each head its key, then its value.
    pub keys: Layer,
    /// From the values of all heads.
    pub out: Layer,
    pub up: Layer,
    pub down: Layer,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// To all projections, the compression token and the direct path, side by side.
    pub input: Layer,
    pub stages: Vec<Stage>,
    /// B; its biases are zeros.
    pub output: Layer,
    /// Biases: deviation and its inverse, `[2]`.
    pub scales_at: usize,
    /// `[d]`.
    pub centre_at: usize,
    /// `[s]` each.
    pub gate_at: usize,
    pub shift_at: usize,
    pub n_weights: usize,
    pub n_biases: usize,
}

impl Shape {
    /// The shape of a network from `d` to `s` dimensions.
    pub fn new(d: usize, s: usize, sizes: CntSizes) -> Self {
        Self {
            d,
            s,
            n_tokens: sizes.tokens.into(),
            n_heads: sizes.heads.into(),
            n_stages: sizes.stages.into(),
            hidden: usize::from(sizes.expansion) * s,
            key: s.div_ceil(4),
        }
    }

    /// Bytes that training holds at its peak, beside the rows that it samples: parameters in seven forms, and what the layers make of
    /// the rows that batch normalisation is folded by, as often over as was measured.
    pub fn training_bytes(&self) -> usize {
        let keys = (self.n_tokens + 1) * self.n_heads * (self.key + self.s);
        let layers = 4 * self.wide() + (self.n_stages + 1) * keys;
        7 * 4 * self.layout().n_weights + 4 * STATISTICS * layers
    }

    /// Width of what the input layer makes of a vector: projections, compression token, direct path.
    pub fn wide(&self) -> usize {
        (self.n_tokens + 2) * self.s
    }

    /// Where each layer is.
    pub fn layout(&self) -> Layout {
        let Self { d, s, n_heads, .. } = *self;
        let mut places = Places::default();
        let [scales_at, centre_at, gate_at, shift_at] = [2, d, s, s].map(|n| places.take(n));
        let mut layer = |from: usize, to: usize| places.layer(from, to);
        let input = layer(d, self.wide());
        let stages = (0..self.n_stages)
            .map(|_| Stage {
                queries: layer(s, n_heads * self.key),
                keys: layer(s, n_heads * (self.key + s)),
                out: layer(n_heads * s, s),
                up: layer(s, self.hidden),
                down: layer(self.hidden, s),
            })
            .collect();
        let output = layer(s, s);
        let Places { n_weights, n_biases } = places;
        Layout { input, stages, output, scales_at, centre_at, gate_at, shift_at, n_weights, n_biases }
    }

    /// Products of a vector with weights and of tokens with each other.
    pub fn n_products(&self) -> usize {
        let Self { d, s, n_heads, key, hidden, n_tokens, n_stages, .. } = *self;
        let tokens = n_tokens + 1;
        let one = s * n_heads * key + n_heads * s * s + 2 * s * hidden + tokens * n_heads * (key + s);
        let all = tokens * s * n_heads * (key + s);
        d * self.wide() + n_stages * all + (1 + (n_stages - 1) * tokens) * one + s * s
    }
}

/// A network as an index file holds it.
pub(crate) struct Cnt {
    shape: Shape,
    layout: Layout,
    weights: View<f16>,
    biases: View<f32>,
}

/// Its sizes and its values.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub shape: Shape,
    pub layout: &'a Layout,
    pub values: Values<'a>,
}

impl Cnt {
    /// The tensors of a network.
    pub fn declare(shape: Shape) -> Vec<TensorDecl> {
        let layout = shape.layout();
        vec![
            TensorDecl::new::<f16>(WEIGHTS, &[layout.n_weights]),
            TensorDecl::new::<f32>(BIASES, &[layout.n_biases]),
        ]
    }

    /// Reads the tensors.
    pub fn open(image: &Arc<Image>, shape: Shape) -> Result<Self, OpenError> {
        let layout = shape.layout();
        let weights: View<f16> = image.view(WEIGHTS, &[layout.n_weights])?;
        let biases: View<f32> = image.view(BIASES, &[layout.n_biases])?;
        let not_finite = |name: &str| OpenError::Value {
            name: name.to_owned(),
            reason: "expected finite values".to_owned(),
        };
        if weights.iter().any(|v| !v.is_finite()) {
            return Err(not_finite(WEIGHTS));
        }
        if biases.iter().any(|v| !v.is_finite()) {
            return Err(not_finite(BIASES));
        }
        Ok(Self { shape, layout, weights, biases })
    }

    /// Bytes that a query reads.
    pub fn n_bytes(&self) -> usize {
        2 * self.weights.len() + 4 * self.biases.len()
    }

    /// Its values.
    pub fn weights(&self) -> Weights<'_> {
        let values = Values { weights: &self.weights, biases: &self.biases };
        Weights { shape: self.shape, layout: &self.layout, values }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        block::BlockQuery,
        format::ImageBuilder,
        metric::Metric,
        simd::Simd,
        spec::TransformSpec,
        stage::transform::{self, Transform, cpu::Projection},
        train::{generator, normal},
    };

    /// Networks of several shapes, from 129 to 70 dimensions: of tiles that are full and of others.
    pub const SIZES: [CntSizes; 3] = [
        CntSizes { tokens: 1, heads: 1, stages: 1, expansion: 1 },
        CntSizes { tokens: 4, heads: 2, stages: 2, expansion: 2 },
        CntSizes { tokens: 64, heads: 3, stages: 1, expansion: 4 },
    ];

    /// A network of random weights.
    pub fn random(d: usize, s: usize, sizes: CntSizes, metric: Metric) -> Transform {
        let spec = TransformSpec::Cnt { dims: Some(s), sizes };
        let mut rng = generator(9, "test");
        let entries = [("format", "nearfield"), ("version", "1")];
        let entries = entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let mut image = ImageBuilder::new(entries, Transform::declare(spec, d, s)).unwrap();
        let layout = Shape::new(d, s, sizes).layout();
        let mut parts = image.parts();
        // Outputs of about the size of inputs.
        let mut layers = vec![layout.input, layout.output];
        layers.extend(layout.stages.iter().flat_map(|at| [at.queries, at.keys, at.out, at.up, at.down]));
        for Layer { from, to, weights_at, .. } in layers {
            let spread = 1.0 / (from as f32).sqrt();
            let weights: Vec<f16> =
                (0..from * to).map(|_| f16::from_f32(spread * normal(&mut rng))).collect();
            let out = &mut parts.get_mut(WEIGHTS).unwrap()[2 * weights_at..2 * (weights_at + from * to)];
            out.copy_from_slice(bytemuck::cast_slice(&weights));
        }
        let mut biases: Vec<f32> = (0..layout.n_biases).map(|_| 0.3 * normal(&mut rng)).collect();
        biases[layout.scales_at..][..2].copy_from_slice(&[2.0, 0.5]);
        parts.get_mut(BIASES).unwrap().copy_from_slice(bytemuck::cast_slice(&biases));
        Transform::open(&image.finish().unwrap(), spec, metric, d, s).unwrap()
    }

    /// Queries `[n, d]`.
    pub fn queries(n: usize, d: usize) -> Vec<f32> {
        let mut rng = generator(10, "test");
        (0..n * d).map(|_| normal(&mut rng)).collect()
    }

    /// Asserts that results are those of the reference but for rounding.
    pub fn assert_close(got: &[f32], want: &[f32], what: &str) {
        assert!(got.len() >= want.len() && !want.is_empty(), "{what}: {} values", got.len());
        let size = want.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(
                (got - want).abs() <= 2e-5 * size,
                "{what}, value {i}: {got} against {want}, of up to {size}"
            );
        }
    }

    #[test]
    fn every_instruction_set_agrees_with_the_reference() {
        let (d, s) = (129, 70);
        for sizes in SIZES {
            for metric in [Metric::L2, Metric::Ip] {
                let network = random(d, s, sizes, metric);
                let queries = queries(4, d);
                let mut rows = queries.chunks_exact(d);
                let rows: [&[f32]; 4] = std::array::from_fn(|_| rows.next().unwrap());
                let want = rows.map(|q| transform::reference::project(&network, q));
                for simd in Simd::available() {
                    let mut room = cpu::Room::default();
                    let mut codes: [BlockQuery; 4] = Default::default();
                    let mut got: [Vec<f32>; 4] = Default::default();
                    let mut each = codes.iter_mut().zip(&mut got).zip(rows);
                    let four: [Projection<'_>; 4] = std::array::from_fn(|_| {
                        let ((codes, reduced), q) = each.next().unwrap();
                        Projection { q, codes, reduced }
                    });
                    transform::cpu::project(simd, &network, four, &mut room);
                    for (got, want) in got.iter().zip(&want) {
                        assert_close(got, want, &format!("{sizes:?} {metric} {simd:?}"));
                    }
                    let (mut alone, mut codes) = (Vec::new(), BlockQuery::default());
                    let one = Projection { q: rows[2], codes: &mut codes, reduced: &mut alone };
                    transform::cpu::project(simd, &network, [one], &mut room);
                    assert_eq!(alone, got[2], "{sizes:?} {metric} {simd:?}: alone and in company");
                }
            }
        }
    }
}
