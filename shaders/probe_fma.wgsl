// Eight independent chains of multiply-add an invocation: what the device gives in f32. Grid: any.
@group(0) @binding(0) var<uniform> params: SelectParams; // grid_width, and keep as the length of the chains
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(256)
fn probe_fma(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let ix = (workgroup.y * params.grid_width + workgroup.x) * 256u + local_ix;
    let factor = vec4<f32>(0.5 + f32(ix % 7u) * 0.01);
    var low = vec4<f32>(f32(ix));
    var high = vec4<f32>(f32(ix) + 1.0);
    for (var i = 0u; i < params.keep; i++) {
        low = fma(low, factor, factor);
        high = fma(high, factor, factor);
    }
    if (ix < arrayLength(&sums)) {
        let sum = low + high;
        sums[ix] = sum.x + sum.y + sum.z + sum.w;
    }
}
