// Stored rows of halves, four values a load, for devices without the f16 type: the rows' length is a multiple of 4.
@group(0) @binding(1) var<storage, read> rows: array<vec2<u32>>;

// Values 4·quad.. of the page's row `row`.
fn row_quad(row: u32, quad: u32) -> vec4<f32> {
    let words = rows[row * params.row_quads + quad];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
