// Query-major: a workgroup takes one (query, list) pair.

fn find_work(work_ix: u32) -> Work {
    let slot = work_ix / params.max_tiles;
    var work = Work();
    if (slot >= params.n_slots) {
        return work;
    }
    work.list = list_of(slot);
    work.span = span_of(work.list);
    work.tile = work_ix % params.max_tiles;
    work.slot = slot;
    work.n_slots = select(0u, 1u, work.tile < tiles_of(work.span));
    return work;
}
