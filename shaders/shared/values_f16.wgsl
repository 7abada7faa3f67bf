// Stored values of f16.
@group(0) @binding(1) var<storage, read> rows: array<f16>;

fn value_at(ix: u32, column: u32) -> f32 {
    return f32(rows[ix]);
}
