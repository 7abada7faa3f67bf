// Inclusive sums over a workgroup of 256: within each subgroup by one instruction, then over the subgroups before.
// Places follow the subgroups, so nothing is assumed of how invocations are dealt out to them, nor of their size.
struct Lane {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

// One entry a subgroup; 256 of them if each had one invocation.
var<workgroup> sh_sums: array<u32, 256>;

// The caller's place, 0 to 255, in the order that `inclusive_sum` adds in.
fn place_of(lane: Lane) -> u32 {
    return lane.subgroup * lane.size + lane.lane;
}

fn inclusive_sum(lane: Lane, value: u32) -> u32 {
    var sum = subgroupInclusiveAdd(value);
    if (lane.lane + 1u == lane.size) {
        sh_sums[lane.subgroup] = sum;
    }
    workgroupBarrier();
    for (var before = 0u; before < lane.subgroup; before++) {
        sum += sh_sums[before];
    }
    workgroupBarrier();
    return sum;
}
