// Eight independent chains of `dot4I8Packed` an invocation: what the device gives in int8. Grid: any.
@group(0) @binding(0) var<uniform> params: SelectParams; // grid_width, and keep as the length of the chains
@group(0) @binding(1) var<storage, read_write> sums: array<i32>;

@compute @workgroup_size(256)
fn probe_dot4(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let ix = (workgroup.y * params.grid_width + workgroup.x) * 256u + local_ix;
    let word = ix * 0x9e3779b9u;
    var low = vec4<i32>(i32(ix));
    var high = vec4<i32>(i32(word));
    for (var i = 0u; i < params.keep; i++) {
        // Each step depends on the last of its chain, so that none can be left out.
        low += vec4<i32>(
            dot4I8Packed(word, u32(low.x)),
            dot4I8Packed(word, u32(low.y)),
            dot4I8Packed(word, u32(low.z)),
            dot4I8Packed(word, u32(low.w)),
        );
        high += vec4<i32>(
            dot4I8Packed(word, u32(high.x)),
            dot4I8Packed(word, u32(high.y)),
            dot4I8Packed(word, u32(high.z)),
            dot4I8Packed(word, u32(high.w)),
        );
    }
    if (ix < arrayLength(&sums)) {
        sums[ix] = low.x + low.y + low.z + low.w + high.x + high.y + high.z + high.w;
    }
}
