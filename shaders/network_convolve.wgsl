// A convolution of each slot's rows with its network's weights: y = relu(x ∗ C + c), kernel 3.
//
// A product of overlapping windows with C: a workgroup makes a tile of 64 positions of a slot × 64 channels, windows and weights in
// workgroup memory. Grid: n_slots · ceil(positions / 64) · ceil(width / 64). Reads 2·depth·width bytes of C and
// 4·positions·depth/3 bytes a slot and 64 channels. Sums run over the window in order. Twin: `network/conv/cpu.rs`.
@group(0) @binding(0) var<uniform> params: NetworkParams;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [n_slots, positions, depth / 3]
@group(0) @binding(3) var<storage, read> biases: array<f32>; // [n_networks, network_biases]
@group(0) @binding(4) var<storage, read> groups: array<u32>;
@group(0) @binding(5) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>; // [n_slots, positions, width]

// Where the slot's rows, its network's weights and its biases begin.
var<private> slot_ix: u32;
var<private> weights_from: u32;
var<private> biases_from: u32;

fn input_at(position: u32, i: u32) -> f32 {
    // A window begins one position before its own; beyond both ends are zeros.
    let channels = params.depth / 3u;
    let at = position * channels + i;
    let end = params.positions * channels;
    if (position >= params.positions || i >= params.depth || at < channels || at - channels >= end) {
        return 0.0;
    }
    return x[slot_ix * end + at - channels];
}

fn weight_at(i: u32, column: u32) -> f32 {
    if (i >= params.depth || column >= params.width) {
        return 0.0;
    }
    return weight(weights_from + i * params.width + column);
}

fn put(position: u32, column_from: u32, sums: vec4<f32>) {
    if (position >= params.positions) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let column = column_from + i;
        if (column < params.width) {
            let value = max(sums[i] + biases[biases_from + column], 0.0);
            y[(slot_ix * params.positions + position) * params.width + column] = value;
        }
    }
}

@compute @workgroup_size(256)
fn network_convolve(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let tile_ix = workgroup.y * params.grid_width + workgroup.x;
    let slot = tile_ix / params.slot_tiles;
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
    slot_ix = slot;
    weights_from = (list - params.list_from) * params.network_weights + params.weights_at;
    biases_from = list * params.network_biases + params.biases_at;
    make_tile(tile_ix % params.slot_tiles, local_ix, params.column_tiles, params.positions, params.depth);
}
