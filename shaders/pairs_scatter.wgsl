// Puts each pair's query and its key into the slot that its list and its rank within the list give.
//
// One invocation a pair. Grid: ceil(n_slots / 64). Moves 24 bytes a pair. Exact.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> routed: array<vec2<u32>>; // [n_rows, n_probe]: key, list
@group(0) @binding(2) var<storage, read> groups: array<u32>; // [2][n_lists + 1]
@group(0) @binding(3) var<storage, read> pair_ranks: array<u32>; // [n_slots]
@group(0) @binding(4) var<storage, read_write> slots: array<vec2<u32>>; // [n_slots]: query, key

@compute @workgroup_size(64)
fn pairs_scatter(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let pair_ix = (workgroup.y * params.grid_width + workgroup.x) * 64u + local_ix;
    if (pair_ix >= params.n_slots) {
        return;
    }
    let row = pair_ix / params.n_probes;
    let pair = routed[row * params.n_probe + params.probe_from + pair_ix % params.n_probes];
    slots[groups[pair.y] + pair_ranks[pair_ix]] = vec2<u32>(row, pair.x);
}
