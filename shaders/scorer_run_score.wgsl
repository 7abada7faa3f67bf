// Scores of a list's points by their run, `norm + factor·⟨t, point⟩`, kept where they reach their query's floor.
//
// A workgroup takes up to 8 slots of a list × up to 256 points, an invocation one point at a time. Reads r + 6 bytes a
// point (10 for l2) and 8 slots, r + 16 bytes a slot. Grid: one workgroup a unit of work. Integer sums are exact; a
// score is off by two roundings at most where `fma` is not fused. Twins: `rrr/cpu.rs`, `cnn/cpu.rs`.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> runs: array<u32>; // the page's runs of points
@group(0) @binding(2) var<storage, read> query_codes: array<vec4<u32>>; // [n_slots, query_steps]
@group(0) @binding(3) var<storage, read> heads: array<Head>; // [n_slots]
@group(0) @binding(4) var<storage, read> lists: array<vec2<u32>>; // [n_lists + 1]: position, run
@group(0) @binding(5) var<storage, read> groups: array<u32>;
@group(0) @binding(6) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, position
@group(0) @binding(8) var<storage, read_write> states: array<atomic<u32>>; // [n_rows][2]

fn record_of(slot: u32) -> u32 {
    return slot;
}

fn key_of(work: Work, query: u32, head: VectorHead, product: i32) -> u32 {
    if (query >= work.n_slots) {
        return NO_KEY;
    }
    return order_key(block_score(head, heads[work.slot + query], product, params.factor));
}

@compute @workgroup_size(64)
fn scorer_run_score(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let work = find_work(workgroup.y * params.grid_width + workgroup.x);
    if (work.n_slots == 0u) {
        return;
    }
    open_rows(local_ix, work);
    let n_blocks = (lists[work.list + 1u].x - work.span.first + 15u) / 16u;
    let run = (lists[work.list].y - params.run_from) * 16u;
    let firsts_at = run + n_blocks * params.block_words;
    let tile_from = work.span.from_position + work.tile * params.tile_points;
    let tile_to = min(tile_from + params.tile_points, work.span.to_position);
    load_queries(local_ix, work.slot, work.n_slots, 0u);
    for (var position_from = tile_from; position_from < tile_to; position_from += 64u) {
        let position = position_from + local_ix;
        let valid = position < tile_to;
        let ix = position - work.span.first;
        let at = run + ix / 16u * params.block_words + ix % 16u;
        let sums = block_products(local_ix, work.slot, work.n_slots, at, params.block_words / 16u, valid);
        var keys = Keys(vec4<u32>(NO_KEY), vec4<u32>(NO_KEY));
        if (valid) {
            let head = vector_head(firsts_at, n_blocks * 16u, ix, params.has_norm);
            keys.low = vec4<u32>(
                key_of(work, 0u, head, sums.low.x),
                key_of(work, 1u, head, sums.low.y),
                key_of(work, 2u, head, sums.low.z),
                key_of(work, 3u, head, sums.low.w),
            );
            keys.high = vec4<u32>(
                key_of(work, 4u, head, sums.high.x),
                key_of(work, 5u, head, sums.high.y),
                key_of(work, 6u, head, sums.high.z),
                key_of(work, 7u, head, sums.high.w),
            );
        }
        append(local_ix, position, keys);
    }
}
