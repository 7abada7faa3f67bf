// W as halves.
@group(0) @binding(2) var<storage, read> w: array<f16>; // [d, s]

fn weight(ix: u32) -> f32 {
    return f32(w[ix]);
}
