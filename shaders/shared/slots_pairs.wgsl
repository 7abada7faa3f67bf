// Slots are pairs of a query and a list in the order of the queries.
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

fn list_of(slot: u32) -> u32 {
    return routed_of(slot).y;
}
