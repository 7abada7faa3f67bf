// Codes of 4 bits, stored as code + 8: taken as they are, 8 times the query's sum is taken off in the end.
const CODE_OFFSET = 8;

// 16 components of one vector. `at`: its first word in the block, `words` of them 16 apart.
fn code_quad(at: u32, words: u32, step: u32) -> vec4<u32> {
    let first = at + step * 32u;
    var pair = vec2<u32>(runs[first], 0u);
    if (words - step * 2u > 1u) {
        pair.y = runs[first + 16u];
    }
    let low = pair & vec2<u32>(0x0f0f0f0fu);
    let high = (pair >> vec2<u32>(4u)) & vec2<u32>(0x0f0f0f0fu);
    return vec4<u32>(low.x, high.x, low.y, high.y);
}
