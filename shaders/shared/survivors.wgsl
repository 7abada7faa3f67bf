// Candidates that reach their row's floor, appended: counted in workgroup memory first, so that a workgroup asks for
// room once a query and not once a candidate.
// Needs: `candidates`, and `states: array<atomic<u32>>`, [n_rows][count, floor].
var<workgroup> sh_rows: array<u32, QUERIES>;
var<workgroup> sh_floors: array<u32, QUERIES>;
var<workgroup> sh_counts: array<atomic<u32>, QUERIES>;
var<workgroup> sh_starts: array<u32, QUERIES>;

// Called by all invocations together, once before the first `append`.
fn open_rows(local_ix: u32, work: Work) {
    if (local_ix < QUERIES) {
        atomicStore(&sh_counts[local_ix], 0u);
        // A floor above every complement keeps out the queries that are not there.
        sh_floors[local_ix] = 0xffffffffu;
        if (local_ix < work.n_slots) {
            let row = row_of(work.slot + local_ix);
            sh_rows[local_ix] = row;
            sh_floors[local_ix] = atomicLoad(&states[row * 2u + 1u]);
        }
    }
    workgroupBarrier();
}

// Keys of eight queries at one position, NO_KEY where there is none. Queries are written out, here and below: compilers
// that do not unroll a loop over them would put their values into memory.
struct Keys {
    low: vec4<u32>, // queries 0 to 3
    high: vec4<u32>, // queries 4 to 7
}

const NO_PLACE = 0xffffffffu;

// A place among the workgroup's survivors of a query.
fn reserve(query: u32, key: u32) -> u32 {
    if (key == NO_KEY || ~key < sh_floors[query]) {
        return NO_PLACE;
    }
    return atomicAdd(&sh_counts[query], 1u);
}

fn keep(query: u32, key: u32, place: u32, position: u32) {
    if (place != NO_PLACE) {
        let at = sh_starts[query] + place;
        if (at < params.stride) {
            candidates[sh_rows[query] * params.stride + at] = vec2<u32>(key, position);
        }
    }
}

// Called by all invocations together.
fn append(local_ix: u32, position: u32, keys: Keys) {
    let low = vec4<u32>(
        reserve(0u, keys.low.x),
        reserve(1u, keys.low.y),
        reserve(2u, keys.low.z),
        reserve(3u, keys.low.w),
    );
    let high = vec4<u32>(
        reserve(4u, keys.high.x),
        reserve(5u, keys.high.y),
        reserve(6u, keys.high.z),
        reserve(7u, keys.high.w),
    );
    workgroupBarrier();
    if (local_ix < QUERIES) {
        let found = atomicExchange(&sh_counts[local_ix], 0u);
        if (found > 0u) {
            sh_starts[local_ix] = atomicAdd(&states[sh_rows[local_ix] * 2u], found);
        }
    }
    workgroupBarrier();
    keep(0u, keys.low.x, low.x, position);
    keep(1u, keys.low.y, low.y, position);
    keep(2u, keys.low.z, low.z, position);
    keep(3u, keys.low.w, low.w, position);
    keep(4u, keys.high.x, high.x, position);
    keep(5u, keys.high.y, high.y, position);
    keep(6u, keys.high.z, high.z, position);
    keep(7u, keys.high.w, high.w, position);
}
