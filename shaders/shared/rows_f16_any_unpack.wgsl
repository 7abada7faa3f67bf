// Stored rows of halves of any length, one value a load, for devices without the f16 type; values beyond the row are zero.
@group(0) @binding(1) var<storage, read> rows: array<u32>;

fn value_at(ix: u32) -> f32 {
    let pair = unpack2x16float(rows[ix / 2u]);
    return select(pair.x, pair.y, (ix & 1u) == 1u);
}

// Values 4·quad.. of the page's row `row`.
fn row_quad(row: u32, quad: u32) -> vec4<f32> {
    let at = row * params.dim + quad * 4u;
    let left = params.dim - quad * 4u;
    var values = vec4<f32>(value_at(at), 0.0, 0.0, 0.0);
    if (left > 1u) {
        values.y = value_at(at + 1u);
    }
    if (left > 2u) {
        values.z = value_at(at + 2u);
    }
    if (left > 3u) {
        values.w = value_at(at + 3u);
    }
    return values;
}
