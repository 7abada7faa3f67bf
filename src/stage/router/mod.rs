//! Router: which lists a query reads.
//!
//! A query's product (or distance) with every centroid, or with weights trained to stand in their place (`train.rs`), coordinate 0 in
//! f32 and the rest int8, and the `n_probe` best. They are stored as blocks (see `block.rs`): about `s + 6` bytes a list, read in full
//! by every query, so 1 024 lists of 128 dimensions are 137 KB and stay in the second-level cache.

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
    spec::{Bits, RouterSpec},
    train::kmeans::{Centroids, squared_norm},
};

const CENTROIDS: &str = "router.centroids";
const WEIGHTS: &str = "router.weights";

/// The router of an index file.
pub(crate) struct Router {
    blocks: View<u8>,
    shape: BlockShape,
    n_lists: usize,
    /// What products are multiplied by before the norm is added.
    factor: f32,
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

/// The tensor, its blocks and the factor of products.
fn layout(spec: RouterSpec, s: usize, metric: Metric) -> (&'static str, BlockShape, f32) {
    match spec {
        RouterSpec::Centroids => (CENTROIDS, shape(s, metric), metric.product_factor()),
        // Biases stand where norms do.
        RouterSpec::Linear => (WEIGHTS, BlockShape::new(s - 1, Bits::B8, true), -1.0),
    }
}

impl Router {
    /// The tensor for `n_lists` lists and `s` dimensions.
    pub fn declare(spec: RouterSpec, n_lists: usize, s: usize, metric: Metric) -> Vec<TensorDecl> {
        let (name, shape, _) = layout(spec, s, metric);
        vec![TensorDecl::new::<u8>(name, &[shape.run_bytes(n_lists.div_ceil(BLOCK))])]
    }

    /// Fills in the tensor of a linear router.
    pub fn write_weights(
        weights: &Centroids,
        parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>,
    ) {
        let Some(out) = parts.get_mut(WEIGHTS) else { return };
        out.copy_from_slice(weights.run());
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
        self.blocks.len()
    }

    /// Reads the tensor.
    pub fn open(
        image: &Arc<Image>,
        spec: RouterSpec,
        n_lists: usize,
        s: usize,
        metric: Metric,
    ) -> Result<Self, OpenError> {
        let (name, shape, factor) = layout(spec, s, metric);
        let blocks = image.view(name, &[shape.run_bytes(n_lists.div_ceil(BLOCK))])?;
        Ok(Self { blocks, shape, n_lists, factor })
    }
}
