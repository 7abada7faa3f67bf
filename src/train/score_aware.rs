//! The score-aware loss: what a rounding error costs those queries that a point matters to (ScaNN).
//!
//! A query of high product with x points towards x, so an error along x changes its score more than one across it.
//! Weighting the squared error of ⟨q, x⟩ by `I(⟨q, x⟩ ≥ T)` over queries uniform on the unit sphere of d dimensions
//! gives, for the residual r = x − x̃ split along and across **x** (Theorem 3.2):
//!
//! ```text
//! ℓ(x, x̃) = h∥·‖r∥‖² + h⊥·‖r⊥‖²
//! h∥ = (d − 1)·(I_{d−2} − I_d)    h⊥ = I_d    I_d = ∫₀^α sin^d θ dθ    α = arccos(T / ‖x‖)
//! ```
//!
//! Only their ratio η = h∥/h⊥ decides which x̃ is best for x. Points weigh alike here (h⊥ = 1, h∥ = η):
//! the absolute h⊥ falls as `sin^d α`, so a few percent of length would decide which points count at all. Lengths are
//! measured in the root mean square of all points' lengths, so that T means the same at any scale of the data.
//!
//! Source: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020,
//! sections 3 and 4.2.

/// Largest T/‖x‖ taken for short points, whose products never reach T: beyond it the ratio runs off to infinity.
const RATIO_MAX: f64 = 0.95;

/// η = h∥/h⊥ in `d` dimensions for threshold `t` = T/‖x‖, by the recursion
/// `I_d = −cos α·sin^{d−1} α / d + (d − 1)/d · I_{d−2}` (section 3).
///
/// Upwards from I₀ or I₁ the recursion subtracts nearly equal numbers once `sin² α` has been lost a few times. Then it
/// is run downwards, where all terms are positive: in `F_d = I_d / sin^{d+1} α` it reads
/// `F_{d−2} = (d·sin² α·F_d + cos α)/(d − 1)`, and whatever it starts from is forgotten by `sin² α` a step.
///
/// For `d` below 2 there is nothing across x: η is 1. Beyond 2²⁴ dimensions η is [`eta_limit`].
///
/// # Panics
/// Unless `0 ≤ t < 1`.
///
/// ```
/// assert!((nearfield::eta(0.0, 100) - 1.0).abs() < 1e-12);
/// assert!((nearfield::eta(0.2, 100) - 5.953).abs() < 1e-3);
/// ```
#[must_use]
pub fn eta(t: f64, d: usize) -> f64 {
    assert!((0.0..1.0).contains(&t), "t: expected 0 ≤ t < 1, got {t}");
    if d < 2 {
        return 1.0;
    }
    if d > 1 << 24 {
        return eta_limit(t, d);
    }
    let (cos, sin2) = (t, 1.0 - t * t);
    let dims = d as f64;
    // Digits lost upwards: a factor of 1/sin² a step.
    let lost = -0.5 * dims * sin2.log10();
    let ratio = if lost < 4.0 {
        let sin = sin2.sqrt();
        // I₀ or I₁, and the power of the sine that the next step takes.
        let (mut i, mut power, mut n) =
            if d.is_multiple_of(2) { (cos.acos(), sin, 2.0) } else { (1.0 - cos, sin2, 3.0) };
        let mut before = i;
        while n <= dims {
            before = i;
            i = (n - 1.0) / n * i - cos * power / n;
            power *= sin2;
            n += 2.0;
        }
        before / i
    } else {
        // 40 natural digits of forgetting.
        let steps = (-40.0 / sin2.ln()).ceil();
        let mut n = dims + 2.0 * steps;
        let mut f = 1.0 / (n * cos);
        while n > dims {
            f = (n * sin2 * f + cos) / (n - 1.0);
            n -= 2.0;
        }
        let before = (dims * sin2 * f + cos) / (dims - 1.0);
        before / (f * sin2)
    };
    (dims - 1.0) * (ratio - 1.0)
}

/// What [`eta`] tends to in many dimensions, relative to `d`: `(d − 1)·t²/(1 − t²)` (Theorem 3.4).
#[must_use]
pub fn eta_limit(t: f64, d: usize) -> f64 {
    (d as f64 - 1.0) * t * t / (1.0 - t * t)
}

/// η for points of any length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoreAware {
    t: f64,
    d: usize,
    /// Root mean square of the points' lengths.
    rms: f64,
    /// η at that length.
    at_rms: f32,
}

impl ScoreAware {
    /// The loss of threshold `t` for `points`, `[n, d]` row-major.
    pub fn new(t: f32, points: &[f32], d: usize) -> Self {
        let sum: f64 = points.iter().map(|&v| f64::from(v).powi(2)).sum();
        let rms = (sum / (points.len() / d).max(1) as f64).sqrt();
        let t = f64::from(t);
        Self { t, d, rms, at_rms: ratio(t, d) }
    }

    /// η − 1 for a point of this length: what the loss adds for errors along it.
    pub fn excess(&self, norm: f32) -> f32 {
        let length = f64::from(norm) / self.rms;
        if (length - 1.0).abs() < 1e-4 || length.is_nan() {
            return self.at_rms - 1.0;
        }
        ratio((self.t / length).min(RATIO_MAX.max(self.t)), self.d) - 1.0
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
fn ratio(t: f64, d: usize) -> f32 {
    eta(t, d) as f32
}

/// Lowers `½·xᵀAx − bᵀx` by conjugate gradients from the `x` given, `A` symmetric and positive definite: every step lowers
/// it, so stopping early is safe. `apply` writes `A·v`.
pub(crate) fn conjugate_gradient(
    apply: impl Fn(&[f32], &mut [f32]),
    b: &[f32],
    x: &mut [f32],
    steps: usize,
    tolerance: f64,
) {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let mut product = vec![0.0; x.len()];
    apply(x, &mut product);
    let mut residual: Vec<f32> = b.iter().zip(&product).map(|(b, p)| b - p).collect();
    let mut direction = residual.clone();
    let mut rest = dot(&residual, &residual);
    let enough = tolerance * tolerance * dot(b, b);
    for _ in 0..steps {
        if rest <= enough {
            break;
        }
        apply(&direction, &mut product);
        let curvature = dot(&direction, &product);
        if curvature <= 0.0 {
            break;
        }
        #[allow(clippy::cast_possible_truncation, reason = "step lengths in f32")]
        let step = (rest / curvature) as f32;
        for ((x, residual), (d, p)) in x.iter_mut().zip(&mut residual).zip(direction.iter().zip(&product)) {
            *x += step * d;
            *residual -= step * p;
        }
        let next = dot(&residual, &residual);
        #[allow(clippy::cast_possible_truncation, reason = "step lengths in f32")]
        let turn = (next / rest) as f32;
        for (d, r) in direction.iter_mut().zip(&residual) {
            *d = r + turn * *d;
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// h∥/h⊥ by Simpson's rule on the integrals of Theorem 3.2.
    fn integrated(t: f64, d: usize) -> f64 {
        const STEPS: u32 = 200_000;
        let alpha = t.acos();
        let at = |i: u32| alpha * f64::from(i) / f64::from(STEPS);
        // Relative to the largest power, so that nothing underflows.
        let top = alpha.sin();
        let exponent = i32::try_from(d).unwrap() - 2;
        let (mut parallel, mut across) = (0.0, 0.0);
        for i in 0..=STEPS {
            let weight = if i == 0 || i == STEPS { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
            let common = weight * (at(i).sin() / top).powi(exponent);
            parallel += common * at(i).cos().powi(2);
            across += common * at(i).sin().powi(2);
        }
        (d as f64 - 1.0) * parallel / across
    }

    #[test]
    fn recursion_matches_integration() {
        for d in [2, 3, 4, 7, 10, 50, 100, 101, 384, 1000] {
            for t in [0.0, 0.01, 0.1, 0.2, 0.35, 0.5, 0.8] {
                let (got, want) = (eta(t, d), integrated(t, d));
                assert!((got / want - 1.0).abs() < 1e-6, "t {t}, d {d}: {got} instead of {want}");
            }
        }
    }

    #[test]
    fn both_directions_of_the_recursion_agree() {
        // Around four lost digits either way is exact enough to be compared.
        for (t, d) in [(0.2, 448), (0.2, 452), (0.2, 456), (0.5, 62), (0.5, 66), (0.9, 10), (0.9, 12)] {
            let (before, after) = (eta(t, d), eta(t, d + 2));
            let growth = after / before;
            assert!(growth > 1.0 && growth < 1.0 + 4.0 / d as f64, "t {t}, d {d}: {before}, {after}");
            assert!((before / integrated(t, d) - 1.0).abs() < 1e-6, "t {t}, d {d}");
        }
    }

    #[test]
    fn the_limit_is_approached() {
        for t in [0.1, 0.2, 0.5] {
            let mut last = f64::INFINITY;
            for d in [100, 1000, 10_000, 100_000] {
                let off = (eta(t, d) / eta_limit(t, d) - 1.0).abs();
                assert!(off < last, "t {t}, d {d}: off by {off}, before by {last}");
                last = off;
            }
            assert!(last < 1e-2, "t {t}: {last}");
        }
        assert!((eta_limit(0.2, 100) - 4.125).abs() < 1e-12);
    }

    #[test]
    fn no_threshold_is_the_squared_error() {
        for d in [1, 2, 3, 100, 999] {
            assert!((eta(0.0, d) - 1.0).abs() < 1e-9, "{d}: {}", eta(0.0, d));
        }
    }

    #[test]
    fn gradients_find_the_solution() {
        // A = diagonal 1..8 plus ones everywhere.
        let apply = |v: &[f32], out: &mut [f32]| {
            let sum: f32 = v.iter().sum();
            for (i, (out, v)) in out.iter_mut().zip(v).enumerate() {
                *out = (i + 1) as f32 * v + sum;
            }
        };
        let want: Vec<f32> = (0..8).map(|i| (i as f32 - 3.0) / 2.0).collect();
        let mut b = vec![0.0; 8];
        apply(&want, &mut b);
        let mut x = vec![0.0; 8];
        conjugate_gradient(apply, &b, &mut x, 20, 1e-7);
        assert!(x.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{x:?}");
    }
}
