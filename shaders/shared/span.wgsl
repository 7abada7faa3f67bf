// The positions of a list that a dispatch looks at: those in its page and in its round.
struct Span {
    first: u32, // of the whole list
    from_position: u32,
    to_position: u32,
}

fn span_of(list: u32) -> Span {
    let first = lists[list].x;
    let end = lists[list + 1u].x;
    let from_position = max(first + min(params.round_from, end - first), params.page_from);
    let to_position = min(first + min(params.round_to, end - first), params.page_to);
    return Span(first, from_position, max(from_position, to_position));
}

fn tiles_of(span: Span) -> u32 {
    return (span.to_position - span.from_position + params.tile_points - 1u) / params.tile_points;
}

// What one workgroup does: some positions of a list for some of the queries that probe it.
struct Work {
    list: u32,
    span: Span,
    tile: u32,
    slot: u32, // first (query, list) pair
    n_slots: u32, // at most QUERIES, 0: nothing to do
}
