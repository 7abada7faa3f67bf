// A layer of a network: y = scale·act(x̂W + b), or y += that. A workgroup makes a tile of 64 rows × 64 outputs.
//
// Rows lie in groups: row r is token r % group of query r / group. The first layer brings queries to the network's standard,
// x̂ = (x − centre)·inverse, at most ±most. Grid: ceil(n_rows / 64) · ceil(y_width / 64). Reads 2·depth·width bytes of W a tile of rows and
// 4·depth bytes a row and 64 outputs. Sums run over the depth in order. Twin: `transform/cnt/cpu.rs`.
@group(0) @binding(0) var<uniform> params: LayerParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> biases: array<f32>; // of all layers
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // zero from `width` to `y_width`

fn input_at(row: u32, i: u32) -> f32 {
    if (row >= params.n_rows || i >= params.depth) {
        return 0.0;
    }
    let at = row / params.x_group * params.x_stride + row % params.x_group * params.x_token + params.x_from;
    let value = x[at + i];
    if (params.is_first == 0u) {
        return value;
    }
    return clamp((value - biases[params.centre_at + i]) * params.inverse, -params.most, params.most);
}

fn weight_at(i: u32, column: u32) -> f32 {
    if (i >= params.depth || column >= params.width) {
        return 0.0;
    }
    return weight(params.weights_at + i * params.width + column);
}

fn put(row: u32, column_from: u32, sums: vec4<f32>) {
    if (row >= params.n_rows) {
        return;
    }
    let at = row / params.y_group * params.y_stride + row % params.y_group * params.y_token + params.y_from;
    for (var i = 0u; i < 4u; i++) {
        let column = column_from + i;
        if (column >= params.y_width) {
            return;
        }
        var value = 0.0;
        if (column < params.width) {
            value = sums[i] + biases[params.biases_at + column];
        }
        if (params.is_gated != 0u) {
            value = hswish(value);
        }
        value *= params.scale;
        if (params.adds != 0u) {
            value += y[at + column];
        }
        y[at + column] = value;
    }
}

@compute @workgroup_size(256)
fn transform_layer(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local_ix: u32,
) {
    let tile_ix = workgroup.y * params.grid_width + workgroup.x;
    make_tile(tile_ix, local_ix, params.column_tiles, params.n_rows, params.depth);
}
