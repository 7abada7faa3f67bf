// W as words of two halves, for devices without the f16 type.
@group(0) @binding(2) var<storage, read> w: array<u32>; // [d, s] halves

fn weight(ix: u32) -> f32 {
    let pair = unpack2x16float(w[ix / 2u]);
    return select(pair.x, pair.y, (ix & 1u) == 1u);
}
