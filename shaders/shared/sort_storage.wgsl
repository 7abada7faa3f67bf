// Any number of candidates of one row, where they lie.
const WG_SIZE = 256u;

fn held(row_at: u32, ix: u32) -> vec2<u32> {
    return candidates[row_at + ix];
}

fn hold(row_at: u32, ix: u32, candidate: vec2<u32>) {
    candidates[row_at + ix] = candidate;
}

fn settle() {
    storageBarrier();
}
