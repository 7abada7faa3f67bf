// Scores of every centroid for every query, as candidates (key, list); empty lists never come first.
//
// A workgroup takes 8 queries × 64 lists, an invocation one list. Grid: ceil(n_rows / 8) · ceil(n_lists / 64).
// Reads s + 6 bytes a list and 8 queries, writes 8 bytes a score. Integer sums are exact; a score is off by two
// roundings at most where `fma` is not fused. Twin: `router/cpu.rs`.
@group(0) @binding(0) var<uniform> params: RouterParams;
@group(0) @binding(1) var<storage, read> runs: array<u32>; // the centroids' run
@group(0) @binding(2) var<storage, read> query_codes: array<vec4<u32>>; // [n_rows, query_steps]
@group(0) @binding(3) var<storage, read> heads: array<Head>; // [n_rows]
@group(0) @binding(4) var<storage, read> lists: array<vec2<u32>>; // [n_lists + 1]: position, run
@group(0) @binding(5) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, n_lists]
@group(0) @binding(6) var<storage, read_write> states: array<RowState>; // [n_rows]

fn record_of(row: u32) -> u32 {
    return row;
}

fn put(row: u32, list: u32, head: VectorHead, is_empty: bool, product: i32) {
    if (row >= params.n_rows) {
        return;
    }
    let key = order_key(block_score(head, heads[row], product, params.factor));
    candidates[row * params.n_lists + list] = vec2<u32>(select(key, NO_KEY, is_empty), list);
    if (list == 0u) {
        states[row] = RowState(params.n_lists, 0u);
    }
}

@compute @workgroup_size(64)
fn router_score(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let tile_ix = workgroup.y * params.grid_width + workgroup.x;
    let row_from = tile_ix / params.list_tiles * QUERIES;
    if (row_from >= params.n_rows) {
        return;
    }
    let list = tile_ix % params.list_tiles * 64u + local_ix;
    let n_queries = min(QUERIES, params.n_rows - row_from);
    let valid = list < params.n_lists;
    let at = list / 16u * params.block_words + list % 16u;
    load_queries(local_ix, row_from, n_queries, 0u);
    let sums = block_products(local_ix, row_from, n_queries, at, params.block_words / 16u, valid);
    if (!valid) {
        return;
    }
    let head = vector_head(params.firsts_at, params.n_places, list, params.has_norm);
    let is_empty = lists[list].x == lists[list + 1u].x;
    put(row_from, list, head, is_empty, sums.low.x);
    put(row_from + 1u, list, head, is_empty, sums.low.y);
    put(row_from + 2u, list, head, is_empty, sums.low.z);
    put(row_from + 3u, list, head, is_empty, sums.low.w);
    put(row_from + 4u, list, head, is_empty, sums.high.x);
    put(row_from + 5u, list, head, is_empty, sums.high.y);
    put(row_from + 6u, list, head, is_empty, sums.high.z);
    put(row_from + 7u, list, head, is_empty, sums.high.w);
}
