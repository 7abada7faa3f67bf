// Candidates of one row in workgroup memory, which has ROOM for them.
var<workgroup> sh_sorted: array<vec2<u32>, ROOM>;

fn held(row_at: u32, ix: u32) -> vec2<u32> {
    return sh_sorted[ix];
}

fn hold(row_at: u32, ix: u32, candidate: vec2<u32>) {
    sh_sorted[ix] = candidate;
}

fn settle() {
    workgroupBarrier();
}
