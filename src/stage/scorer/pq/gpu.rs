//! Lookups on the device: a query's tables once, then the list's points, page by page.
//!
//! Codes could instead be decoded to int8 once for eight queries and multiplied by `dot4I8Packed`. A trial of it, for
//! subspaces of two dimensions, took as long on lavapipe (2 000 queries × 32 of 1 024 lists of 115 659 points, M = 192:
//! 0.518 s against 0.525 s, medians of four runs in turns) and would round codewords and queries to int8 besides, so that
//! scores were no longer the CPU's. Lookups stay; hardware with fast int8 products may decide otherwise.

use super::Pq;
use crate::{
    codes::{BLOCK, PqShape},
    format::ALIGN,
    gpu::{
        Buffer, Gpu, GpuError,
        kernel::{Kernel, TILE_POINTS},
        layout::{PqParams, ScanParams, narrow},
        pages::{ListPage, Pages, upload},
        primitives::{PageWork, PairInputs},
        recording::{Cost, Grid, Recording},
    },
    lists::Lists,
};

/// Codebooks and codes on the device.
pub(crate) struct GpuPq {
    /// Pages of codes, by list.
    pub pages: Vec<ListPage>,
    shape: PqShape,
    factor: f32,
    codebooks: Buffer,
    has_base: bool,
}

/// A batch's tables: their least entries, bytes and heads.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub lows: &'a Buffer,
    pub bytes: &'a Buffer,
    pub heads: &'a Buffer,
}

impl GpuPq {
    /// Splits the codes into pages of at most `page_bytes`, whole lists each. `has_base`: scores begin with the router's.
    pub fn new(
        gpu: &Gpu,
        pages: &mut Pages,
        pq: &Pq,
        lists: &Lists,
        has_base: bool,
        page_bytes: u64,
    ) -> Result<Self, GpuError> {
        Ok(Self {
            pages: pages.add_lists("pq.codes", &pq.codes.tensor_bytes(), &pq.starts, lists, page_bytes)?,
            shape: pq.shape,
            factor: pq.metric.product_factor(),
            codebooks: upload(gpu, "pq.codebooks", bytemuck::cast_slice(&pq.codebooks))?,
            has_base,
        })
    }

    /// Where each list's run begins, in cache lines.
    pub fn run_starts(pq: &Pq) -> impl Iterator<Item = usize> {
        pq.starts.iter().map(|start| start / ALIGN)
    }

    /// Works out the tables of a batch; `reduced`: its queries, `query_stride` values apart.
    pub fn prepare(
        &self,
        recording: &mut Recording,
        n_rows: usize,
        (reduced, query_stride): (&Buffer, usize),
        tables: Tables<'_>,
    ) {
        let shape = self.shape;
        let params = PqParams {
            grid_width: recording.gpu().grid_width(),
            n_rows: narrow(n_rows),
            s: narrow(shape.s),
            m: narrow(shape.m),
            width: narrow(shape.width()),
            n_words: narrow(shape.n_words()),
            n_tables: narrow(shape.n_tables()),
            query_stride: narrow(query_stride),
            factor: self.factor,
            ..Default::default()
        };
        let (n, words) = (n_rows as f64, shape.n_words() as f64);
        let cost = Cost {
            bytes: n * (shape.n_tables() as f64 * words + 8.0) + 4.0 * shape.codebook_len() as f64,
            ops: 4.0 * n * shape.s as f64 * words,
        };
        let bindings = [&self.codebooks, reduced, tables.lows, tables.bytes, tables.heads];
        recording.dispatch(Kernel::PqTables, &params, &bindings, Grid::Groups(n_rows as u64), cost);
    }

    /// Scores the points on a page for the pairs that probe them.
    pub fn score(
        &self,
        recording: &mut Recording,
        work: PageWork,
        (page, runs): (&ListPage, &Buffer),
        tables: Tables<'_>,
        pairs: PairInputs<'_>,
        (candidates, states): (&Buffer, &Buffer),
    ) {
        let shape = self.shape;
        let table_bytes = shape.n_tables() * shape.n_words();
        let params = ScanParams {
            run_from: narrow(page.run_from),
            block_words: narrow(shape.block_bytes() / 4),
            has_norm: u32::from(shape.has_norm),
            has_base: u32::from(self.has_base),
            table_words: narrow(table_bytes / 4),
            ..work.params
        };
        let point = shape.block_bytes() as f64 / BLOCK as f64 + if shape.has_norm { 4.0 } else { 0.0 };
        let slots = f64::from(params.n_slots) / self.pages.len() as f64;
        let cost =
            Cost { bytes: work.read * point + slots * table_bytes as f64, ops: work.points * shape.m as f64 };
        let kernel = Kernel::PqScore(shape.bits, pairs.plan);
        let bindings =
            [runs, tables.bytes, tables.heads, pairs.lists, pairs.groups, pairs.slots, candidates, states];
        recording.dispatch(kernel, &params, &bindings, work.grid, cost);
    }
}

// Tiles hold whole blocks.
const _: () = assert!(TILE_POINTS.is_multiple_of(BLOCK));
