// Cuts each row of candidates to its best `keep`, in place and in no order (`topk::Candidates::cut`).
//
// A workgroup of 256 takes a row. Radix select from the top digit of 8 bits: up to four passes over the keys, fewer where
// digits already part those that stay from those that go; only where more candidates share the last key than fit, up to
// four more over the ids of those. Grid: n_rows.
// Reads 8 bytes a candidate and pass. Exact. Twin: `topk.rs`.
@group(0) @binding(0) var<uniform> params: SelectParams;
@group(0) @binding(1) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, item
@group(0) @binding(2) var<storage, read_write> states: array<RowState>; // [n_rows]
@group(0) @binding(3) var<storage, read> ties: array<u32>; // id rank by position

var<workgroup> sh_count: u32;
var<workgroup> sh_bins: array<atomic<u32>, 256>;
var<workgroup> sh_digit: vec3<u32>; // digit, candidates below it, candidates with it
var<workgroup> sh_taken: atomic<u32>;

@compute @workgroup_size(256)
fn candidates_select(@builtin(workgroup_id) workgroup: vec3<u32>, lane: Lane) {
    let row = workgroup.y * params.grid_width + workgroup.x;
    if (row >= params.n_rows) {
        return;
    }
    let place = place_of(lane);
    if (place == 0u) {
        sh_count = min(states[row].count, params.stride);
        atomicStore(&sh_taken, 0u);
    }
    let count = workgroupUniformLoad(&sh_count);
    if (count <= params.keep) {
        return;
    }
    let row_at = row * params.stride;
    // Digits found so far: of the key, then of the tie.
    var last_key = 0u;
    var last_tie = 0xffffffffu;
    var wanted = params.keep;
    for (var pass_ix = 0u; pass_ix < 8u; pass_ix++) {
        let shift = 24u - 8u * (pass_ix % 4u);
        let by_tie = pass_ix >= 4u;
        if (pass_ix == 4u) {
            last_tie = 0u;
        }
        // Bits above the digit.
        let above = select(0xffffffffu << ((shift + 8u) % 32u), 0u, shift == 24u);
        atomicStore(&sh_bins[place], 0u);
        workgroupBarrier();
        for (var i = place; i < count; i += 256u) {
            let candidate = candidates[row_at + i];
            if (by_tie) {
                if (candidate.x == last_key) {
                    let tie = tie_of(candidate.y);
                    if ((tie & above) == last_tie) {
                        atomicAdd(&sh_bins[(tie >> shift) & 255u], 1u);
                    }
                }
            } else if ((candidate.x & above) == last_key) {
                atomicAdd(&sh_bins[(candidate.x >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        let mine = atomicLoad(&sh_bins[place]);
        let up_to = inclusive_sum(lane, mine);
        if (up_to >= wanted && up_to - mine < wanted) {
            sh_digit = vec3<u32>(place, up_to - mine, mine);
        }
        let digit = workgroupUniformLoad(&sh_digit);
        wanted -= digit.y;
        if (by_tie) {
            last_tie |= digit.x << shift;
        } else {
            last_key |= digit.x << shift;
        }
        if (digit.z == wanted) {
            // All that share the digits found so far fit.
            let below = (1u << shift) - 1u;
            if (by_tie) {
                last_tie |= below;
            } else {
                last_key |= below;
            }
            break;
        }
    }
    // Writes stay behind reads: what is kept of the first i + 256 candidates goes to places below that.
    for (var from_ix = 0u; from_ix < count; from_ix += 256u) {
        let i = from_ix + place;
        var candidate = vec2<u32>();
        var stays = false;
        if (i < count) {
            candidate = candidates[row_at + i];
            stays = candidate.x < last_key || (candidate.x == last_key && tie_of(candidate.y) <= last_tie);
        }
        storageBarrier();
        if (stays) {
            let slot = atomicAdd(&sh_taken, 1u);
            if (slot < params.keep) {
                candidates[row_at + slot] = candidate;
            }
        }
    }
    if (place == 0u) {
        states[row] = RowState(params.keep, ~last_key);
    }
}
