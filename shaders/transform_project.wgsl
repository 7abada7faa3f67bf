// y = qW: a workgroup makes a tile of 64 queries × 64 outputs.
//
// Grid: ceil(n_rows / 64) · ceil(y_stride / 64). Reads 2·d·s bytes of W a tile of queries and 4·d bytes a query and
// 64 outputs. Sums run over d in order, so the error is d/2 roundings at most. Twin: `transform/linear/cpu.rs`.
@group(0) @binding(0) var<uniform> params: ProjectParams;
@group(0) @binding(1) var<storage, read> queries: array<f32>; // [n_rows, q_stride]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [n_rows, y_stride], zero beyond s

fn input_at(row: u32, i: u32) -> f32 {
    if (row >= params.n_rows || i >= params.d) {
        return 0.0;
    }
    return queries[row * params.q_stride + i];
}

fn weight_at(i: u32, column: u32) -> f32 {
    if (i >= params.d || column >= params.s) {
        return 0.0;
    }
    return weight(i * params.s + column);
}

fn put(row: u32, column: u32, sums: vec4<f32>) {
    if (row < params.n_rows && column < params.y_stride) {
        let at = row * params.y_stride + column;
        y[at] = sums.x;
        y[at + 1u] = sums.y;
        y[at + 2u] = sums.z;
        y[at + 3u] = sums.w;
    }
}

@compute @workgroup_size(256)
fn transform_project(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let tile_ix = workgroup.y * params.grid_width + workgroup.x;
    make_tile(tile_ix, local_ix, params.column_tiles, params.n_rows, params.d);
}
