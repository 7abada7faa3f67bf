// Generated from `src/gpu/layout.rs`; `BLESS=1 cargo test` rewrites it.

struct Head {
    first: f32,
    scale: f32,
    sum: i32,
    norm: f32,
}

struct RowState {
    count: u32,
    floor: u32,
}

struct ProjectParams {
    grid_width: u32,
    n_rows: u32,
    d: u32,
    s: u32,
    q_stride: u32,
    y_stride: u32,
    column_tiles: u32,
    pad: u32,
}

struct AxesParams {
    grid_width: u32,
    n_rows: u32,
    column_tiles: u32,
    y_stride: u32,
    query_steps: u32,
    block_words: u32,
    firsts_at: u32,
    n_places: u32,
}

struct LayerParams {
    grid_width: u32,
    n_rows: u32,
    depth: u32,
    width: u32,
    x_from: u32,
    x_group: u32,
    x_stride: u32,
    x_token: u32,
    y_from: u32,
    y_group: u32,
    y_stride: u32,
    y_token: u32,
    y_width: u32,
    column_tiles: u32,
    weights_at: u32,
    biases_at: u32,
    centre_at: u32,
    is_first: u32,
    is_gated: u32,
    adds: u32,
    scale: f32,
    inverse: f32,
    most: f32,
    pad: u32,
}

struct TokenParams {
    grid_width: u32,
    n_rows: u32,
    s: u32,
    stride: u32,
    token_at: u32,
    gate_at: u32,
    shift_at: u32,
    is_first: u32,
}

struct AttendParams {
    grid_width: u32,
    n_rows: u32,
    each: u32,
    n_tokens: u32,
    n_heads: u32,
    key: u32,
    s: u32,
    factor: f32,
}

struct NetworkParams {
    grid_width: u32,
    n_slots: u32,
    n_lists: u32,
    n_probe: u32,
    n_probes: u32,
    probe_from: u32,
    list_from: u32,
    list_to: u32,
    network_weights: u32,
    network_biases: u32,
    weights_at: u32,
    biases_at: u32,
    scales_at: u32,
    centre_at: u32,
    s: u32,
    query_stride: u32,
    channels: u32,
    positions: u32,
    depth: u32,
    width: u32,
    slot_tiles: u32,
    column_tiles: u32,
    most: f32,
    pad: u32,
}

struct RescaleParams {
    grid_width: u32,
    n_rows: u32,
    d: u32,
    s: u32,
    x_stride: u32,
    y_stride: u32,
    nothing_left: f32,
    pad: u32,
}

struct QuantiseParams {
    grid_width: u32,
    n_rows: u32,
    len: u32,
    row_stride: u32,
    steps: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

struct RouterParams {
    grid_width: u32,
    n_rows: u32,
    n_lists: u32,
    list_tiles: u32,
    query_steps: u32,
    block_words: u32,
    firsts_at: u32,
    n_places: u32,
    has_norm: u32,
    factor: f32,
    n_probe: u32,
    pad: u32,
}

struct SelectParams {
    grid_width: u32,
    n_rows: u32,
    stride: u32,
    keep: u32,
}

struct SortParams {
    grid_width: u32,
    n_rows: u32,
    stride: u32,
    len: u32,
    half_len: u32,
    n_out: u32,
    add_norm: u32,
    pad: u32,
}

struct TableHead {
    bias: f32,
    step: f32,
}

struct PqParams {
    grid_width: u32,
    n_rows: u32,
    s: u32,
    m: u32,
    width: u32,
    n_words: u32,
    n_tables: u32,
    query_stride: u32,
    factor: f32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

struct RerankParams {
    grid_width: u32,
    n_rows: u32,
    stride: u32,
    row_groups: u32,
    page_from: u32,
    page_to: u32,
    row_quads: u32,
    query_quads: u32,
    dim: u32,
    scales_at: u32,
    pad_1: u32,
    pad_2: u32,
}

struct ScanParams {
    grid_width: u32,
    n_lists: u32,
    n_probe: u32,
    n_probes: u32,
    probe_from: u32,
    n_slots: u32,
    max_tiles: u32,
    tile_points: u32,
    page_from: u32,
    page_to: u32,
    round_from: u32,
    round_to: u32,
    query_steps: u32,
    query_stride: u32,
    block_words: u32,
    has_norm: u32,
    factor: f32,
    stride: u32,
    list_from: u32,
    run_from: u32,
    record_words: u32,
    column_words: u32,
    column_len: u32,
    rank: u32,
    t_stride: u32,
    row_quads: u32,
    dim: u32,
    table_words: u32,
    has_base: u32,
    scales_at: u32,
    pad_1: u32,
    pad_2: u32,
}
