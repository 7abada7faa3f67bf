// What a head of a token sees: clamp(Σ_j softmax_j(q·k_j / √key) v_j, −1, 1) over the tokens j of its query.
//
// A workgroup makes one token's values of one head. Grid: n_rows·n_heads. Reads 4·n_tokens·(key + s) bytes. Exponentials as
// exact as the driver's. Twin: `transform/cnt/cpu.rs`.
@group(0) @binding(0) var<uniform> params: AttendParams;
@group(0) @binding(1) var<storage, read> queries: array<f32>; // [n_rows, n_heads, key]
@group(0) @binding(2) var<storage, read> keys: array<f32>; // [n_rows / each, n_tokens, n_heads, key + s]
@group(0) @binding(3) var<storage, read_write> seen: array<f32>; // [n_rows, n_heads, s]

const TOKENS_MAX = 65u;

var<workgroup> sh_fits: array<f32, TOKENS_MAX>;

fn key_at(row: u32, token: u32, head: u32) -> u32 {
    return ((row / params.each * params.n_tokens + token) * params.n_heads + head) * (params.key + params.s);
}

@compute @workgroup_size(64)
fn transform_attend(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let ix = workgroup.y * params.grid_width + workgroup.x;
    let row = ix / params.n_heads;
    let head = ix % params.n_heads;
    if (row >= params.n_rows) {
        return;
    }
    for (var token = local_ix; token < params.n_tokens; token += 64u) {
        let at = key_at(row, token, head);
        var fit = 0.0;
        for (var i = 0u; i < params.key; i++) {
            fit = fma(queries[ix * params.key + i], keys[at + i], fit);
        }
        sh_fits[token] = fit * params.factor;
    }
    workgroupBarrier();
    var most = sh_fits[0];
    for (var token = 1u; token < params.n_tokens; token++) {
        most = max(most, sh_fits[token]);
    }
    var total = 0.0;
    for (var token = 0u; token < params.n_tokens; token++) {
        total += exp(sh_fits[token] - most);
    }
    for (var i = local_ix; i < params.s; i += 64u) {
        var sum = 0.0;
        for (var token = 0u; token < params.n_tokens; token++) {
            let value = keys[key_at(row, token, head) + params.key + i];
            sum = fma(exp(sh_fits[token] - most), value, sum);
        }
        seen[ix * params.s + i] = clamp(sum / total, -1.0, 1.0);
    }
}
