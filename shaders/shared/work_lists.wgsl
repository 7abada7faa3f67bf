// Cluster-major: a workgroup takes up to 8 of the pairs that share a list.
// Needs: `groups: array<u32>`: for each list its first slot, then for each list its first workgroup, [2][n_lists + 1].

fn find_work(work_ix: u32) -> Work {
    var work = Work();
    let work_at = params.n_lists + 1u;
    if (work_ix >= groups[work_at + params.n_lists]) {
        return work;
    }
    // The last list whose first workgroup is not beyond this one; lists without work share theirs with the next.
    var low = 0u;
    var high = params.n_lists;
    while (high - low > 1u) {
        let middle = (low + high) / 2u;
        if (groups[work_at + middle] <= work_ix) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let inside = work_ix - groups[work_at + low];
    work.list = low;
    work.span = span_of(low);
    let n_tiles = max(tiles_of(work.span), 1u);
    work.tile = inside % n_tiles;
    work.slot = groups[low] + inside / n_tiles * QUERIES;
    work.n_slots = min(QUERIES, groups[low + 1u] - work.slot);
    return work;
}
