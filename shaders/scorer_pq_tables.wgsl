// Lookup tables of a query: its products with every codeword, rounded to bytes.
//
// A workgroup of 64 takes a query, 64 tables at a time, an invocation four entries at a time: once for the least and the widest,
// once more for the bytes, which costs less than keeping the entries. Grid: n_rows. Reads the codebooks twice
// (4·s·n_words bytes each), writes a byte an entry. Sums are plain products and additions in order; where a compiler
// fuses them, a byte may differ by one. Twin: `tables` in `simd/portable.rs`.
@group(0) @binding(0) var<uniform> params: PqParams;
@group(0) @binding(1) var<storage, read> codebooks: array<vec4<f32>>; // [m][width][n_words / 4]
@group(0) @binding(2) var<storage, read> queries: array<f32>; // [n_rows, query_stride]
@group(0) @binding(3) var<storage, read_write> table_lows: array<f32>; // [n_rows, n_tables]
@group(0) @binding(4) var<storage, read_write> table_bytes: array<u32>; // [n_rows, n_tables, n_words / 4]
@group(0) @binding(5) var<storage, read_write> table_heads: array<TableHead>; // [n_rows]

const TABLES = 64u;

var<workgroup> sh_lows: array<atomic<u32>, TABLES>;
var<workgroup> sh_highs: array<atomic<u32>, TABLES>;
var<workgroup> sh_step: f32;

// Four entries of a table: factor · Σ q·codewords.
fn entries_of(row: u32, table: u32, quad: u32) -> vec4<f32> {
    let from_dim = table * params.s / params.m;
    // The product below leaves 32 bits for the last of 65 536 tables.
    let to_dim = select((table + 1u) * params.s / params.m, params.s, table + 1u == params.m);
    let n_quads = params.n_words / 4u;
    var sum = vec4<f32>();
    var at = table * params.width * n_quads + quad;
    for (var dim = from_dim; dim < to_dim; dim++) {
        sum += queries[row * params.query_stride + dim] * codebooks[at];
        at += n_quads;
    }
    return sum * params.factor;
}

@compute @workgroup_size(64)
fn scorer_pq_tables(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let row = workgroup.y * params.grid_width + workgroup.x;
    if (row >= params.n_rows) {
        return;
    }
    let n_quads = params.n_words / 4u;
    var bias = 0.0;
    var widest = 0.0;
    for (var table_from = 0u; table_from < params.m; table_from += TABLES) {
        atomicStore(&sh_lows[local_ix], NO_KEY);
        atomicStore(&sh_highs[local_ix], 0u);
        workgroupBarrier();
        let n_tables = min(TABLES, params.m - table_from);
        for (var i = local_ix; i < n_tables * n_quads; i += 64u) {
            let entries = entries_of(row, table_from + i / n_quads, i % n_quads);
            let low = min(min(entries.x, entries.y), min(entries.z, entries.w));
            let high = max(max(entries.x, entries.y), max(entries.z, entries.w));
            atomicMin(&sh_lows[i / n_quads], order_key(low));
            atomicMax(&sh_highs[i / n_quads], order_key(high));
        }
        workgroupBarrier();
        // In order, as every backend sums them.
        if (local_ix == 0u) {
            for (var i = 0u; i < n_tables; i++) {
                let low = key_score(atomicLoad(&sh_lows[i]));
                bias += low;
                widest = max(widest, key_score(atomicLoad(&sh_highs[i])) - low);
                table_lows[row * params.n_tables + table_from + i] = low;
            }
        }
        workgroupBarrier();
    }
    if (local_ix == 0u) {
        sh_step = widest / 255.0;
        table_heads[row] = TableHead(bias, sh_step);
    }
    storageBarrier();
    let step = workgroupUniformLoad(&sh_step);
    let inverse = select(0.0, 1.0 / step, step >= 1.17549435e-38);
    for (var i = local_ix; i < params.n_tables * n_quads; i += 64u) {
        let table = i / n_quads;
        var word = 0u;
        if (table < params.m) {
            let low = table_lows[row * params.n_tables + table];
            let steps = (entries_of(row, table, i % n_quads) - low) * inverse;
            let bytes = vec4<u32>(round(clamp(steps, vec4<f32>(0.0), vec4<f32>(255.0))));
            word = bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
        }
        table_bytes[row * params.n_tables * n_quads + i] = word;
    }
}
