// y = qW for few queries: a workgroup makes 16 outputs of one query, 16 invocations an output.
//
// With one query the tiles of `transform_project` would walk over d in d / 16 steps with a barrier each; here every
// load is asked for at once. Grid: n_rows · ceil(y_stride / 16). Reads 2·d·s bytes of W and 4·d bytes a query. Sums in
// 16 parts, so the error is d/32 + 16 roundings at most. Twin: `transform/linear/cpu.rs`.
@group(0) @binding(0) var<uniform> params: ProjectParams;
@group(0) @binding(1) var<storage, read> queries: array<f32>; // [n_rows, q_stride]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [n_rows, y_stride], zero beyond s

var<workgroup> sh_parts: array<f32, 256>; // [16 parts][16 outputs]

@compute @workgroup_size(256)
fn transform_project_few(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let tile_ix = workgroup.y * params.grid_width + workgroup.x;
    let row = tile_ix / params.column_tiles;
    if (row >= params.n_rows) {
        return;
    }
    let column = tile_ix % params.column_tiles * 16u + local_ix % 16u;
    var part = 0.0;
    if (column < params.s) {
        for (var i = local_ix / 16u; i < params.d; i += 16u) {
            part = fma(queries[row * params.q_stride + i], weight(i * params.s + column), part);
        }
    }
    sh_parts[local_ix] = part;
    workgroupBarrier();
    if (local_ix < 16u && column < params.y_stride) {
        var sum = 0.0;
        for (var i = 0u; i < 16u; i++) {
            sum += sh_parts[i * 16u + local_ix];
        }
        y[row * params.y_stride + column] = sum;
    }
}
