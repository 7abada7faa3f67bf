// Stored values of f16, for devices without the type.
@group(0) @binding(1) var<storage, read> rows: array<u32>;

fn value_at(ix: u32, column: u32) -> f32 {
    let pair = unpack2x16float(rows[ix / 2u]);
    return select(pair.x, pair.y, (ix & 1u) == 1u);
}
