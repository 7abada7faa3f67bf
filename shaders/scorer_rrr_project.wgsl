// t = qA of a list for the queries that probe it: [t_0, t_1..t_r] a slot, ready for `quantise`.
//
// A workgroup takes up to 8 slots of a list, an invocation one column of A's run at a time. Column 0 is bytes against
// the f32 query: 8 invocations a query. Reads s·(r + 1) bytes of A, s of int8 and 4·s of f32 query a slot.
// Grid: one workgroup a unit of work. Integer sums are exact; t_0 is a sum of s terms. Twin: `rrr/cpu.rs`.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> runs: array<u32>; // the page's records of A
@group(0) @binding(2) var<storage, read> query_codes: array<vec4<u32>>; // [n_rows, query_steps]
@group(0) @binding(3) var<storage, read> heads: array<Head>; // [n_rows]
@group(0) @binding(4) var<storage, read> queries: array<f32>; // [n_rows, query_stride], reduced
@group(0) @binding(5) var<storage, read> lists: array<vec2<u32>>; // [n_lists + 1]: position, run
@group(0) @binding(6) var<storage, read> groups: array<u32>;
@group(0) @binding(7) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(8) var<storage, read_write> projected: array<f32>; // [n_slots, t_stride]

var<workgroup> sh_parts: array<f32, 64>; // [QUERIES][8 parts]

fn record_of(slot: u32) -> u32 {
    return row_of(slot);
}

fn put(work: Work, query: u32, column: u32, head: VectorHead, product: i32) {
    if (query < work.n_slots) {
        let slot = work.slot + query;
        projected[slot * params.t_stride + 1u + column] = block_score(head, heads[row_of(slot)], product, 1.0);
    }
}

@compute @workgroup_size(64)
fn scorer_rrr_project(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let work = find_work(workgroup.y * params.grid_width + workgroup.x);
    if (work.n_slots == 0u) {
        return;
    }
    let record = (work.list - params.list_from) * params.record_words;
    // Column 0: two floats, then s - 1 bytes.
    let query = local_ix / 8u;
    var part = 0.0;
    if (query < work.n_slots) {
        let query_at = row_of(work.slot + query) * params.query_stride + 1u;
        for (var word = local_ix % 8u; word * 4u < params.column_len; word += 8u) {
            let bytes = runs[record + 2u + word];
            let n_bytes = min(params.column_len - word * 4u, 4u);
            for (var i = 0u; i < n_bytes; i++) {
                let code = i32((bytes >> (8u * i)) & 255u) - 128;
                part = fma(f32(code), queries[query_at + word * 4u + i], part);
            }
        }
    }
    sh_parts[local_ix] = part;
    workgroupBarrier();
    if (local_ix < work.n_slots) {
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) {
            sum += sh_parts[local_ix * 8u + i];
        }
        let slot = work.slot + local_ix;
        let q_first = queries[row_of(slot) * params.query_stride];
        let first = bitcast<f32>(runs[record]) * q_first + bitcast<f32>(runs[record + 1u]) * sum;
        projected[slot * params.t_stride] = first;
    }
    // Columns 1..=r: a run of r vectors, 16 a block.
    let run = record + params.column_words;
    let firsts_at = run + params.rank / 16u * params.block_words;
    load_queries(local_ix, work.slot, work.n_slots, 0u);
    for (var column_from = 0u; column_from < params.rank; column_from += 64u) {
        let column = column_from + local_ix;
        let valid = column < params.rank;
        let at = run + column / 16u * params.block_words + column % 16u;
        let sums = block_products(local_ix, work.slot, work.n_slots, at, params.block_words / 16u, valid);
        if (valid) {
            let head = vector_head(firsts_at, params.rank, column, 0u);
            put(work, 0u, column, head, sums.low.x);
            put(work, 1u, column, head, sums.low.y);
            put(work, 2u, column, head, sums.low.z);
            put(work, 3u, column, head, sums.low.w);
            put(work, 4u, column, head, sums.high.x);
            put(work, 5u, column, head, sums.high.y);
            put(work, 6u, column, head, sums.high.z);
            put(work, 7u, column, head, sums.high.w);
        }
    }
}
