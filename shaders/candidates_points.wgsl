// From (key, position) to (point, key), so that sorting brings a point's copies together, the best first.
//
// One invocation a candidate. Grid: ceil(n_rows · keep / 64). Moves 20 bytes a candidate. Exact. Twin: `topk.rs`.
@group(0) @binding(0) var<uniform> params: SelectParams;
@group(0) @binding(1) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, position
@group(0) @binding(2) var<storage, read> states: array<RowState>; // [n_rows]
@group(0) @binding(3) var<storage, read> points: array<u32>; // by position

@compute @workgroup_size(64)
fn candidates_points(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let i = (workgroup.y * params.grid_width + workgroup.x) * 64u + local_ix;
    let row = i / params.keep;
    if (row >= params.n_rows) {
        return;
    }
    let place = i % params.keep;
    if (place < min(states[row].count, params.stride)) {
        let at = row * params.stride + place;
        candidates[at] = vec2<u32>(points[candidates[at].y], candidates[at].x);
    }
}
