// Internal score of squared distances.
fn quad_term(query: vec4<f32>, value: vec4<f32>) -> f32 {
    let difference = query - value;
    return dot(difference, difference);
}

fn score_of(sum: f32) -> f32 {
    return sum;
}
