// Slots are pairs of a query and a list in the order of the lists.
// Needs: `slots: array<vec2<u32>>`, (query, the router's key) by slot; `groups: array<u32>`, whose first n_lists + 1 are the first slot of
// each list.

fn row_of(slot: u32) -> u32 {
    return slots[slot].x;
}

// The router's key of a pair.
fn base_key_of(slot: u32) -> u32 {
    return slots[slot].y;
}

// The last list that begins at or before the slot: lists without slots share their beginning with the next.
fn list_of(slot: u32) -> u32 {
    var low = 0u;
    var high = params.n_lists;
    while (high - low > 1u) {
        let middle = (low + high) / 2u;
        if (groups[middle] <= slot) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}
