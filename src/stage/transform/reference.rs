//! The transform's meaning.

use super::{Kind, Transform, cnt, linear};

/// Reduced query, `[s]`.
#[allow(clippy::cast_possible_truncation, reason = "lengths are rounded once, to f32")]
pub(crate) fn project(transform: &Transform, q: &[f32]) -> Vec<f32> {
    let mut y = match &transform.kind {
        Kind::Linear(linear) => linear::reference::project(linear, q),
        Kind::Cnt(cnt) => cnt::reference::project(cnt, q),
    };
    if transform.keeps_length {
        let length = |v: &[f32]| v.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        let (given, found) = (length(q), length(&y));
        let factor = if found > 0.0 { (given / found) as f32 } else { 1.0 };
        y.iter_mut().for_each(|v| *v *= factor);
    }
    y
}
