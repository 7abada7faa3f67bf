//! The transform's meaning.

use super::{Kind, NOTHING_LEFT, Transform, cnt, linear};

/// Reduced query, `[s]`.
#[allow(clippy::cast_possible_truncation, reason = "lengths are rounded once, to f32")]
pub(crate) fn project(transform: &Transform, q: &[f32]) -> Vec<f32> {
    let mut y = match &transform.kind {
        Kind::Linear(linear) => linear::reference::project(linear, q),
        Kind::Cnt(cnt) => cnt::reference::project(cnt, q),
    };
    if transform.scales_queries {
        let energy = |v: &[f32]| v.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let (given, found) = (energy(q), energy(&y));
        if found > given * f64::from(NOTHING_LEFT) {
            let factor = (given / found).sqrt() as f32;
            y.iter_mut().for_each(|v| *v *= factor);
        }
    }
    y
}
