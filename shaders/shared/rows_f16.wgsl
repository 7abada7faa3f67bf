// Stored rows of halves, four values a load: the rows' length is a multiple of 4.
@group(0) @binding(1) var<storage, read> rows: array<vec4<f16>>;

// Values 4·quad.. of the page's row `row`.
fn row_quad(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(rows[row * params.row_quads + quad]);
}
