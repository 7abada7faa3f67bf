//! What training needs beside the stages: matrix products, k-means, rotations, the score-aware loss,
//! the INRP loss, classes, AdamW.
//!
//! Every random choice comes from one seed, and work is cut into pieces whose size does not depend on the
//! number of threads, so a build gives the same bytes on one thread and on many.

pub(crate) mod adam;
pub(crate) mod classes;
#[cfg(feature = "neural")]
pub(crate) mod conv;
pub(crate) mod grouped;
pub(crate) mod inrp;
pub(crate) mod kmeans;
pub(crate) mod linalg;
pub(crate) mod rotation;
pub(crate) mod score_aware;
#[cfg(feature = "neural")]
pub(crate) mod tensors;

use rand::{RngExt, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

/// Reading rows, whatever the type of the vectors.
pub(crate) trait ReadRows: Sync {
    fn n_rows(&self) -> usize;

    fn dim(&self) -> usize;

    /// These rows as the stages see them.
    fn gather(&self, rows: &[usize]) -> Vec<f32>;
}

/// Values that are trained together.
#[derive(Clone)]
pub(crate) struct Parameter {
    pub values: Vec<f32>,
    /// Of the direct path.
    pub is_direct: bool,
}

/// Something to train step by step.
pub(crate) trait Network {
    /// Its parameters as they start.
    fn parameters(&self) -> Vec<Parameter>;

    /// Gradients by all parameters for a batch `x`, `[m, d]`; `slope` turns its outputs, `[m, s]`, into the gradient by them.
    fn gradients(
        &self,
        values: &[Vec<f32>],
        x: &[f32],
        slope: &mut dyn FnMut(&[f32]) -> Vec<f32>,
    ) -> Vec<Vec<f32>>;

    /// Outputs `[m, s]` as searches will see them.
    fn outputs(&self, values: &[Vec<f32>], x: &[f32]) -> Vec<f32>;
}

/// The generator for one purpose: purposes draw from separate streams of one seed.
pub(crate) fn generator(seed: u64, purpose: &str) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(xxhash_rust::xxh3::xxh3_64(purpose.as_bytes()));
    rng
}

/// `amount` distinct numbers below `n`, ascending; all of them if there are no more.
pub(crate) fn sample(rng: &mut ChaCha8Rng, n: usize, amount: usize) -> Vec<usize> {
    if amount >= n {
        return (0..n).collect();
    }
    let mut rows = index::sample(rng, n, amount).into_vec();
    rows.sort_unstable();
    rows
}

/// Rows of a sample that stands for `n`: all if there are few, else an eighth of them within bounds.
pub(crate) fn sample_size(n: usize) -> usize {
    (n / 8).clamp(16_384, 65_536).min(n)
}

/// A standard normal number.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    rng.sample(rand_distr::StandardNormal)
}
