//! The scorer on the device: networks page by page, then the list's points, page by page.

use super::Cnn;
use crate::{
    format::ALIGN,
    gpu::{
        Gpu, GpuError,
        pages::{ListPage, Pages},
    },
    lists::Lists,
    network::conv::gpu::GpuNetworks,
    stage::scorer::gpu::GpuRuns,
};

/// Networks and points on the device.
pub(crate) struct GpuCnn {
    pub networks: GpuNetworks,
    /// Pages of their weights, by list.
    pub weights: Vec<ListPage>,
    pub points: GpuRuns,
}

impl GpuCnn {
    /// Splits the tensors into pages of at most `page_bytes`, whole lists each.
    pub fn new(
        gpu: &Gpu,
        pages: &mut Pages,
        cnn: &Cnn,
        lists: &Lists,
        page_bytes: u64,
    ) -> Result<Self, GpuError> {
        let points = GpuRuns::new(
            pages,
            (super::POINTS, &cnn.points.tensor_bytes(), &cnn.starts),
            (cnn.shape.points, cnn.shape.network.s, cnn.metric.product_factor()),
            lists,
            page_bytes,
        )?;
        Ok(Self {
            networks: GpuNetworks::new(gpu, &cnn.networks)?,
            weights: GpuNetworks::pages(pages, &cnn.networks, lists, page_bytes)?,
            points,
        })
    }

    /// Where each list's run begins, in cache lines.
    pub fn run_starts(cnn: &Cnn) -> impl Iterator<Item = usize> {
        cnn.starts.iter().map(|start| start / ALIGN)
    }
}
