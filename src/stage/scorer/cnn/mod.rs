//! CNN: a convolutional network for each list tells which of its points is nearest.
//!
//! The network (`network/conv`) sees a query and the list's centroid, and moves the query; products with a vector for each point then
//! rank the points. These vectors begin as the points themselves, and the network as nothing: to begin with a list is ranked exactly but
//! for int8. Training (`train.rs`) makes of it a classifier of queries by their nearest point, list by list, and keeps
//! what is better than the start on queries held out.
//!
//! A list costs a query the network's products, 8.6 million at 100 dimensions, and `s + 10` bytes a point: for small sets, and for what
//! the paper measured. Vectors stand in blocks as everything else that meets an int8 query.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
#[cfg(feature = "neural")]
pub(crate) mod train;

use std::sync::Arc;

use crate::{
    block::{BLOCK, BlockShape},
    format::{Image, OpenError, TensorDecl, View},
    lists::Lists,
    metric::Metric,
    network::conv::{self, Networks},
    profile::Cost,
    spec::{Bits, IndexSpec, ScorerSpec},
};

const NETWORKS: conv::Names = ["cnn.weights", "cnn.biases"];
pub(crate) const POINTS: &str = "cnn.points";

/// The metadata entry of how networks were trained, and room for it, which is kept before that is known.
pub(crate) const NETWORKS_KEY: &str = "networks";
pub(crate) const NETWORKS_ROOM: usize = 200;

/// Training queries of a list, at most, of which one in so many is held out.
const QUERIES: usize = 8192;
const HELD_OUT: usize = 8;

/// Queries in a step of training, at most: what layers make of 128 and its slopes take 100 MB at 100 dimensions.
const BATCH_MAX: usize = 128;

/// Sizes that follow from the specification.
#[derive(Clone, Copy)]
pub(crate) struct CnnShape {
    /// Of each list's network.
    pub network: conv::Shape,
    /// Blocks of points, biases as norms.
    pub points: BlockShape,
}

impl CnnShape {
    /// The sizes of a resolved specification for vectors of `d` dimensions, if its scorer is this.
    pub fn of(spec: &IndexSpec, d: usize) -> Option<Self> {
        let ScorerSpec::Cnn { width } = spec.scorer else { return None };
        let s = spec.scored_dims(d);
        let network = conv::Shape { s, width: width.into(), channels: 2 };
        Some(Self { network, points: BlockShape::new(s - 1, Bits::B8, true) })
    }

    /// Bytes that the training of the network of a list of `m` points holds at its peak, for `asked` training queries of `d` dimensions: the
    /// network, the scores of queries held out, points as given, and six forms of their vectors.
    pub fn training_bytes(self, m: usize, asked: usize, d: usize) -> usize {
        let held = asked.min(QUERIES) / HELD_OUT;
        self.network.training_bytes(BATCH_MAX) + 4 * m * (held + d + 6 * self.network.s)
    }

    /// Bytes of the vectors of a list of `m` points.
    fn run_bytes(self, m: usize) -> usize {
        self.points.run_bytes(m.div_ceil(BLOCK))
    }

    /// The tensors for lists of these sizes.
    pub fn declare(self, list_sizes: impl Iterator<Item = usize> + Clone) -> Vec<TensorDecl> {
        let n_lists = list_sizes.clone().count();
        let n_bytes = list_sizes.map(|m| self.run_bytes(m)).sum();
        let [weights, biases] = Networks::declare(NETWORKS, self.network, n_lists);
        vec![weights, biases, TensorDecl::new::<u8>(POINTS, &[n_bytes])]
    }
}

/// The networks of an index file, and what they are compared with.
pub(crate) struct Cnn {
    shape: CnnShape,
    metric: Metric,
    networks: Networks,
    points: View<u8>,
    /// Where each list's run begins in `points`, and where the last one ends.
    starts: Vec<usize>,
}

impl Cnn {
    /// Reads the tensors.
    pub fn open(
        image: &Arc<Image>,
        shape: CnnShape,
        metric: Metric,
        lists: &Lists,
    ) -> Result<Self, OpenError> {
        let networks = Networks::open(image, NETWORKS, shape.network, lists.len())?;
        let mut starts = vec![0];
        let mut end = 0_usize;
        for list in 0..lists.len() {
            // At most 2³² points of a few hundred bytes each: far below 2⁶⁴.
            end += shape.run_bytes(lists.range(list).len());
            starts.push(end);
        }
        let points = image.view(POINTS, &[end])?;
        Ok(Self { shape, metric, networks, points, starts })
    }

    /// Bytes of all lists.
    pub fn n_bytes(&self) -> usize {
        (self.starts.len() - 1) * self.networks.n_bytes() + self.points.len()
    }

    /// Bytes that scoring a list of `n` points reads, and its operations.
    pub fn cost(&self, list: usize, n: usize) -> Cost {
        let network = self.shape.network;
        let (bytes, products) = match self.networks.of(list).is_nothing() {
            true => (0, 0),
            false => (self.networks.n_bytes(), network.n_products()),
        };
        Cost::of(bytes + self.run(list).len(), 2 * (products + n * network.s))
    }

    /// The run of a list's points.
    fn run(&self, list: usize) -> &[u8] {
        &self.points[self.starts[list]..self.starts[list + 1]]
    }
}
