// Stored values of bytes, scale·(min + step·code).
@group(0) @binding(1) var<storage, read> rows: array<u32>;

fn value_at(ix: u32, column: u32) -> f32 {
    let code = f32((rows[ix / 4u] >> (8u * (ix & 3u))) & 255u);
    let range = column / 4u * 2u;
    let value = fma(code, ranges[range + 1u][column % 4u], ranges[range][column % 4u]);
    if (params.scales_at == 0u) {
        return value;
    }
    let position = params.page_from + ix / params.dim;
    return ranges[params.scales_at + position / 4u][position % 4u] * value;
}
