// From sorted (point, key) to (key, point): of each point the first entry, appended in no order.
//
// One invocation a candidate. Grid: ceil(n_rows · keep / 64). Moves 24 bytes a candidate. Exact. Twin: `topk.rs`.
@group(0) @binding(0) var<uniform> params: SelectParams;
@group(0) @binding(1) var<storage, read> merged: array<vec2<u32>>; // [n_rows, keep]: point, key; NO_KEY beyond the last
@group(0) @binding(2) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, point
@group(0) @binding(3) var<storage, read_write> states: array<atomic<u32>>; // [n_rows][2], zeros before

@compute @workgroup_size(64)
fn candidates_merge(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let i = (workgroup.y * params.grid_width + workgroup.x) * 64u + local_ix;
    let row = i / params.keep;
    if (row >= params.n_rows) {
        return;
    }
    let entry = merged[i];
    var is_first = entry.x != NO_KEY;
    if (i % params.keep > 0u) {
        is_first = is_first && merged[i - 1u].x != entry.x;
    }
    if (is_first) {
        let place = atomicAdd(&states[row * 2u], 1u);
        candidates[row * params.stride + place] = vec2<u32>(entry.y, entry.x);
    }
}
