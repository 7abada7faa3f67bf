// Up to 128 candidates of one row in workgroup memory: one comparison an invocation and step.
const WG_SIZE = 64u;

var<workgroup> sh_sorted: array<vec2<u32>, 128>;

fn held(row_at: u32, ix: u32) -> vec2<u32> {
    return sh_sorted[ix];
}

fn hold(row_at: u32, ix: u32, candidate: vec2<u32>) {
    sh_sorted[ix] = candidate;
}

fn settle() {
    workgroupBarrier();
}
