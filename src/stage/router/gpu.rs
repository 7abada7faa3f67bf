//! Routing on the device: all centroids scored, the best kept and put in order.

use super::Router;
use crate::{
    block::BLOCK,
    gpu::{
        Buffer, Gpu, GpuError,
        kernel::{Kernel, QUERIES},
        layout::{RouterParams, narrow},
        pages::upload,
        recording::{Cost, Grid, Recording},
    },
};

/// The centroids on the device.
pub(crate) struct GpuRouter {
    runs: Buffer,
    params: RouterParams,
}

impl GpuRouter {
    /// Uploads the centroids.
    pub fn new(gpu: &Gpu, router: &Router) -> Result<Self, GpuError> {
        let n_blocks = router.n_lists.div_ceil(BLOCK);
        let params = RouterParams {
            n_lists: narrow(router.n_lists),
            list_tiles: narrow(router.n_lists.div_ceil(64)),
            query_steps: narrow(router.shape.query_len().div_ceil(16)),
            block_words: narrow(router.shape.code_bytes() / 4),
            firsts_at: narrow(router.shape.heads(n_blocks)[0] / 4),
            n_places: narrow(n_blocks * BLOCK),
            has_norm: u32::from(router.shape.has_norm),
            factor: router.factor,
            ..Default::default()
        };
        Ok(Self { runs: upload(gpu, "router", &router.blocks)?, params })
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
        let params =
            RouterParams { grid_width: recording.gpu().grid_width(), n_rows: narrow(n_rows), ..self.params };
        let groups = n_rows.div_ceil(QUERIES) as u64 * u64::from(params.list_tiles);
        let (n, l) = (n_rows as f64, f64::from(params.n_lists));
        let components = f64::from(params.query_steps) * 16.0;
        let cost = Cost {
            bytes: l * (components + 6.0) + n * (components + 16.0) + 8.0 * n * l,
            ops: 2.0 * n * l * components,
        };
        let bindings = [&self.runs, codes, heads, lists, candidates, states];
        recording.dispatch(Kernel::Router, &params, &bindings, Grid::Groups(groups), cost);
    }
}
