// Stored rows of bytes, scale·(min + step·code), four values a load: the rows' length is a multiple of 4.
@group(0) @binding(1) var<storage, read> rows: array<u32>;

// Values 4·quad.. of the page's row `row`.
fn row_quad(row: u32, quad: u32) -> vec4<f32> {
    let codes = vec4<f32>(unpack4xU8(rows[row * params.row_quads + quad]));
    let values = fma(codes, ranges[quad * 2u + 1u], ranges[quad * 2u]);
    if (params.scales_at == 0u) {
        return values;
    }
    let position = params.page_from + row;
    return ranges[params.scales_at + position / 4u][position % 4u] * values;
}
