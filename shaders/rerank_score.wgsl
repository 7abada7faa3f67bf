// Exact scores of the candidates on their stored rows, in place of their approximate keys.
//
// A workgroup takes 8 candidates of a query, 8 invocations each: 32 to 128 consecutive bytes a step. Candidates outside the
// page are left to other dispatches. Grid: n_rows · ceil(n_rerank / 8). Reads a row a candidate. Sums in eight parts,
// so the error is d/32 + 8 roundings at most. Twin: `rerank/cpu.rs`.
@group(0) @binding(0) var<uniform> params: RerankParams;
@group(0) @binding(2) var<storage, read> queries: array<vec4<f32>>; // [n_rows, query_quads]
@group(0) @binding(3) var<storage, read> ranges: array<vec4<f32>>; // sq8: [row_quads][min, step], scales
@group(0) @binding(4) var<storage, read> states: array<RowState>; // [n_rows]
@group(0) @binding(5) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, position

var<workgroup> sh_parts: array<f32, 64>; // [8 candidates][8 parts]

@compute @workgroup_size(64)
fn rerank_score(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let group_ix = workgroup.y * params.grid_width + workgroup.x;
    let row = group_ix / params.row_groups;
    if (row >= params.n_rows) {
        return;
    }
    let candidate = group_ix % params.row_groups * 8u + local_ix / 8u;
    let at = row * params.stride + candidate;
    let count = min(states[row].count, params.stride);
    var position = 0u;
    var valid = candidate < count;
    if (valid) {
        position = candidates[at].y;
        valid = position >= params.page_from && position < params.page_to;
    }
    var part = 0.0;
    if (valid) {
        for (var quad = local_ix % 8u; quad < params.row_quads; quad += 8u) {
            let value = row_quad(position - params.page_from, quad);
            part += quad_term(queries[row * params.query_quads + quad], value);
        }
    }
    sh_parts[local_ix] = part;
    workgroupBarrier();
    if (valid && local_ix % 8u == 0u) {
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) {
            sum += sh_parts[local_ix + i];
        }
        candidates[at].x = order_key(score_of(sum));
    }
}
