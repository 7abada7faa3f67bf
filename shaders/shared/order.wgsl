// Scores as integers of the same order: smaller is better, -0 and +0 alike (`topk::order_key`).

// Greater than every score's key.
const NO_KEY: u32 = 0xffffffffu;

fn order_key(score: f32) -> u32 {
    var bits = bitcast<u32>(score);
    if (bits == 0x80000000u) {
        bits = 0u;
    }
    return select(~bits, bits | 0x80000000u, (bits >> 31u) == 0u);
}

fn key_score(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

// Whether candidate a = (key, tie) stands before b.
fn precedes(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x < b.x || (a.x == b.x && a.y < b.y);
}
