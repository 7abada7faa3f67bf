// Codes of 8 bits, stored as code + 128: flipping the top bits makes them signed bytes.
const CODE_OFFSET = 0;

// 16 components of one vector. `at`: its first word in the block, `words` of them 16 apart.
fn code_quad(at: u32, words: u32, step: u32) -> vec4<u32> {
    let first = at + step * 64u;
    let left = words - step * 4u;
    var quad = vec4<u32>(runs[first], 0u, 0u, 0u);
    if (left >= 4u) {
        quad = vec4<u32>(quad.x, runs[first + 16u], runs[first + 32u], runs[first + 48u]);
    } else {
        if (left > 1u) {
            quad.y = runs[first + 16u];
        }
        if (left > 2u) {
            quad.z = runs[first + 32u];
        }
    }
    return quad ^ vec4<u32>(0x80808080u);
}
