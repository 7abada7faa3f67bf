fn hswish(v: f32) -> f32 {
    return v * clamp(v + 3.0, 0.0, 6.0) * (1.0 / 6.0);
}
