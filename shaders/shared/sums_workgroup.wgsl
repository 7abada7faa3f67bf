// Inclusive sums over a workgroup of 256 in workgroup memory: eight doubling steps.
struct Lane {
    @builtin(local_invocation_index) local_ix: u32,
}

var<workgroup> sh_sums: array<u32, 256>;

// The caller's place, 0 to 255, in the order that `inclusive_sum` adds in.
fn place_of(lane: Lane) -> u32 {
    return lane.local_ix;
}

fn inclusive_sum(lane: Lane, value: u32) -> u32 {
    let place = lane.local_ix;
    var sum = value;
    sh_sums[place] = sum;
    workgroupBarrier();
    for (var distance = 1u; distance < 256u; distance *= 2u) {
        var before = 0u;
        if (place >= distance) {
            before = sh_sums[place - distance];
        }
        workgroupBarrier();
        sum += before;
        sh_sums[place] = sum;
        workgroupBarrier();
    }
    return sum;
}
