//! Seeded random rotations.
//!
//! Vectors whose energy sits in a few coordinates waste most of an int8 scale. A random rotation spreads
//! the energy evenly; applied to both sides of a product it changes nothing else.

use faer::Mat;
use rand_chacha::ChaCha8Rng;

use super::normal;

/// A random orthogonal `n × n` matrix: the Q of a Gaussian matrix's QR decomposition.
pub(crate) fn random(n: usize, rng: &mut ChaCha8Rng) -> Mat<f32> {
    let gaussian = Mat::from_fn(n, n, |_, _| normal(rng));
    gaussian.qr().compute_Q()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_are_orthogonal() {
        let q = random(33, &mut crate::train::generator(1, "test"));
        let gram = q.transpose() * &q;
        for i in 0..33 {
            for j in 0..33 {
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((gram[(i, j)] - want).abs() < 1e-5);
            }
        }
    }
}
