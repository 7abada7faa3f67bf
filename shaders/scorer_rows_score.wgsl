// Scores of a list's points by their stored rows, kept where they reach their query's floor.
//
// A workgroup takes up to 8 slots of a list × up to 256 points, an invocation one point at a time. Rows and queries pass
// through workgroup memory, 16 values at a time: a row is read once for 8 queries. Grid: one workgroup a unit of work.
// Sums run in order over quads, so the error is s/4 roundings at most. Twin: `scorer/rows.rs`.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(2) var<storage, read> queries: array<vec4<f32>>; // [n_rows, query_stride / 4]
@group(0) @binding(3) var<storage, read> ranges: array<vec4<f32>>; // sq8: [row_quads][min, step], scales
@group(0) @binding(4) var<storage, read> lists: array<vec2<u32>>; // [n_lists + 1]: position, run
@group(0) @binding(5) var<storage, read> groups: array<u32>;
@group(0) @binding(6) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, position
@group(0) @binding(8) var<storage, read_write> states: array<atomic<u32>>; // [n_rows][2]

const QUERIES = 8u;
// Quads at a time, and the distance of two rows in workgroup memory: 5 quads put eight rows into different banks.
const STEP = 4u;
const PITCH = 5u;

var<workgroup> sh_values: array<vec4<f32>, 64u * PITCH>;
var<workgroup> sh_queries: array<vec4<f32>, STEP * QUERIES>; // [STEP][QUERIES]

fn key_of(valid: bool, sum: f32) -> u32 {
    return select(NO_KEY, order_key(score_of(sum)), valid);
}

@compute @workgroup_size(64)
fn scorer_rows_score(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let work = find_work(workgroup.y * params.grid_width + workgroup.x);
    if (work.n_slots == 0u) {
        return;
    }
    open_rows(local_ix, work);
    let tile_from = work.span.from_position + work.tile * params.tile_points;
    let tile_to = min(tile_from + params.tile_points, work.span.to_position);
    for (var position_from = tile_from; position_from < tile_to; position_from += 64u) {
        var low = vec4<f32>();
        var high = vec4<f32>();
        for (var quad_from = 0u; quad_from < params.row_quads; quad_from += STEP) {
            workgroupBarrier();
            for (var i = local_ix; i < 64u * STEP; i += 64u) {
                let quad = quad_from + i % STEP;
                let position = position_from + i / STEP;
                var value = vec4<f32>();
                if (quad < params.row_quads && position < tile_to) {
                    value = row_quad(position - params.page_from, quad);
                }
                sh_values[i / STEP * PITCH + i % STEP] = value;
            }
            if (local_ix < STEP * QUERIES) {
                let query = local_ix % QUERIES;
                let quad = quad_from + local_ix / QUERIES;
                var value = vec4<f32>();
                if (query < work.n_slots && quad < params.row_quads) {
                    value = queries[row_of(work.slot + query) * (params.query_stride / 4u) + quad];
                }
                sh_queries[local_ix] = value;
            }
            workgroupBarrier();
            for (var step = 0u; step < STEP; step++) {
                let value = sh_values[local_ix * PITCH + step];
                let at = step * QUERIES;
                low.x += quad_term(sh_queries[at], value);
                if (work.n_slots > 1u) {
                    low += vec4<f32>(
                        0.0,
                        quad_term(sh_queries[at + 1u], value),
                        quad_term(sh_queries[at + 2u], value),
                        quad_term(sh_queries[at + 3u], value),
                    );
                    high += vec4<f32>(
                        quad_term(sh_queries[at + 4u], value),
                        quad_term(sh_queries[at + 5u], value),
                        quad_term(sh_queries[at + 6u], value),
                        quad_term(sh_queries[at + 7u], value),
                    );
                }
            }
        }
        let position = position_from + local_ix;
        let n_slots = select(0u, work.n_slots, position < tile_to);
        let keys = Keys(
            vec4<u32>(
                key_of(0u < n_slots, low.x),
                key_of(1u < n_slots, low.y),
                key_of(2u < n_slots, low.z),
                key_of(3u < n_slots, low.w),
            ),
            vec4<u32>(
                key_of(4u < n_slots, high.x),
                key_of(5u < n_slots, high.y),
                key_of(6u < n_slots, high.z),
                key_of(7u < n_slots, high.w),
            ),
        );
        append(local_ix, position, keys);
    }
}
