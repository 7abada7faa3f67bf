//! Convolutional networks on the device: three kernels, a slot's layers side by side with those of all others.

use super::{Layer, Networks, Shape};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError,
        kernel::{Kernel, NetworkLayer, Plan, Slots},
        layout::{NetworkParams, ScanParams, narrow},
        pages::{ListPage, Pages, upload},
        primitives::PairInputs,
        recording::{Cost, Grid, Recording},
    },
    lists::Lists,
    network::MOST,
};

/// What layers live in: buffers, or their bytes a slot.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rooms<T> {
    /// Pairs of positions; then features.
    pub wide: T,
    /// What the second convolution makes.
    pub between: T,
}

impl Rooms<usize> {
    /// Bytes a slot.
    pub fn of(shape: &Shape) -> Self {
        let between = 4 * shape.positions() * shape.width;
        Self { wide: 2 * between, between }
    }
}

/// Networks on the device, but for their weights.
pub(crate) struct GpuNetworks {
    shape: Shape,
    biases: Buffer,
    params: NetworkParams,
    layers: [Layer; 4],
}

/// Some networks' weights.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub buffer: &'a Buffer,
    /// The lists whose networks they are.
    pub list_from: usize,
    pub list_to: usize,
}

/// The slots that networks work on.
#[derive(Clone, Copy)]
pub(crate) enum Work<'a> {
    /// A query each, all behind one network; any buffer stands where pairs would.
    Rows(usize, &'a Buffer),
    /// A round's pairs.
    Pairs(&'a ScanParams, PairInputs<'a>),
}

impl GpuNetworks {
    /// Uploads the biases.
    pub fn new(gpu: &Gpu, networks: &Networks) -> Result<Self, GpuError> {
        let (shape, layout) = (networks.shape, networks.layout);
        let [first, second, third] = layout.convolutions;
        let params = NetworkParams {
            network_weights: narrow(layout.n_weights),
            network_biases: narrow(layout.n_biases),
            scales_at: narrow(layout.scales_at),
            centre_at: narrow(layout.centre_at),
            s: narrow(shape.s),
            channels: narrow(shape.channels),
            positions: narrow(shape.positions()),
            most: MOST,
            ..Default::default()
        };
        let biases = upload(gpu, "network.biases", bytemuck::cast_slice(&networks.biases))?;
        Ok(Self { shape, biases, params, layers: [first, second, third, layout.dense] })
    }

    /// The weights of one network, or of few.
    pub fn weights(gpu: &Gpu, networks: &Networks) -> Result<Buffer, GpuError> {
        upload(gpu, "network.weights", bytemuck::cast_slice(&networks.weights))
    }

    /// The weights of all lists' networks, as pages of at most `page_bytes`.
    pub fn pages(
        pages: &mut Pages,
        networks: &Networks,
        lists: &Lists,
        page_bytes: u64,
    ) -> Result<Vec<ListPage>, GpuError> {
        let starts: Vec<usize> = (0..=lists.len()).map(|list| list * 2 * networks.layout.n_weights).collect();
        pages.add_lists("cnn.weights", &networks.weights.tensor_bytes(), &starts, lists, page_bytes)
    }

    /// What becomes of the queries of all slots whose networks are among `weights`: `t`, `[n_slots, s]`.
    pub fn forward(
        &self,
        recording: &mut Recording,
        work: Work<'_>,
        weights: Weights<'_>,
        (queries, query_stride): (&Buffer, usize),
        rooms: Rooms<&Buffer>,
        t: &Buffer,
    ) {
        let (n_slots, kind, groups, slots) = match work {
            Work::Rows(n_rows, any) => (n_rows, Slots::Rows, any, any),
            Work::Pairs(round, pairs) => {
                (round.n_slots as usize, Slots::Pairs(pairs.plan), pairs.groups, pairs.slots)
            }
        };
        let mut params = NetworkParams {
            grid_width: recording.gpu().grid_width(),
            n_slots: narrow(n_slots),
            list_from: narrow(weights.list_from),
            list_to: narrow(weights.list_to),
            query_stride: narrow(query_stride),
            ..self.params
        };
        if let Work::Pairs(round, _) = work {
            params.n_lists = round.n_lists;
            params.n_probe = round.n_probe;
            params.n_probes = round.n_probes;
            params.probe_from = round.probe_from;
        }
        let positions = self.shape.positions();
        let n = n_slots as f64;
        // What cannot be done without: a reading for each list where slots come list by list, for each slot else.
        let readings = match kind {
            Slots::Rows => 1.0,
            Slots::Pairs(Plan::QueryMajor) => n,
            Slots::Pairs(Plan::ClusterMajor) => n.min((weights.list_to - weights.list_from) as f64),
        };
        let mut layer =
            |kind_of_layer, layer: &Layer, rows: usize, groups_a_slot: usize, bindings: &[&Buffer]| {
                let params = NetworkParams {
                    weights_at: narrow(layer.weights_at),
                    biases_at: narrow(layer.biases_at),
                    depth: narrow(layer.from),
                    width: narrow(layer.to),
                    slot_tiles: narrow(groups_a_slot),
                    column_tiles: narrow(match kind_of_layer {
                        NetworkLayer::Dense => layer.to.div_ceil(16),
                        _ => layer.to.div_ceil(64),
                    }),
                    ..params
                };
                let (from, to, rows) = (layer.from as f64, layer.to as f64, rows as f64);
                let cost = Cost {
                    bytes: 2.0 * readings * from * to + 4.0 * n * rows * (from + to),
                    ops: 2.0 * n * rows * from * to,
                };
                let n_groups = match kind_of_layer {
                    NetworkLayer::First => ((n_slots * groups_a_slot) as u64).div_ceil(64),
                    _ => (n_slots * groups_a_slot) as u64,
                };
                recording.dispatch(
                    Kernel::Network(kind_of_layer, kind),
                    &params,
                    bindings,
                    Grid::Groups(n_groups),
                    cost,
                );
            };
        let [first, second, third, dense] = &self.layers;
        let (w, biases) = (weights.buffer, &self.biases);
        let tiles = |layer: &Layer| positions.div_ceil(64) * layer.to.div_ceil(64);
        let bindings = [queries, w, biases, groups, slots, rooms.wide];
        layer(NetworkLayer::First, first, self.shape.s, positions * first.to, &bindings);
        let bindings = [rooms.wide, w, biases, groups, slots, rooms.between];
        layer(NetworkLayer::Convolve, second, positions, tiles(second), &bindings);
        let bindings = [rooms.between, w, biases, groups, slots, rooms.wide];
        layer(NetworkLayer::Convolve, third, positions, tiles(third), &bindings);
        let bindings = [rooms.wide, w, biases, groups, slots, queries, t];
        layer(NetworkLayer::Dense, dense, 1, dense.to.div_ceil(16), &bindings);
    }
}
