//! A convolutional network that moves a query, ahead of vectors that it is then compared with.
//!
//! Compared with a vector for each list it is a router, with a vector for each point of one list a scorer: the two layers of a learned
//! index that "emulates hashing". Each is a 1-D convolution over the query's coordinates:
//!
//! ```text
//! x̂ = clamp(q / deviation, ±MOST)          [s], one channel; of a list's network a second one, its centroid
//! u = relu(x̂ ∗ C₁ + c₁)                     [s, w], kernel 3, zeros beyond both ends
//! v = max of neighbouring pairs of u        [⌈s/2⌉, w]
//! v = relu(v ∗ C₂ + c₂)                     [⌈s/2⌉, w]
//! v = relu(v ∗ C₃ + c₃)                     [⌈s/2⌉, 2w]
//! t = q + deviation·(v·P + p)               [s], v as one row of ⌈s/2⌉·2w values
//! ```
//!
//! The paper goes from v to a softmax over all lists, or all points of a list, by one dense layer of 12 800 weights for each (s = 100,
//! w = 128). Here that layer is a product of two, P and the vectors t meets, and q goes around the convolutions: with P = 0 the network
//! is nothing, and lists or points are compared with the query itself. From there training can only improve
//! (docs/routing.md says by how much, and what becomes of the paper's network without either). Where it has not, deviation is 0 in
//! the file: such a network is nothing, and is not computed.
//!
//! Products of one query at s = 100, w = 128: 8.6 million, of which 2.5 and 4.9 are the second and third convolution.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;

use std::sync::Arc;

use half::f16;

use super::{Layer, Places, Values};
use crate::format::{Image, OpenError, TensorDecl, View};

/// Coordinates that a convolution sees together.
pub(crate) const KERNEL: usize = 3;

/// Sizes of everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Dimensions of queries.
    pub s: usize,
    /// Channels of the first two convolutions; the third has twice as many.
    pub width: usize,
    /// Channels of the input: the query alone, or a centre beside it.
    pub channels: usize,
}

/// Where everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub convolutions: [Layer; 3],
    /// P.
    pub dense: Layer,
    /// Biases: deviation and its inverse, `[2]`.
    pub scales_at: usize,
    /// The second channel, `[s]`, where there is one.
    pub centre_at: usize,
    pub n_weights: usize,
    pub n_biases: usize,
}

impl Shape {
    /// Positions after pairs have become one.
    pub fn positions(&self) -> usize {
        self.s.div_ceil(2)
    }

    /// Values that P meets.
    pub fn features(&self) -> usize {
        self.positions() * 2 * self.width
    }

    /// Where each layer is.
    pub fn layout(&self) -> Layout {
        let Self { s, width, channels } = *self;
        let mut places = Places::default();
        let scales_at = places.take(2);
        let centre_at = places.take(s * (channels - 1));
        let sizes = [(channels, width), (width, width), (width, 2 * width)];
        let convolutions = sizes.map(|(from, to)| places.layer(KERNEL * from, to));
        let dense = places.layer(self.features(), s);
        let Places { n_weights, n_biases } = places;
        Layout { convolutions, dense, scales_at, centre_at, n_weights, n_biases }
    }

    /// Bytes that training holds at its peak, in steps of so many queries: parameters in nine forms, and what layers make of the queries
    /// and its slopes.
    pub fn training_bytes(&self, batch: usize) -> usize {
        let Layout { convolutions: [first, second, third], n_weights, .. } = self.layout();
        let made = |layer: &Layer, positions: usize| positions * (layer.from + 2 * layer.to);
        let n = self.positions();
        let query = made(&first, self.s) + made(&second, n) + made(&third, n);
        4 * (9 * n_weights + 2 * batch * query)
    }

    /// Products of a query with weights.
    pub fn n_products(&self) -> usize {
        let [first, second, third] = self.layout().convolutions.map(|layer| layer.from * layer.to);
        self.s * first + self.positions() * (second + third) + self.features() * self.s
    }
}

/// Networks of one shape, as an index file holds them.
pub(crate) struct Networks {
    pub shape: Shape,
    pub layout: Layout,
    weights: View<f16>,
    biases: View<f32>,
}

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Network<'a> {
    pub shape: Shape,
    pub layout: &'a Layout,
    pub values: Values<'a>,
}

impl Network<'_> {
    /// Whether it leaves queries where they are.
    pub fn is_nothing(&self) -> bool {
        self.values.biases(self.layout.scales_at, 2)[0] == 0.0
    }
}

/// The names of the tensors: weights and biases.
pub(crate) type Names = [&'static str; 2];

impl Networks {
    /// The tensors of `n` networks.
    pub fn declare(names: Names, shape: Shape, n: usize) -> [TensorDecl; 2] {
        let layout = shape.layout();
        [
            TensorDecl::new::<f16>(names[0], &[n, layout.n_weights]),
            TensorDecl::new::<f32>(names[1], &[n, layout.n_biases]),
        ]
    }

    /// Reads the tensors.
    pub fn open(image: &Arc<Image>, names: Names, shape: Shape, n: usize) -> Result<Self, OpenError> {
        let layout = shape.layout();
        let weights = image.view(names[0], &[n, layout.n_weights])?;
        let biases: View<f32> = image.view(names[1], &[n, layout.n_biases])?;
        if biases.iter().any(|v| !v.is_finite()) {
            let reason = "expected finite values".to_owned();
            return Err(OpenError::Value { name: names[1].to_owned(), reason });
        }
        Ok(Self { shape, layout, weights, biases })
    }

    /// The network of a list, or the only one.
    pub fn of(&self, list: usize) -> Network<'_> {
        let Layout { n_weights, n_biases, .. } = self.layout;
        let values = Values {
            weights: &self.weights[list * n_weights..(list + 1) * n_weights],
            biases: &self.biases[list * n_biases..(list + 1) * n_biases],
        };
        Network { shape: self.shape, layout: &self.layout, values }
    }

    /// Bytes of one network.
    pub fn n_bytes(&self) -> usize {
        2 * self.layout.n_weights + 4 * self.layout.n_biases
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        format::ImageBuilder,
        simd::Simd,
        train::{generator, normal},
    };

    const NAMES: Names = ["weights", "biases"];

    /// Shapes with an odd and an even number of positions, one channel and two, tiles that are full and others.
    pub const SHAPES: [Shape; 5] = [
        Shape { s: 1, width: 1, channels: 1 },
        Shape { s: 2, width: 3, channels: 2 },
        Shape { s: 17, width: 64, channels: 1 },
        Shape { s: 20, width: 5, channels: 2 },
        Shape { s: 131, width: 20, channels: 2 },
    ];

    /// Networks of random weights, as an index holds them.
    pub fn random(shape: Shape, n: usize) -> Networks {
        let mut rng = generator(9, "test");
        let entries = [("format", "nearfield"), ("version", "1")];
        let entries = entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let mut image = ImageBuilder::new(entries, Networks::declare(NAMES, shape, n).to_vec()).unwrap();
        let layout = shape.layout();
        let mut parts = image.parts();
        let weights: Vec<f16> = (0..n)
            .flat_map(|_| layout.convolutions.into_iter().chain([layout.dense]))
            .flat_map(|layer| {
                // Outputs of about the size of inputs.
                let spread = (2.0 / layer.from as f32).sqrt();
                (0..layer.from * layer.to)
                    .map(|_| f16::from_f32(spread * normal(&mut rng)))
                    .collect::<Vec<_>>()
            })
            .collect();
        parts.get_mut(NAMES[0]).unwrap().copy_from_slice(bytemuck::cast_slice(&weights));
        let mut biases: Vec<f32> = (0..n * layout.n_biases).map(|_| 0.3 * normal(&mut rng)).collect();
        for biases in biases.chunks_exact_mut(layout.n_biases) {
            biases[layout.scales_at..][..2].copy_from_slice(&[2.0, 0.5]);
        }
        parts.get_mut(NAMES[1]).unwrap().copy_from_slice(bytemuck::cast_slice(&biases));
        Networks::open(&image.finish().unwrap(), NAMES, shape, n).unwrap()
    }

    /// Queries `[n, s]`.
    pub fn queries(n: usize, s: usize) -> Vec<f32> {
        let mut rng = generator(10, "test");
        (0..n * s).map(|_| 2.0 * normal(&mut rng)).collect()
    }

    /// Asserts that results are those of the reference but for rounding.
    pub fn assert_close(got: &[f32], want: &[f32], what: &str) {
        assert!(got.len() == want.len() && !want.is_empty(), "{what}: {} values", got.len());
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
        for shape in SHAPES {
            let networks = random(shape, 2);
            for n in [1, 5] {
                let queries = queries(n, shape.s);
                let want: Vec<f32> = queries
                    .chunks_exact(shape.s)
                    .flat_map(|q| reference::forward(networks.of(1), q))
                    .collect();
                for simd in Simd::available() {
                    let mut got = vec![0.0; queries.len()];
                    let mut room = cpu::Room::default();
                    cpu::forward(simd, networks.of(1), &queries, &mut got, &mut room);
                    assert_close(&got, &want, &format!("{shape:?} {simd:?}"));
                    let mut alone = vec![0.0; shape.s];
                    let last = &queries[(n - 1) * shape.s..];
                    cpu::forward(simd, networks.of(1), last, &mut alone, &mut room);
                    assert_eq!(alone, got[(n - 1) * shape.s..], "{shape:?} {simd:?}: alone and in company");
                }
            }
        }
    }

    #[test]
    fn what_is_far_away_is_no_harm() {
        let networks = random(SHAPES[3], 1);
        let q: Vec<f32> = queries(1, SHAPES[3].s).iter().map(|v| v * 1e30).collect();
        let want = reference::forward(networks.of(0), &q);
        assert!(want.iter().all(|v| v.is_finite()), "{want:?}");
        let mut got = vec![0.0; q.len()];
        cpu::forward(Simd::detect(), networks.of(0), &q, &mut got, &mut cpu::Room::default());
        assert_close(&got, &want, "far away");
    }
}
