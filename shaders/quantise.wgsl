// A row's values 1.. to int8 with one scale, value 0 kept in f32 (`BlockQuery::quantise_reference`).
//
// A workgroup takes 8 rows, 8 invocations each. Grid: ceil(n_rows / 8). Reads 8·len bytes a row (twice 4·len, the second
// time from the cache), writes len + 16. The scale is one division: correctly rounded where the driver divides so, else
// off by at most 2.5 ulp, which moves a code only where a value lies that close to a rounding edge. Twin: `simd/scalar.rs`.
@group(0) @binding(0) var<uniform> params: QuantiseParams;
@group(0) @binding(1) var<storage, read> rows: array<f32>; // [n_rows, row_stride]
@group(0) @binding(2) var<storage, read_write> codes: array<vec4<u32>>; // [n_rows, steps]: 16 codes each, zero-padded
@group(0) @binding(3) var<storage, read_write> heads: array<Head>; // [n_rows]

var<workgroup> sh_absmax: array<f32, 64>;
var<workgroup> sh_norm: array<f32, 64>;
var<workgroup> sh_sum: array<i32, 64>;

fn code_word(row_at: u32, first: u32, inverse: f32) -> u32 {
    var values = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if (first + i < params.len) {
            values[i] = rows[row_at + first + i];
        }
    }
    return pack4xI8(vec4<i32>(round(values * inverse)));
}

@compute @workgroup_size(64)
fn quantise(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let row_from = (workgroup.y * params.grid_width + workgroup.x) * 8u;
    let row = row_from + local_ix / 8u;
    let lane = local_ix % 8u;
    let group = local_ix - lane;
    let row_at = row * params.row_stride;
    let valid = row < params.n_rows;
    var absmax = 0.0;
    var norm = 0.0;
    if (valid) {
        for (var i = 1u + lane; i < params.len; i += 8u) {
            let value = rows[row_at + i];
            absmax = max(absmax, abs(value));
            norm += value * value;
        }
    }
    sh_absmax[local_ix] = absmax;
    sh_norm[local_ix] = norm;
    workgroupBarrier();
    norm = 0.0;
    for (var i = 0u; i < 8u; i++) {
        absmax = max(absmax, sh_absmax[group + i]);
        norm += sh_norm[group + i];
    }
    let scale = absmax / 127.0;
    // Below the smallest normal number 1 / scale is not finite.
    let inverse = select(0.0, 1.0 / scale, scale >= 1.17549435e-38);
    var sum = 0;
    if (valid) {
        for (var step = lane; step < params.steps; step += 8u) {
            let at = 1u + step * 16u;
            let words = vec4<u32>(
                code_word(row_at, at, inverse),
                code_word(row_at, at + 4u, inverse),
                code_word(row_at, at + 8u, inverse),
                code_word(row_at, at + 12u, inverse),
            );
            let ones = 0x01010101u;
            sum += dot4I8Packed(words.x, ones) + dot4I8Packed(words.y, ones)
                + dot4I8Packed(words.z, ones) + dot4I8Packed(words.w, ones);
            codes[row * params.steps + step] = words;
        }
    }
    sh_sum[local_ix] = sum;
    workgroupBarrier();
    if (valid && lane == 0u) {
        sum = 0;
        for (var i = 0u; i < 8u; i++) {
            sum += sh_sum[group + i];
        }
        let first = rows[row_at];
        heads[row] = Head(first, scale, sum, norm + first * first);
    }
}
