// Stored values of f32.
@group(0) @binding(1) var<storage, read> rows: array<f32>;

fn value_at(ix: u32, column: u32) -> f32 {
    return rows[ix];
}
