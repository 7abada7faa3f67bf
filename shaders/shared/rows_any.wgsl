// Stored rows of any length, one value a load; values beyond the row are zero.
// Needs: `value_at(ix, column)`, the page's value `ix`, which stands in column `column` of its row.

// Values 4·quad.. of the page's row `row`.
fn row_quad(row: u32, quad: u32) -> vec4<f32> {
    let column = quad * 4u;
    let at = row * params.dim + column;
    let left = params.dim - column;
    var values = vec4<f32>(value_at(at, column), 0.0, 0.0, 0.0);
    if (left > 1u) {
        values.y = value_at(at + 1u, column + 1u);
    }
    if (left > 2u) {
        values.z = value_at(at + 2u, column + 2u);
    }
    if (left > 3u) {
        values.w = value_at(at + 3u, column + 3u);
    }
    return values;
}
