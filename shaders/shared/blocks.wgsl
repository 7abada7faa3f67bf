// Products of eight queries with the vectors of 16-vector blocks (`block.rs`).
//
// Each of a workgroup's 64 invocations owns one vector: four blocks at a time. The queries' codes pass through
// workgroup memory, 128 components at a time; a step of 16 components costs an invocation 4 loads of codes (2 at 4
// bits), 8 broadcast loads of queries and 32 `dot4I8Packed`.
// Needs: `runs: array<u32>`, `query_codes: array<vec4<u32>>` with `params.query_steps` entries a query, and `record_of`,
// which gives the entry of a query.
const QUERIES = 8u;
const STEPS = 8u;

var<workgroup> sh_codes: array<vec4<u32>, STEPS * QUERIES>; // [STEPS][QUERIES]

struct Products {
    low: vec4<i32>, // queries 0 to 3
    high: vec4<i32>, // queries 4 to 7
}

fn dot_quad(codes: vec4<u32>, query: vec4<u32>) -> i32 {
    return dot4I8Packed(codes.x, query.x) + dot4I8Packed(codes.y, query.y)
        + dot4I8Packed(codes.z, query.z) + dot4I8Packed(codes.w, query.w);
}

// Brings the next steps of up to eight queries into workgroup memory; those from `n_queries` on are zeros. Called by all
// invocations together, for step 0 before the first `block_products`.
fn load_queries(local_ix: u32, query_from: u32, n_queries: u32, step_from: u32) {
    workgroupBarrier();
    let query = local_ix % QUERIES;
    let step = step_from + local_ix / QUERIES;
    var loaded = vec4<u32>();
    if (query < n_queries && step < params.query_steps) {
        loaded = query_codes[record_of(query_from + query) * params.query_steps + step];
    }
    sh_codes[local_ix] = loaded;
    workgroupBarrier();
}

// `query_from`: the first query's record. `at`: first word of the invocation's vector, `words` of them; nothing is read
// unless `valid`. Called by all invocations together.
fn block_products(local_ix: u32, query_from: u32, n_queries: u32, at: u32, words: u32, valid: bool) -> Products {
    var sums = Products();
    for (var step_from = 0u; step_from < params.query_steps; step_from += STEPS) {
        // Queries of few steps stay where they are.
        if (params.query_steps > STEPS) {
            load_queries(local_ix, query_from, n_queries, step_from);
        }
        if (valid) {
            let n_steps = min(STEPS, params.query_steps - step_from);
            for (var step = 0u; step < n_steps; step++) {
                let codes = code_quad(at, words, step_from + step);
                let sh_at = step * QUERIES;
                if (n_queries == 1u) {
                    sums.low.x += dot_quad(codes, sh_codes[sh_at]);
                    continue;
                }
                sums.low += vec4<i32>(
                    dot_quad(codes, sh_codes[sh_at]),
                    dot_quad(codes, sh_codes[sh_at + 1u]),
                    dot_quad(codes, sh_codes[sh_at + 2u]),
                    dot_quad(codes, sh_codes[sh_at + 3u]),
                );
                if (n_queries > 4u) {
                    sums.high += vec4<i32>(
                        dot_quad(codes, sh_codes[sh_at + 4u]),
                        dot_quad(codes, sh_codes[sh_at + 5u]),
                        dot_quad(codes, sh_codes[sh_at + 6u]),
                        dot_quad(codes, sh_codes[sh_at + 7u]),
                    );
                }
            }
        }
    }
    return sums;
}

// What a vector brings beside its codes. `firsts_at`: where the firsts of its run of `n_places` places begin.
struct VectorHead {
    first: f32,
    norm: f32,
    scale: f32,
}

fn vector_head(firsts_at: u32, n_places: u32, ix: u32, has_norm: u32) -> VectorHead {
    var head = VectorHead(bitcast<f32>(runs[firsts_at + ix]), 0.0, 0.0);
    if (has_norm == 1u) {
        head.norm = bitcast<f32>(runs[firsts_at + n_places + ix]);
    }
    let pair = runs[firsts_at + (1u + has_norm) * n_places + ix / 2u];
    head.scale = bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, (ix & 1u) == 1u));
    return head;
}

// norm + factor · product (`BlockQuery::score_reference`).
fn block_score(head: VectorHead, query: Head, product: i32, factor: f32) -> f32 {
    let exact = product - CODE_OFFSET * query.sum;
    let part = fma(head.first, factor * query.first, head.norm);
    return fma(head.scale * (factor * query.scale), f32(exact), part);
}
