// From pairs a list to each list's first slot and first workgroup, and to the grid of the dispatch that follows.
//
// One workgroup of 256 walks over the lists. Grid: 1. Reads 12 bytes a list, writes 8. Exact.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> lists: array<vec2<u32>>; // [n_lists + 1]: position, run
@group(0) @binding(2) var<storage, read> pair_counts: array<u32>; // [n_lists]
@group(0) @binding(3) var<storage, read_write> groups: array<u32>; // [2][n_lists + 1]
@group(0) @binding(4) var<storage, read_write> grid: array<u32>; // [3], of an indirect dispatch

const QUERIES = 8u;

var<workgroup> sh_last: vec2<u32>;

@compute @workgroup_size(256)
fn pairs_scan(lane: Lane) {
    let place = place_of(lane);
    let work_at = params.n_lists + 1u;
    var slot_from = 0u;
    var work_from = 0u;
    for (var list_from = 0u; list_from < params.n_lists; list_from += 256u) {
        let list = list_from + place;
        var n_pairs = 0u;
        var n_work = 0u;
        if (list < params.n_lists) {
            n_pairs = pair_counts[list];
            n_work = (n_pairs + QUERIES - 1u) / QUERIES * tiles_of(span_of(list));
        }
        let pairs_up_to = inclusive_sum(lane, n_pairs);
        let work_up_to = inclusive_sum(lane, n_work);
        if (list < params.n_lists) {
            groups[list] = slot_from + pairs_up_to - n_pairs;
            groups[work_at + list] = work_from + work_up_to - n_work;
        }
        if (place == 255u) {
            sh_last = vec2<u32>(pairs_up_to, work_up_to);
        }
        let last = workgroupUniformLoad(&sh_last);
        slot_from += last.x;
        work_from += last.y;
    }
    if (place == 0u) {
        groups[params.n_lists] = slot_from;
        groups[work_at + params.n_lists] = work_from;
        grid[0] = min(work_from, params.grid_width);
        grid[1] = (work_from + params.grid_width - 1u) / params.grid_width;
        grid[2] = 1u;
    }
}
