// The scores of a query's lists become those of their centroids, which codes are residuals to, where weights have chosen the lists.
//
// An invocation takes a pair of a query and a list. Grid: ceil(n_rows·n_probe / 64). Reads 2·s bytes a pair, 4 in a row, and moves 8.
// Integer sums are exact; a score is off by two roundings at most where `fma` is not fused. Twin: `router/cpu.rs`.
@group(0) @binding(0) var<uniform> params: RouterParams;
@group(0) @binding(1) var<storage, read> runs: array<u32>; // the centroids' run
@group(0) @binding(2) var<storage, read> query_codes: array<vec4<u32>>; // [n_rows, query_steps]
@group(0) @binding(3) var<storage, read> heads: array<Head>; // [n_rows]
@group(0) @binding(4) var<storage, read_write> routed: array<vec2<u32>>; // [n_rows, n_probe]: key, list

fn record_of(row: u32) -> u32 {
    return row;
}

@compute @workgroup_size(64)
fn router_base(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let pair_ix = (workgroup.y * params.grid_width + workgroup.x) * 64u + local_ix;
    if (pair_ix >= params.n_rows * params.n_probe) {
        return;
    }
    let row = pair_ix / params.n_probe;
    let list = routed[pair_ix].y;
    if (list >= params.n_lists) {
        return;
    }
    let at = list / 16u * params.block_words + list % 16u;
    var product = 0;
    for (var step = 0u; step < params.query_steps; step++) {
        let codes = code_quad(at, params.block_words / 16u, step);
        product += dot_quad(codes, query_codes[row * params.query_steps + step]);
    }
    let head = vector_head(params.firsts_at, params.n_places, list, params.has_norm);
    routed[pair_ix].x = order_key(block_score(head, heads[row], product, params.factor));
}
