// A convolutional network's last layer: t = q + deviation·(vP + p). With a deviation of 0 the network is nothing, and t = q.
//
// A workgroup makes 16 outputs of one slot, 16 invocations an output. Grid: n_slots · ceil(s / 16). Reads 2·depth·s bytes of P and
// 4·depth bytes a slot and 16 outputs. Sums in 16 parts, so the error is depth/32 + 16 roundings at most. Twin: `network/conv/cpu.rs`.
@group(0) @binding(0) var<uniform> params: NetworkParams;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [n_slots, depth]
@group(0) @binding(3) var<storage, read> biases: array<f32>; // [n_networks, network_biases]
@group(0) @binding(4) var<storage, read> groups: array<u32>;
@group(0) @binding(5) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> queries: array<f32>; // [n_rows, query_stride]
@group(0) @binding(7) var<storage, read_write> y: array<f32>; // [n_slots, s]

var<workgroup> sh_parts: array<f32, 256>; // [16 parts][16 outputs]

@compute @workgroup_size(256)
fn network_dense(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let tile_ix = workgroup.y * params.grid_width + workgroup.x;
    let slot = tile_ix / params.column_tiles;
    if (slot >= params.n_slots) {
        return;
    }
    let list = list_of(slot);
    if (list < params.list_from || list >= params.list_to) {
        return;
    }
    let column = tile_ix % params.column_tiles * 16u + local_ix % 16u;
    let weights_at = (list - params.list_from) * params.network_weights + params.weights_at;
    let own = list * params.network_biases;
    let deviation = biases[own + params.scales_at];
    var part = 0.0;
    if (column < params.s && deviation != 0.0) {
        for (var i = local_ix / 16u; i < params.depth; i += 16u) {
            part = fma(x[slot * params.depth + i], weight(weights_at + i * params.s + column), part);
        }
    }
    sh_parts[local_ix] = part;
    workgroupBarrier();
    if (local_ix < 16u && column < params.s) {
        var sum = 0.0;
        for (var i = 0u; i < 16u; i++) {
            sum += sh_parts[i * 16u + local_ix];
        }
        let moved = deviation * (sum + biases[own + params.biases_at + column]);
        y[slot * params.s + column] = queries[row_of(slot) * params.query_stride + column] + moved;
    }
}
