// Equal keys stand by id: the item is a position, `ties` holds its id's rank.
fn tie_of(item: u32) -> u32 {
    return ties[item];
}
