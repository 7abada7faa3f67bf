// Stored rows of bytes, min + step·code, of any length, one value a load; values beyond the row are zero.
@group(0) @binding(1) var<storage, read> rows: array<u32>;

fn value_at(ix: u32) -> f32 {
    return f32((rows[ix / 4u] >> (8u * (ix & 3u))) & 255u);
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
    return fma(values, ranges[quad * 2u + 1u], ranges[quad * 2u]);
}
