// A convolutional network's first layer and the pairing of positions: v = max over two positions of relu(x̂ ∗ C + c).
//
// x̂ is the query, and of a list's network its centroid beside it, brought to the network's standard. An invocation makes one channel of
// one pair of positions. Grid: ceil(n_slots · positions · width / 64). Reads 3·channels halves and as many values a position. Sums run
// over the window in order. Twin: `network/conv/cpu.rs`.
@group(0) @binding(0) var<uniform> params: NetworkParams;
@group(0) @binding(1) var<storage, read> queries: array<f32>; // [n_rows, query_stride]
@group(0) @binding(3) var<storage, read> biases: array<f32>; // [n_networks, network_biases]
@group(0) @binding(4) var<storage, read> groups: array<u32>;
@group(0) @binding(5) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>; // [n_slots, positions, width]

fn standard(value: f32, inverse: f32) -> f32 {
    return clamp(value * inverse, -params.most, params.most);
}

@compute @workgroup_size(64)
fn network_first(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local_ix: u32) {
    let at = (workgroup.y * params.grid_width + workgroup.x) * 64u + local_ix;
    let width = params.width;
    let slot = at / (params.positions * width);
    if (slot >= params.n_slots) {
        return;
    }
    let list = list_of(slot);
    if (list < params.list_from || list >= params.list_to) {
        return;
    }
    if (biases[list * params.network_biases + params.scales_at] == 0.0) {
        return; // The network is nothing.
    }
    let position = at / width % params.positions;
    let column = at % width;
    let weights_at = (list - params.list_from) * params.network_weights + params.weights_at + column;
    let own = list * params.network_biases;
    let inverse = biases[own + params.scales_at + 1u];
    let query_at = row_of(slot) * params.query_stride;
    var best = 0.0;
    for (var place = position * 2u; place < min(position * 2u + 2u, params.s); place++) {
        var sum = 0.0;
        for (var tap = 0u; tap < 3u; tap++) {
            let i = place + tap;
            if (i == 0u || i > params.s) {
                continue;
            }
            let w_at = weights_at + tap * params.channels * width;
            sum = fma(standard(queries[query_at + i - 1u], inverse), weight(w_at), sum);
            if (params.channels > 1u) {
                let centre = biases[own + params.centre_at + i - 1u];
                sum = fma(standard(centre, inverse), weight(w_at + width), sum);
            }
        }
        best = max(best, sum + biases[own + params.biases_at + column]);
    }
    y[at] = best;
}
