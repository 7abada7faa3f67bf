//! PQ: scores by lookup tables over product-quantised residuals (ScaNN's scorer).
//!
//! The s scored dimensions are cut into M subspaces of s/M dimensions, rounded down or up, so that M need not divide s; all are
//! padded with zeros to `⌈s/M⌉`. A point's residual to its list's centre is replaced by one codeword a subspace, of 16
//! or 256: `x̃ = α·ĉ + Σ codeword_m`, with ĉ the centroid as the router stores it. So a query's product with every
//! codeword, worked out once, scores each point of each list by M lookups:
//!
//! ```text
//! ip, cosine   −α·⟨q, ĉ⟩ − Σ ⟨q_m, codeword_m⟩
//! l2           (‖ĉ‖² − 2⟨q, ĉ⟩) + norm − 2·Σ ⟨q_m, codeword_m⟩        norm = ‖x̃‖² − ‖ĉ‖²
//! ```
//!
//! The first term is α times the router's score of the list. Centroids of products have unit length, which finds the
//! right lists best, but the points' mean is shorter: α is the list's mean ⟨x, ĉ⟩/‖ĉ‖², and 1 for l2. With it the residuals
//! are as short as multiples of ĉ make them. An l2 score is `‖q − x̃‖²`, larger than
//! `‖q − x‖²` by `‖x − x̃‖²` on average for queries near x. Taking that off point by point would be unbiased and finds
//! less, since queries are not that near: recall@10 fell from 0.73 to 0.59 (`IVF256,PQ196x4`) and from 0.62 to 0.24
//! (`IVF256,PQ98x4`) on 60 000 images of 784 pixels, all lists, no reranking.
//!
//! Tables are bytes: entry j of table m is `round((t_m[j] − low_m)/step)`, with `low_m` the table's least entry and
//! one `step` = (widest range)/255 for all tables, so a score is `part + step·Σ bytes` and off by `step·√M/√12`
//! (root mean square). 257 tables of 255 fit 16 bits: sums are 16 bits wide for 256 tables at a time.
//!
//! Codes stand in blocks of 32 points (`codes.rs`). Bytes read per query: `n_probe·m·(M/2)` of 4-bit codes.
//!
//! Sources: Jégou et al., "Product Quantization for Nearest Neighbor Search", 2011; Guo et al., "Accelerating
//! Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020; André et al., "Cache locality is not enough",
//! VLDB 2015 (tables in registers).

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
pub(crate) mod train;

use std::sync::Arc;

use crate::{
    codes::PqShape,
    format::{Image, OpenError, TensorDecl, View},
    lists::Lists,
    metric::Metric,
    profile::Cost,
};

const CODEBOOKS: &str = "pq.codebooks";
pub(crate) const CODES: &str = "pq.codes";

/// The codebooks and codes of an index file.
pub(crate) struct Pq {
    shape: PqShape,
    metric: Metric,
    /// `[m][width][n_words]`.
    codebooks: View<f32>,
    codes: View<u8>,
    /// Where each list's run begins in `codes`, and where the last one ends.
    starts: Vec<usize>,
}

impl Pq {
    /// The tensors for lists of these sizes.
    pub fn declare(shape: PqShape, list_sizes: impl Iterator<Item = usize>) -> Vec<TensorDecl> {
        let bytes = list_sizes.map(|m| shape.run_bytes(m)).sum();
        vec![
            TensorDecl::new::<f32>(CODEBOOKS, &[shape.m, shape.width(), shape.n_words()]),
            TensorDecl::new::<u8>(CODES, &[bytes]),
        ]
    }

    /// Reads the tensors.
    pub fn open(
        image: &Arc<Image>,
        shape: PqShape,
        metric: Metric,
        lists: &Lists,
    ) -> Result<Self, OpenError> {
        let codebooks: View<f32> = image.view(CODEBOOKS, &[shape.m, shape.width(), shape.n_words()])?;
        if codebooks.iter().any(|v| !v.is_finite()) {
            let reason = "expected finite values".to_owned();
            return Err(OpenError::Value { name: CODEBOOKS.to_owned(), reason });
        }
        let mut starts = vec![0];
        let mut end = 0_usize;
        for list in 0..lists.len() {
            // At most 2³² points of at most 2¹⁶ bytes each: far below 2⁶⁴.
            end += shape.run_bytes(lists.range(list).len());
            starts.push(end);
        }
        let codes = image.view(CODES, &[end])?;
        Ok(Self { shape, metric, codebooks, codes, starts })
    }

    /// Bytes of a query's tables, in bytes and in f32.
    pub fn query_bytes(&self) -> usize {
        self.shape.query_bytes()
    }

    /// Bytes of all lists.
    pub fn n_bytes(&self) -> usize {
        self.codes.len()
    }

    /// Bytes that scoring a list of `n` points reads, and its lookups.
    pub fn cost(&self, list: usize, n: usize) -> Cost {
        Cost::of(self.run(list).len(), self.shape.m * n)
    }

    /// The run of a list.
    fn run(&self, list: usize) -> &[u8] {
        &self.codes[self.starts[list]..self.starts[list + 1]]
    }
}

/// A query's tables.
#[derive(Debug, Default)]
pub(crate) struct PqTables {
    /// `[n_tables][n_words]`.
    pub bytes: Vec<u8>,
    /// Σ of the tables' least entries.
    pub bias: f32,
    /// Value of one step.
    pub step: f32,
    /// The entries before they are rounded, `[m][n_words]`; room for the next query's.
    entries: Vec<f32>,
    /// The least entry of each table; likewise.
    lows: Vec<f32>,
}
