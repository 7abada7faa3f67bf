//! Structs that Rust and WGSL share, declared once: the macro makes the Rust struct and its WGSL text.
//!
//! `shaders/shared/layout.wgsl` is that text; a test fails when it is stale, `BLESS=1 cargo test` rewrites it.
//! Fields are `u32`, `i32` or `f32` only and sizes multiples of 16 bytes, so that both sides lay them out alike.

macro_rules! gpu_structs {
    ($( $(#[$doc:meta])* $name:ident { $($field:ident: $kind:ident,)* } )*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
            pub(crate) struct $name { $(pub $field: $kind,)* }
            const _: () = assert!(size_of::<$name>() % 16 == 0 || size_of::<$name>() == 8);
        )*

        /// The same structs in WGSL.
        #[cfg(test)]
        pub(crate) const WGSL: &str = concat!(
            "// Generated from `src/gpu/layout.rs`; `BLESS=1 cargo test` rewrites it.\n",
            $("\nstruct ", stringify!($name), " {\n", $("    ", stringify!($field), ": ", stringify!($kind), ",\n",)* "}\n",)*
        );
    };
}

gpu_structs! {
    /// What a quantised row brings beside its codes.
    Head { first: f32, scale: f32, sum: i32, norm: f32, }
    /// A row of candidates: how many there are, and the complement of the worst key that still counts.
    RowState { count: u32, floor: u32, }
    /// `transform_project`.
    ProjectParams { grid_width: u32, n_rows: u32, d: u32, s: u32, q_stride: u32, y_stride: u32, column_tiles: u32, pad: u32, }
    /// `transform_project_x8`.
    AxesParams {
        grid_width: u32, n_rows: u32, column_tiles: u32, y_stride: u32,
        query_steps: u32, block_words: u32, firsts_at: u32, n_places: u32,
    }
    /// `transform_layer`.
    LayerParams {
        grid_width: u32, n_rows: u32, depth: u32, width: u32,
        x_from: u32, x_group: u32, x_stride: u32, x_token: u32,
        y_from: u32, y_group: u32, y_stride: u32, y_token: u32,
        y_width: u32, column_tiles: u32, weights_at: u32, biases_at: u32,
        centre_at: u32, is_first: u32, is_gated: u32, adds: u32,
        scale: f32, inverse: f32, most: f32, pad: u32,
    }
    /// `transform_token`.
    TokenParams {
        grid_width: u32, n_rows: u32, s: u32, stride: u32,
        token_at: u32, gate_at: u32, shift_at: u32, is_first: u32,
    }
    /// `transform_attend`.
    AttendParams {
        grid_width: u32, n_rows: u32, each: u32, n_tokens: u32,
        n_heads: u32, key: u32, s: u32, factor: f32,
    }
    /// `network_first`, `network_convolve`, `network_dense`: a layer of convolutional networks, on one page.
    NetworkParams {
        grid_width: u32, n_slots: u32, n_lists: u32, n_probe: u32,
        n_probes: u32, probe_from: u32, list_from: u32, list_to: u32,
        network_weights: u32, network_biases: u32, weights_at: u32, biases_at: u32,
        scales_at: u32, centre_at: u32, s: u32, query_stride: u32,
        channels: u32, positions: u32, depth: u32, width: u32,
        slot_tiles: u32, column_tiles: u32, most: f32, pad: u32,
    }
    /// `transform_rescale`.
    RescaleParams {
        grid_width: u32, n_rows: u32, d: u32, s: u32,
        x_stride: u32, y_stride: u32, nothing_left: f32, pad: u32,
    }
    /// `quantise`.
    QuantiseParams { grid_width: u32, n_rows: u32, len: u32, row_stride: u32, steps: u32, pad_0: u32, pad_1: u32, pad_2: u32, }
    /// `router_score`, `router_base`.
    RouterParams {
        grid_width: u32, n_rows: u32, n_lists: u32, list_tiles: u32,
        query_steps: u32, block_words: u32, firsts_at: u32, n_places: u32,
        has_norm: u32, factor: f32, n_probe: u32, pad: u32,
    }
    /// `candidates_select`.
    SelectParams { grid_width: u32, n_rows: u32, stride: u32, keep: u32, }
    /// `candidates_sort`.
    SortParams {
        grid_width: u32, n_rows: u32, stride: u32, len: u32,
        half_len: u32, n_out: u32, add_norm: u32, pad: u32,
    }
    /// What a query's lookup tables bring beside their bytes.
    TableHead { bias: f32, step: f32, }
    /// `scorer_pq_tables`.
    PqParams {
        grid_width: u32, n_rows: u32, s: u32, m: u32,
        width: u32, n_words: u32, n_tables: u32, query_stride: u32,
        factor: f32, pad_0: u32, pad_1: u32, pad_2: u32,
    }
    /// `rerank_score`.
    RerankParams {
        grid_width: u32, n_rows: u32, stride: u32, row_groups: u32,
        page_from: u32, page_to: u32, row_quads: u32, query_quads: u32,
        dim: u32, scales_at: u32, pad_1: u32, pad_2: u32,
    }
    /// `pairs_*` and `scorer_*`: a round of probes, on one page.
    ScanParams {
        grid_width: u32, n_lists: u32, n_probe: u32, n_probes: u32,
        probe_from: u32, n_slots: u32, max_tiles: u32, tile_points: u32,
        page_from: u32, page_to: u32, round_from: u32, round_to: u32,
        query_steps: u32, query_stride: u32, block_words: u32, has_norm: u32,
        factor: f32, stride: u32, list_from: u32, run_from: u32,
        record_words: u32, column_words: u32, column_len: u32, rank: u32,
        t_stride: u32, row_quads: u32, dim: u32, table_words: u32,
        has_base: u32, scales_at: u32, pad_1: u32, pad_2: u32,
    }
}

/// A size for the device, where sizes have 32 bits; what holds so much ends long before.
pub(crate) fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
