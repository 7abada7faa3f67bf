// y scaled to the length of x, unless nothing is left of it. A workgroup takes a row.
//
// Grid: n_rows. Reads 4·d + 8·s bytes a row. Sums in 64 parts. Twin: `transform/cpu.rs`.
@group(0) @binding(0) var<uniform> params: RescaleParams;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [n_rows, x_stride]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [n_rows, y_stride]

var<workgroup> sh_sums: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn transform_rescale(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let row = workgroup.y * params.grid_width + workgroup.x;
    if (row >= params.n_rows) {
        return;
    }
    var sums = vec2<f32>();
    for (var i = local_ix; i < params.d; i += 64u) {
        let value = x[row * params.x_stride + i];
        sums.x = fma(value, value, sums.x);
    }
    for (var i = local_ix; i < params.s; i += 64u) {
        let value = y[row * params.y_stride + i];
        sums.y = fma(value, value, sums.y);
    }
    sh_sums[local_ix] = sums;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (local_ix < half) {
            sh_sums[local_ix] += sh_sums[local_ix + half];
        }
        workgroupBarrier();
    }
    let total = sh_sums[0];
    if (total.y <= total.x * params.nothing_left) {
        return;
    }
    let factor = sqrt(total.x) / sqrt(total.y);
    for (var i = local_ix; i < params.s; i += 64u) {
        y[row * params.y_stride + i] *= factor;
    }
}
