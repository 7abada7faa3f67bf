//! Routing on the device: all centroids scored, the best kept and put in order.

use super::{Router, Vectors};
use crate::{
    block::BLOCK,
    gpu::{
        Buffer, Gpu, GpuError,
        kernel::{Kernel, QUERIES},
        layout::{RouterParams, narrow},
        pages::upload,
        recording::{Cost, Grid, Recording},
    },
    network::conv::gpu::{GpuNetworks, Rooms, Weights, Work},
};

/// The centroids on the device.
pub(crate) struct GpuRouter {
    rank: (Buffer, RouterParams),
    network: Option<(GpuNetworks, Buffer)>,
    centres: Option<(Buffer, RouterParams)>,
}

impl GpuRouter {
    /// Uploads the centroids.
    pub fn new(gpu: &Gpu, router: &Router) -> Result<Self, GpuError> {
        let n_blocks = router.n_lists.div_ceil(BLOCK);
        let params = |vectors: &Vectors| RouterParams {
            n_lists: narrow(router.n_lists),
            list_tiles: narrow(router.n_lists.div_ceil(64)),
            query_steps: narrow(vectors.shape.query_len().div_ceil(16)),
            block_words: narrow(vectors.shape.code_bytes() / 4),
            firsts_at: narrow(vectors.shape.heads(n_blocks)[0] / 4),
            n_places: narrow(n_blocks * BLOCK),
            has_norm: u32::from(vectors.shape.has_norm),
            factor: vectors.factor,
            ..Default::default()
        };
        let held = |vectors: &Vectors| Ok((upload(gpu, "router", &vectors.blocks)?, params(vectors)));
        let network = |networks| Ok((GpuNetworks::new(gpu, networks)?, GpuNetworks::weights(gpu, networks)?));
        Ok(Self {
            rank: held(&router.rank)?,
            network: router.network.as_ref().map(network).transpose()?,
            centres: router.centres.as_ref().map(held).transpose()?,
        })
    }

    /// Whether a network moves queries before lists are ranked.
    pub fn moves(&self) -> bool {
        self.network.is_some()
    }

    /// Where the network moves `queries`, `[n_rows, stride]`: `moved`, `[n_rows, s]`.
    pub fn move_queries(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        queries: (&Buffer, usize),
        rooms: Rooms<&Buffer>,
        moved: &Buffer,
    ) {
        let Some((network, buffer)) = &self.network else { return };
        let weights = Weights { buffer, list_from: 0, list_to: 1 };
        network.forward(recording, Work::Rows(n_rows, &self.rank.0), weights, queries, rooms, moved);
    }

    /// Scores all lists for all queries: candidates (key, list), `n_lists` a row.
    pub fn score(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        (codes, heads): (&Buffer, &Buffer),
        lists: &Buffer,
        (candidates, states): (&Buffer, &Buffer),
    ) {
        let (runs, params) = &self.rank;
        let params =
            RouterParams { grid_width: recording.gpu().grid_width(), n_rows: narrow(n_rows), ..*params };
        let groups = n_rows.div_ceil(QUERIES) as u64 * u64::from(params.list_tiles);
        let (n, l) = (n_rows as f64, f64::from(params.n_lists));
        let components = f64::from(params.query_steps) * 16.0;
        let cost = Cost {
            bytes: l * (components + 6.0) + n * (components + 16.0) + 8.0 * n * l,
            ops: 2.0 * n * l * components,
        };
        let bindings = [runs, codes, heads, lists, candidates, states];
        recording.dispatch(Kernel::Router, &params, &bindings, Grid::Groups(groups), cost);
    }
    /// The scores of the lists that are read, `routed[n_rows, n_probe]`, become those of their centroids, which scorers want.
    pub fn base(
        &self,
        recording: &mut Recording,
        (n_rows, n_probe): (usize, usize),
        (codes, heads): (&Buffer, &Buffer),
        routed: &Buffer,
    ) {
        let Some((runs, params)) = &self.centres else { return };
        let params = RouterParams {
            grid_width: recording.gpu().grid_width(),
            n_rows: narrow(n_rows),
            n_probe: narrow(n_probe),
            ..*params
        };
        let n_pairs = n_rows as f64 * n_probe as f64;
        let components = f64::from(params.query_steps) * 16.0;
        let cost = Cost { bytes: n_pairs * (2.0 * components + 24.0), ops: 2.0 * n_pairs * components };
        let groups = (n_rows * n_probe).div_ceil(64) as u64;
        recording.dispatch(Kernel::Base, &params, &[runs, codes, heads, routed], Grid::Groups(groups), cost);
    }
}
