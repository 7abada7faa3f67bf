// Scores of a list's points by table lookups, kept where they reach their query's floor.
//
// A workgroup takes up to 8 slots of a list × up to 256 points, an invocation four neighbouring points, whose codes of a row
// are one word. Tables pass through workgroup memory, 1 024 entries at a time, each entry the bytes of all eight
// queries: one load serves eight lookups, and their bytes are summed two a word (257 of them fit 16 bits). Reads
// M/2 or M bytes a point (4 more for l2) and 8 slots, and M·n_words bytes a slot. Grid: one workgroup a unit of work.
// Sums are exact; a score is off by three roundings at most. Twin: `scorer/pq/cpu.rs`.
@group(0) @binding(0) var<uniform> params: ScanParams;
@group(0) @binding(1) var<storage, read> runs: array<u32>; // the page's runs of codes
@group(0) @binding(2) var<storage, read> table_bytes: array<u32>; // [n_rows, table_words]
@group(0) @binding(3) var<storage, read> table_heads: array<TableHead>; // [n_rows]
@group(0) @binding(4) var<storage, read> lists: array<vec2<u32>>; // [n_lists + 1]: position, run
@group(0) @binding(5) var<storage, read> groups: array<u32>;
@group(0) @binding(6) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read_write> candidates: array<vec2<u32>>; // [n_rows, stride]: key, position
@group(0) @binding(8) var<storage, read_write> states: array<atomic<u32>>; // [n_rows][2]

const QUERIES = 8u;
const ENTRIES = 1024u;
// Rows of codes whose tables are in workgroup memory together, and rows whose sums fit 16 bits.
const ROWS = ENTRIES / ROW_ENTRIES;
const ROWS_U16 = 256u * N_WORDS / ROW_ENTRIES;

var<workgroup> sh_tables: array<vec2<u32>, ENTRIES>; // bytes of queries 0 to 3, and of 4 to 7
var<workgroup> sh_parts: array<f32, QUERIES>; // what a query's scores of this list begin with
var<workgroup> sh_steps: array<f32, QUERIES>;

// Sums of eight queries.
struct Sums {
    low: vec4<u32>, // queries 0 to 3
    high: vec4<u32>, // queries 4 to 7
}

// The bytes of queries (0, 2), (1, 3), (4, 6), (5, 7) in 16 bits each.
fn spread(entry: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(entry.x, entry.x >> 8u, entry.y, entry.y >> 8u) & vec4<u32>(0x00ff00ffu);
}

fn widened(sums: Sums, pairs: vec4<u32>) -> Sums {
    let low = vec4<u32>(pairs.x & 0xffffu, pairs.y & 0xffffu, pairs.x >> 16u, pairs.y >> 16u);
    let high = vec4<u32>(pairs.z & 0xffffu, pairs.w & 0xffffu, pairs.z >> 16u, pairs.w >> 16u);
    return Sums(sums.low + low, sums.high + high);
}

// Byte `ix` of four queries' words, the first query's lowest.
fn byte_of_four(words: vec4<u32>, ix: u32) -> u32 {
    let bytes = (words >> vec4<u32>(8u * ix)) & vec4<u32>(255u);
    return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

fn table_word(work: Work, query: u32, at: u32) -> u32 {
    if (query >= work.n_slots || at >= params.table_words) {
        return 0u;
    }
    return table_bytes[row_of(work.slot + query) * params.table_words + at];
}

// Brings the tables of `ROWS` rows of codes into workgroup memory. Called by all invocations together.
fn load_tables(local_ix: u32, work: Work, row_from: u32) {
    workgroupBarrier();
    for (var quad = local_ix; quad < ENTRIES / 4u; quad += 64u) {
        let at = row_from * (ROW_ENTRIES / 4u) + quad;
        let low = vec4<u32>(
            table_word(work, 0u, at),
            table_word(work, 1u, at),
            table_word(work, 2u, at),
            table_word(work, 3u, at),
        );
        var high = vec4<u32>();
        if (work.n_slots > 4u) {
            high = vec4<u32>(
                table_word(work, 4u, at),
                table_word(work, 5u, at),
                table_word(work, 6u, at),
                table_word(work, 7u, at),
            );
        }
        for (var i = 0u; i < 4u; i++) {
            sh_tables[quad * 4u + i] = vec2<u32>(byte_of_four(low, i), byte_of_four(high, i));
        }
    }
    workgroupBarrier();
}

fn key_of(work: Work, query: u32, sum: u32, norm: f32) -> u32 {
    if (query >= work.n_slots) {
        return NO_KEY;
    }
    return order_key(sh_steps[query] * f32(sum) + (sh_parts[query] + norm));
}

fn offer(local_ix: u32, work: Work, sums: Sums, position: u32, tile_to: u32, norm_at: u32) {
    var keys = Keys(vec4<u32>(NO_KEY), vec4<u32>(NO_KEY));
    if (position < tile_to) {
        var norm = 0.0;
        if (params.has_norm == 1u) {
            norm = bitcast<f32>(runs[norm_at]);
        }
        keys.low = vec4<u32>(
            key_of(work, 0u, sums.low.x, norm),
            key_of(work, 1u, sums.low.y, norm),
            key_of(work, 2u, sums.low.z, norm),
            key_of(work, 3u, sums.low.w, norm),
        );
        keys.high = vec4<u32>(
            key_of(work, 4u, sums.high.x, norm),
            key_of(work, 5u, sums.high.y, norm),
            key_of(work, 6u, sums.high.z, norm),
            key_of(work, 7u, sums.high.w, norm),
        );
    }
    append(local_ix, position, keys);
}

@compute @workgroup_size(64)
fn scorer_pq_score(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let work = find_work(workgroup.y * params.grid_width + workgroup.x);
    if (work.n_slots == 0u) {
        return;
    }
    open_rows(local_ix, work);
    // Blocks of 32 points, 8 words a row. Rounds and tiles begin at multiples of 256 points of a list.
    let n_blocks = (lists[work.list + 1u].x - work.span.first + 31u) / 32u;
    let run = (lists[work.list].y - params.run_from) * 16u;
    let terms_at = run + n_blocks * params.block_words;
    if (local_ix < work.n_slots) {
        let head = table_heads[row_of(work.slot + local_ix)];
        var base = 0.0;
        if (params.has_base == 1u) {
            base = key_score(base_key_of(work.slot + local_ix));
            if (params.has_norm == 0u) {
                base *= bitcast<f32>(runs[terms_at]);
            }
        }
        sh_parts[local_ix] = base + head.bias;
        sh_steps[local_ix] = head.step;
    }
    let n_rows = params.block_words / 8u;
    let tile_from = work.span.from_position + work.tile * params.tile_points;
    let tile_to = min(tile_from + params.tile_points, work.span.to_position);
    let position = tile_from + local_ix * 4u;
    let ix = position - work.span.first;
    let at = run + ix / 32u * params.block_words + ix % 32u / 4u;
    var first = Sums();
    var second = Sums();
    var third = Sums();
    var fourth = Sums();
    for (var wide_from = 0u; wide_from < n_rows; wide_from += ROWS_U16) {
        var pairs_0 = vec4<u32>();
        var pairs_1 = vec4<u32>();
        var pairs_2 = vec4<u32>();
        var pairs_3 = vec4<u32>();
        let wide_to = min(wide_from + ROWS_U16, n_rows);
        for (var row_from = wide_from; row_from < wide_to; row_from += ROWS) {
            load_tables(local_ix, work, row_from);
            if (position < tile_to) {
                let row_to = min(row_from + ROWS, wide_to);
                for (var row = row_from; row < row_to; row++) {
                    let codes = runs[at + row * 8u];
                    let entries_at = (row - row_from) * ROW_ENTRIES;
                    pairs_0 += looked_up(entries_at, codes & 255u);
                    pairs_1 += looked_up(entries_at, (codes >> 8u) & 255u);
                    pairs_2 += looked_up(entries_at, (codes >> 16u) & 255u);
                    pairs_3 += looked_up(entries_at, codes >> 24u);
                }
            }
        }
        first = widened(first, pairs_0);
        second = widened(second, pairs_1);
        third = widened(third, pairs_2);
        fourth = widened(fourth, pairs_3);
    }
    let norm_at = terms_at + ix;
    offer(local_ix, work, first, position, tile_to, norm_at);
    offer(local_ix, work, second, position + 1u, tile_to, norm_at + 1u);
    offer(local_ix, work, third, position + 2u, tile_to, norm_at + 2u);
    offer(local_ix, work, fourth, position + 3u, tile_to, norm_at + 3u);
}
