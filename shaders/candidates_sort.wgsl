// Sorts the first `len` candidates of each row by key, then tie, and writes the best `n_out` as (key, tie).
//
// A workgroup takes a row: a bitonic network whose merges begin with a mirrored step, so that every exchange goes
// the same way and a length that is no power of two needs no padding. Grid: n_rows. Exact. Twin: `topk.rs`.
@group(0) @binding(0) var<uniform> params: SortParams;
@group(0) @binding(1) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, item
@group(0) @binding(2) var<storage, read> states: array<RowState>; // [n_rows]
@group(0) @binding(3) var<storage, read> ties: array<u32>; // id rank by position
@group(0) @binding(4) var<storage, read> heads: array<Head>; // [n_rows], for the norms
@group(0) @binding(5) var<storage, read_write> sorted: array<vec2<u32>>; // [n_rows, n_out]

fn exchange(row_at: u32, low: u32, high: u32) {
    if (high < params.len) {
        let a = held(row_at, low);
        let b = held(row_at, high);
        if (precedes(b, a)) {
            hold(row_at, low, b);
            hold(row_at, high, a);
        }
    }
}

@compute @workgroup_size(WG_SIZE)
fn candidates_sort(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let row = workgroup.y * params.grid_width + workgroup.x;
    if (row >= params.n_rows) {
        return;
    }
    let row_at = row * params.stride;
    let count = min(states[row].count, params.len);
    for (var i = local_ix; i < params.len; i += WG_SIZE) {
        var candidate = vec2<u32>(NO_KEY, NO_KEY);
        if (i < count) {
            candidate = candidates[row_at + i];
            candidate.y = tie_of(candidate.y);
            if (params.add_norm == 1u) {
                candidate.x = order_key(key_score(candidate.x) + heads[row].norm);
            }
        }
        hold(row_at, i, candidate);
    }
    settle();
    for (var run = 2u; run < params.len * 2u; run *= 2u) {
        for (var i = local_ix; i < params.half_len; i += WG_SIZE) {
            let start = i / (run / 2u) * run;
            let inside = i % (run / 2u);
            exchange(row_at, start + inside, start + run - 1u - inside);
        }
        settle();
        for (var distance = run / 4u; distance > 0u; distance /= 2u) {
            for (var i = local_ix; i < params.half_len; i += WG_SIZE) {
                let low = i / distance * distance * 2u + i % distance;
                exchange(row_at, low, low + distance);
            }
            settle();
        }
    }
    for (var i = local_ix; i < params.n_out; i += WG_SIZE) {
        var candidate = vec2<u32>(NO_KEY, NO_KEY);
        if (i < params.len) {
            candidate = held(row_at, i);
        }
        sorted[row * params.n_out + i] = candidate;
    }
}
