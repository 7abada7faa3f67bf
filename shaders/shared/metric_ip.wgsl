// Internal score of inner products: their negative.
fn quad_term(query: vec4<f32>, value: vec4<f32>) -> f32 {
    return dot(query, value);
}

fn score_of(sum: f32) -> f32 {
    return -sum;
}
