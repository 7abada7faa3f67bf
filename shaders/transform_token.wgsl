// The compression token of each query: made of its layer's output, gate ⊙ hswish(t) + shift + direct, or given the direct path once
// more, t + direct. An invocation makes one value.
//
// Grid: ceil(n_rows·s / 64). Reads 8 bytes a value and 8 of biases, writes 4. Twin: `transform/cnt/cpu.rs`.
@group(0) @binding(0) var<uniform> params: TokenParams;
@group(0) @binding(1) var<storage, read> biases: array<f32>;
@group(0) @binding(2) var<storage, read_write> rows: array<f32>; // [n_rows, stride]: tokens, the compression token, the direct path

@compute @workgroup_size(64)
fn transform_token(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let ix = (workgroup.y * params.grid_width + workgroup.x) * 64u + local_ix;
    let row = ix / params.s;
    let i = ix % params.s;
    if (row >= params.n_rows) {
        return;
    }
    let at = row * params.stride + params.token_at + i;
    var value = rows[at];
    if (params.is_first != 0u) {
        value = biases[params.gate_at + i] * hswish(value) + biases[params.shift_at + i];
    }
    rows[at] = value + rows[at + params.s];
}
