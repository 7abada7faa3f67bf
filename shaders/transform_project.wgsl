// y = qW: a workgroup makes a tile of 64 queries × 64 outputs, one invocation 4 × 4 of them.
//
// Grid: ceil(n_rows / 64) · ceil(y_stride / 64). Reads 2·d·s bytes of W a tile of queries and 4·d bytes a query and
// 64 outputs. Sums run over d in order, so the error is d/2 roundings at most. Twin: `transform/cpu.rs`.
@group(0) @binding(0) var<uniform> params: ProjectParams;
@group(0) @binding(1) var<storage, read> queries: array<f32>; // [n_rows, q_stride]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [n_rows, y_stride], zero beyond s

const K_STEP = 16u;
const TILE_ROWS = 64u;

var<workgroup> sh_q: array<f32, K_STEP * TILE_ROWS>; // [K_STEP][TILE_ROWS]
var<workgroup> sh_w: array<vec4<f32>, K_STEP * 16u>; // [K_STEP][64 outputs]

fn w_at(row: u32, column: u32) -> f32 {
    if (row >= params.d || column >= params.s) {
        return 0.0;
    }
    return weight(row * params.s + column);
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
    let row_from = tile_ix / params.column_tiles * TILE_ROWS;
    let column_from = tile_ix % params.column_tiles * 64u;
    if (row_from >= params.n_rows) {
        return;
    }
    let tx = local_ix % 16u;
    let ty = local_ix / 16u;
    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    for (var k = 0u; k < params.d; k += K_STEP) {
        workgroupBarrier();
        for (var row = ty; row < TILE_ROWS; row += 16u) {
            var value = 0.0;
            if (row_from + row < params.n_rows && k + tx < params.d) {
                value = queries[(row_from + row) * params.q_stride + k + tx];
            }
            sh_q[tx * TILE_ROWS + row] = value;
        }
        let column = column_from + tx * 4u;
        sh_w[ty * 16u + tx] = vec4<f32>(
            w_at(k + ty, column),
            w_at(k + ty, column + 1u),
            w_at(k + ty, column + 2u),
            w_at(k + ty, column + 3u),
        );
        workgroupBarrier();
        for (var step = 0u; step < K_STEP; step++) {
            let weights = sh_w[step * 16u + tx];
            let at = step * TILE_ROWS + ty;
            sums_0 += sh_q[at] * weights;
            sums_1 += sh_q[at + 16u] * weights;
            sums_2 += sh_q[at + 32u] * weights;
            sums_3 += sh_q[at + 48u] * weights;
        }
    }
    let column = column_from + tx * 4u;
    put(row_from + ty, column, sums_0);
    put(row_from + ty + 16u, column, sums_1);
    put(row_from + ty + 32u, column, sums_2);
    put(row_from + ty + 48u, column, sums_3);
}
