// Query-major: a workgroup takes one (query, list) pair; slots are the pairs in the order of the queries.
// Needs: `slots: array<vec2<u32>>`, the routed (key, list) of each query, [n_rows, n_probe].

fn row_of(slot: u32) -> u32 {
    return slot / params.n_probes;
}

// The routed entry of a pair: the router's key, and the list.
fn routed_of(slot: u32) -> vec2<u32> {
    return slots[row_of(slot) * params.n_probe + params.probe_from + slot % params.n_probes];
}

// The router's key of a pair.
fn base_key_of(slot: u32) -> u32 {
    return routed_of(slot).x;
}

fn find_work(work_ix: u32) -> Work {
    let slot = work_ix / params.max_tiles;
    var work = Work();
    if (slot >= params.n_slots) {
        return work;
    }
    work.list = routed_of(slot).y;
    work.span = span_of(work.list);
    work.tile = work_ix % params.max_tiles;
    work.slot = slot;
    work.n_slots = select(0u, 1u, work.tile < tiles_of(work.span));
    return work;
}
