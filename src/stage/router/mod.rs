//! Router: which lists a query reads.
//!
//! A query's product (or distance) with every centroid, or with weights trained to stand in their place (`train.rs`), coordinate 0 in
//! f32 and the rest int8, and the `n_probe` best. They are stored as blocks (see `block.rs`): about `s + 6` bytes a list, read in full
//! by every query, so 1 024 lists of 128 dimensions are 137 KB and stay in the second-level cache. A convolutional network
//! (`network/conv`) may move the query before it meets them; scorers see it where it was.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
pub(crate) mod train;

use std::sync::Arc;

use crate::{
    block::{BLOCK, BlockShape},
    format::{Image, OpenError, TensorDecl, View},
    metric::Metric,
    network::{
        OwnValues,
        conv::{self, Networks},
    },
    profile::Cost,
    spec::{Bits, IndexSpec, RouterSpec, ScorerSpec},
    train::kmeans::{Centroids, squared_norm},
};

const CENTROIDS: &str = "router.centroids";
const WEIGHTS: &str = "router.weights";
const NETWORK: conv::Names = ["router.network", "router.network_biases"];

/// The router of an index file.
pub(crate) struct Router {
    /// What ranks lists.
    rank: Vectors,
    /// Centroids, where something else ranks lists and codes are residuals to them: their scores are those that scorers see.
    centres: Option<Vectors>,
    /// What moves a query before lists are ranked; none where it is nothing.
    network: Option<Networks>,
    n_lists: usize,
}

/// A vector a list.
struct Vectors {
    blocks: View<u8>,
    shape: BlockShape,
    /// What products are multiplied by before the norm is added.
    factor: f32,
}

/// What a router stores.
#[derive(Clone, Copy)]
pub(crate) struct RouterShape {
    pub spec: RouterSpec,
    pub n_lists: usize,
    pub s: usize,
    pub metric: Metric,
    /// Codes are residuals to centroids.
    pub has_centres: bool,
}

/// Centroids as a router's scores have them.
pub(crate) struct Rounded {
    /// `[n_lists, s]` row-major.
    pub values: Vec<f32>,
    /// The term that l2 scores hold beside the product; zeros for products.
    pub norms: Vec<f32>,
}

/// Of centroids.
fn shape(s: usize, metric: Metric) -> BlockShape {
    BlockShape::new(s - 1, Bits::B8, metric.is_l2())
}

/// Name, blocks and factor of products.
type Layout = (&'static str, BlockShape, f32);

impl RouterShape {
    /// The shape of a resolved specification for vectors of `d` dimensions, if it has lists.
    pub fn of(spec: &IndexSpec, d: usize, metric: Metric) -> Option<Self> {
        let ivf = spec.ivf?;
        let has_centres = matches!(spec.scorer, ScorerSpec::Pq { .. });
        Some(Self { spec: ivf.router, n_lists: ivf.n_lists?, s: spec.scored_dims(d), metric, has_centres })
    }

    /// What ranks lists, and centroids beside it.
    fn layout(self) -> (Layout, Option<Layout>) {
        let centroids = (CENTROIDS, shape(self.s, self.metric), self.metric.product_factor());
        match self.spec {
            RouterSpec::Centroids => (centroids, None),
            // Biases stand where norms do.
            RouterSpec::Linear | RouterSpec::Cnn { .. } => {
                let weights = (WEIGHTS, BlockShape::new(self.s - 1, Bits::B8, true), -1.0);
                (weights, self.has_centres.then_some(centroids))
            }
        }
    }

    /// The shape of the network, if there is one.
    pub fn network(self) -> Option<conv::Shape> {
        self.spec.width().map(|width| conv::Shape { s: self.s, width, channels: 1 })
    }

    fn bytes(self, shape: BlockShape) -> usize {
        shape.run_bytes(self.n_lists.div_ceil(BLOCK))
    }
}

impl Router {
    /// The tensors.
    pub fn declare(shape: RouterShape) -> Vec<TensorDecl> {
        let (rank, centres) = shape.layout();
        let declare = |(name, blocks, _): Layout| TensorDecl::new::<u8>(name, &[shape.bytes(blocks)]);
        let network = shape.network().into_iter().flat_map(|shape| Networks::declare(NETWORK, shape, 1));
        std::iter::once(rank).chain(centres).map(declare).chain(network).collect()
    }

    /// Fills in the tensors of a trained router.
    pub fn write_trained(
        weights: &Centroids,
        network: Option<&OwnValues>,
        parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>,
    ) {
        if let Some(out) = parts.get_mut(WEIGHTS) {
            out.copy_from_slice(weights.run());
        }
        let values = network.map(|values| {
            [bytemuck::cast_slice(&values.weights), bytemuck::cast_slice::<f32, u8>(&values.biases)]
        });
        for (name, bytes) in NETWORK.into_iter().zip(values.into_iter().flatten()) {
            if let Some(out) = parts.get_mut(name) {
                out.copy_from_slice(bytes);
            }
        }
    }

    /// Fills in the tensor of centroids.
    pub fn write(
        centroids: &Centroids,
        metric: Metric,
        parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>,
    ) {
        let Some(out) = parts.get_mut(CENTROIDS) else { return };
        let vectors = centroids
            .values
            .chunks_exact(centroids.s)
            .map(|c| (c[0], &c[1..], if metric.is_l2() { squared_norm(c) } else { 0.0 }));
        shape(centroids.s, metric).encode(vectors, out);
    }

    /// The centroids as stored, which residuals are taken to.
    pub fn rounded(centroids: &Centroids, metric: Metric) -> Rounded {
        let n_lists = centroids.len();
        let (s, shape) = (centroids.s, shape(centroids.s, metric));
        let mut run = vec![0; shape.run_bytes(n_lists.div_ceil(BLOCK))];
        Self::write(centroids, metric, &mut [(CENTROIDS, &mut run[..])].into());
        let mut rounded = Rounded { values: Vec::with_capacity(n_lists * s), norms: Vec::new() };
        for list in 0..n_lists {
            let (scale, first, norm, codes) = shape.decode(&run, n_lists.div_ceil(BLOCK), list);
            rounded.values.push(first);
            rounded.values.extend(codes[..s - 1].iter().map(|&code| scale * code as f32));
            rounded.norms.push(norm);
        }
        rounded
    }

    /// Bytes that a query reads.
    pub fn n_bytes(&self) -> usize {
        self.rank.blocks.len() + self.network.as_ref().map_or(0, Networks::n_bytes)
    }

    /// What it takes to rank lists for queries that share the reading.
    pub fn cost(&self, n_queries: usize) -> Cost {
        let products = self.network.as_ref().map_or(0, |networks| networks.shape.n_products());
        Cost::of(self.n_bytes(), 2 * n_queries * (self.rank.blocks.len() + products))
    }

    /// Whether most of its arithmetic is in floats.
    pub fn is_float(&self) -> bool {
        self.network.is_some()
    }

    /// Reads the tensors.
    pub fn open(image: &Arc<Image>, shape: RouterShape) -> Result<Self, OpenError> {
        let read = |(name, blocks, factor): Layout| -> Result<Vectors, OpenError> {
            Ok(Vectors { blocks: image.view(name, &[shape.bytes(blocks)])?, shape: blocks, factor })
        };
        let (rank, centres) = shape.layout();
        let network = shape.network().map(|shape| Networks::open(image, NETWORK, shape, 1)).transpose()?;
        Ok(Self {
            rank: read(rank)?,
            centres: centres.map(read).transpose()?,
            network: network.filter(|networks| !networks.of(0).is_nothing()),
            n_lists: shape.n_lists,
        })
    }
}
