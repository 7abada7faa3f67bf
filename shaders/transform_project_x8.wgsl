// y = qW in int8: the columns of W as blocks, met by the queries' codes.
//
// A workgroup takes 8 queries × 64 outputs, an invocation one output. Grid: ceil(n_rows / 8) · ceil(y_stride / 64). Reads
// d + 5 bytes a column (d - 1 codes, 4 and 2) and 8 queries. Integer sums are exact; an output is off by two roundings at most where `fma` is
// not fused. Twin: `transform/linear/cpu.rs`.
@group(0) @binding(0) var<uniform> params: AxesParams;
@group(0) @binding(1) var<storage, read> runs: array<u32>; // the columns' run
@group(0) @binding(2) var<storage, read> query_codes: array<vec4<u32>>; // [n_rows, query_steps]
@group(0) @binding(3) var<storage, read> heads: array<Head>; // [n_rows]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [n_rows, y_stride], zero beyond s

fn record_of(row: u32) -> u32 {
    return row;
}

fn put(row: u32, column: u32, head: VectorHead, product: i32) {
    if (row < params.n_rows) {
        y[row * params.y_stride + column] = block_score(head, heads[row], product, 1.0);
    }
}

@compute @workgroup_size(64)
fn transform_project_x8(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let tile_ix = workgroup.y * params.grid_width + workgroup.x;
    let row_from = tile_ix / params.column_tiles * QUERIES;
    if (row_from >= params.n_rows) {
        return;
    }
    let column = tile_ix % params.column_tiles * 64u + local_ix;
    let n_queries = min(QUERIES, params.n_rows - row_from);
    // Places of the last block beyond s hold zeros.
    let valid = column < params.y_stride;
    let at = column / 16u * params.block_words + column % 16u;
    load_queries(local_ix, row_from, n_queries, 0u);
    let sums = block_products(local_ix, row_from, n_queries, at, params.block_words / 16u, valid);
    if (!valid) {
        return;
    }
    let head = vector_head(params.firsts_at, params.n_places, column, 0u);
    put(row_from, column, head, sums.low.x);
    put(row_from + 1u, column, head, sums.low.y);
    put(row_from + 2u, column, head, sums.low.z);
    put(row_from + 3u, column, head, sums.low.w);
    put(row_from + 4u, column, head, sums.high.x);
    put(row_from + 5u, column, head, sums.high.y);
    put(row_from + 6u, column, head, sums.high.z);
    put(row_from + 7u, column, head, sums.high.w);
}
