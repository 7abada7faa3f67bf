// Copies 16 bytes an invocation: what the device's memory gives. Grid: bytes / 4 096.
@group(0) @binding(0) var<uniform> params: SelectParams; // grid_width, and n_rows as the number of quads
@group(0) @binding(1) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> target_words: array<vec4<u32>>;

@compute @workgroup_size(256)
fn probe_copy(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let ix = (workgroup.y * params.grid_width + workgroup.x) * 256u + local_ix;
    if (ix < params.n_rows) {
        target_words[ix] = source[ix];
    }
}
