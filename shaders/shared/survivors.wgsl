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

// Called by all invocations together with the keys of eight queries at one position, NO_KEY where there is none.
fn append(local_ix: u32, position: u32, keys: array<u32, QUERIES>) {
    var places: array<u32, QUERIES>;
    for (var query = 0u; query < QUERIES; query++) {
        places[query] = 0xffffffffu;
        if (keys[query] != NO_KEY && ~keys[query] >= sh_floors[query]) {
            places[query] = atomicAdd(&sh_counts[query], 1u);
        }
    }
    workgroupBarrier();
    if (local_ix < QUERIES) {
        let found = atomicExchange(&sh_counts[local_ix], 0u);
        if (found > 0u) {
            sh_starts[local_ix] = atomicAdd(&states[sh_rows[local_ix] * 2u], found);
        }
    }
    workgroupBarrier();
    for (var query = 0u; query < QUERIES; query++) {
        if (places[query] != 0xffffffffu) {
            let place = sh_starts[query] + places[query];
            if (place < params.stride) {
                candidates[sh_rows[query] * params.stride + place] = vec2<u32>(keys[query], position);
            }
        }
    }
}
