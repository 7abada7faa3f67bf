// Counts the (query, list) pairs of each list and ranks each pair within its list, in no particular order.
//
// One invocation a pair. Grid: ceil(n_slots / 64). Reads 8 bytes and adds once a pair. Exact.
// Twin: none on the CPU, which scores query by query.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> routed: array<vec2<u32>>; // [n_rows, n_probe]: key, list
@group(0) @binding(2) var<storage, read_write> pair_counts: array<atomic<u32>>; // [n_lists], zeros before
@group(0) @binding(3) var<storage, read_write> pair_ranks: array<u32>; // [n_slots]

@compute @workgroup_size(64)
fn pairs_count(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let pair_ix = (workgroup.y * params.grid_width + workgroup.x) * 64u + local_ix;
    if (pair_ix >= params.n_slots) {
        return;
    }
    let row = pair_ix / params.n_probes;
    let list = routed[row * params.n_probe + params.probe_from + pair_ix % params.n_probes].y;
    pair_ranks[pair_ix] = atomicAdd(&pair_counts[list], 1u);
}
