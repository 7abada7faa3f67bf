// From pairs a list to each list's first slot and first workgroup, and to the grid of the dispatch that follows.
//
// One workgroup of 256 walks over the lists, eight an invocation at a time. Grid: 1. Reads 12 bytes a list, writes 8. Exact.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> lists: array<vec2<u32>>; // [n_lists + 1]: position, run
@group(0) @binding(2) var<storage, read> pair_counts: array<u32>; // [n_lists]
@group(0) @binding(3) var<storage, read_write> groups: array<u32>; // [2][n_lists + 1]
@group(0) @binding(4) var<storage, read_write> grid: array<u32>; // [3], of an indirect dispatch

const QUERIES = 8u;
// Lists that an invocation holds: their loads wait together.
const HELD = 8u;

var<workgroup> sh_last: vec2<u32>;

// Pairs of a list, and the workgroups that they take.
fn sizes_of(list: u32) -> vec2<u32> {
    let n_pairs = pair_counts[list];
    return vec2<u32>(n_pairs, (n_pairs + QUERIES - 1u) / QUERIES * tiles_of(span_of(list)));
}

@compute @workgroup_size(256)
fn pairs_scan(lane: Lane) {
    let place = place_of(lane);
    let work_at = params.n_lists + 1u;
    var before = vec2<u32>(0u);
    for (var tile_from = 0u; tile_from < params.n_lists; tile_from += 256u * HELD) {
        let list_from = tile_from + place * HELD;
        var sizes: array<vec2<u32>, HELD>;
        var sum = vec2<u32>(0u);
        for (var i = 0u; i < HELD; i++) {
            if (list_from + i < params.n_lists) {
                sizes[i] = sizes_of(list_from + i);
                sum += sizes[i];
            }
        }
        let up_to = before + vec2<u32>(inclusive_sum(lane, sum.x), inclusive_sum(lane, sum.y));
        var next = up_to - sum;
        for (var i = 0u; i < HELD; i++) {
            if (list_from + i < params.n_lists) {
                groups[list_from + i] = next.x;
                groups[work_at + list_from + i] = next.y;
                next += sizes[i];
            }
        }
        if (place == 255u) {
            sh_last = up_to;
        }
        before = workgroupUniformLoad(&sh_last);
    }
    if (place == 0u) {
        groups[params.n_lists] = before.x;
        groups[work_at + params.n_lists] = before.y;
        grid[0] = min(before.y, params.grid_width);
        grid[1] = (before.y + params.grid_width - 1u) / params.grid_width;
        grid[2] = 1u;
    }
}
