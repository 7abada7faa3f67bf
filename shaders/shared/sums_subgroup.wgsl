// Inclusive sums over a workgroup of 256: within each subgroup by one instruction, then over the subgroups before.
// Nothing is assumed of how invocations are dealt out to subgroups, nor of their size, nor that they are full.
struct Lane {
    @builtin(subgroup_id) subgroup: u32,
}

// One entry a subgroup; 256 of them if each had one invocation.
var<workgroup> sh_sums: array<u32, 256>;

// The caller's place, 0 to 255, in the order that `inclusive_sum` adds in.
fn place_of(lane: Lane) -> u32 {
    return inclusive_sum(lane, 1u) - 1u;
}

fn inclusive_sum(lane: Lane, value: u32) -> u32 {
    var sum = subgroupInclusiveAdd(value);
    let total = subgroupAdd(value);
    let is_first = subgroupExclusiveAdd(1u) == 0u;
    if (is_first) {
        sh_sums[lane.subgroup] = total;
    }
    workgroupBarrier();
    for (var before = 0u; before < lane.subgroup; before++) {
        sum += sh_sums[before];
    }
    workgroupBarrier();
    return sum;
}
