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
//! Codes stand in blocks of 32 points, one row of 32 bytes a subspace (8 bits) or two (4 bits):
//!
//! ```text
//! codes  [n_blocks][rows][32] u8   x4: subspace 2·row in the low nibble, 2·row + 1 in the high one; x8: subspace row
//! norm   [n_blocks][32] f32        l2
//! α      f32                       ip, cosine
//! ```
//!
//! so that one 256-bit shuffle looks up 32 points, and a GPU invocation reads the codes of four points as a word. A
//! list's run is padded to a cache line. Bytes read per query: `n_probe·m·(M/2)` of 4-bit codes.
//!
//! Sources: Jégou et al., "Product Quantization for Nearest Neighbor Search", 2011; Guo et al., "Accelerating
//! Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020; André et al., "Cache locality is not enough",
//! VLDB 2015 (tables in registers).

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
pub(crate) mod train;

use std::{ops::Range, sync::Arc};

use crate::{
    format::{ALIGN, Image, OpenError, TensorDecl, View},
    lists::Lists,
    metric::Metric,
    spec::Bits,
};

const CODEBOOKS: &str = "pq.codebooks";
pub(crate) const CODES: &str = "pq.codes";

/// Points in a block: bytes of a 256-bit register.
pub(crate) const BLOCK: usize = 32;

/// Tables whose sum of bytes fits 16 bits: 256·255 = 65 280 < 2¹⁶.
pub(crate) const TABLES_U16: usize = 256;

/// Sizes that follow from the specification.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PqShape {
    /// Scored dimensions.
    pub s: usize,
    /// Subspaces.
    pub m: usize,
    /// Bits of a code.
    pub bits: Bits,
    /// Whether points have norms (l2).
    pub has_norm: bool,
}

impl PqShape {
    /// The sizes for `s` dimensions.
    pub fn new(s: usize, m: usize, bits: Bits, metric: Metric) -> Self {
        Self { s, m, bits, has_norm: metric.is_l2() }
    }

    /// Codewords a subspace.
    pub fn n_words(self) -> usize {
        1 << self.bits.count()
    }

    /// Dimensions of a subspace, padding included.
    pub fn width(self) -> usize {
        self.s.div_ceil(self.m)
    }

    /// The dimensions of subspace `m`.
    pub fn dims(self, m: usize) -> Range<usize> {
        m * self.s / self.m..(m + 1) * self.s / self.m
    }

    /// Rows of 32 bytes in a block.
    pub fn rows(self) -> usize {
        match self.bits {
            Bits::B4 => self.m.div_ceil(2),
            Bits::B8 => self.m,
        }
    }

    /// Tables a query has; with an odd number of 4-bit subspaces the last one is all zeros.
    pub fn n_tables(self) -> usize {
        match self.bits {
            Bits::B4 => 2 * self.rows(),
            Bits::B8 => self.m,
        }
    }

    /// Bytes of one block's codes.
    pub fn block_bytes(self) -> usize {
        self.rows() * BLOCK
    }

    /// Bytes of the run of a list of `m` points.
    pub fn run_bytes(self, m: usize) -> usize {
        let n_blocks = m.div_ceil(BLOCK);
        let terms = if self.has_norm { n_blocks * BLOCK } else { 1 };
        (n_blocks * self.block_bytes() + terms * 4).next_multiple_of(ALIGN)
    }

    /// Values of all codebooks.
    pub fn codebook_len(self) -> usize {
        self.m * self.width() * self.n_words()
    }

    /// The tensors for lists of these sizes.
    pub fn declare(self, list_sizes: impl Iterator<Item = usize>) -> Vec<TensorDecl> {
        let bytes = list_sizes.map(|m| self.run_bytes(m)).sum();
        vec![
            TensorDecl::new::<f32>(CODEBOOKS, &[self.m, self.width(), self.n_words()]),
            TensorDecl::new::<u8>(CODES, &[bytes]),
        ]
    }

    /// The code of point `i` in subspace `m` of a run.
    pub fn code(self, run: &[u8], i: usize, m: usize) -> usize {
        let block = &run[i / BLOCK * self.block_bytes()..];
        match self.bits {
            Bits::B8 => usize::from(block[m * BLOCK + i % BLOCK]),
            Bits::B4 => {
                let byte = block[m / 2 * BLOCK + i % BLOCK];
                usize::from(if m.is_multiple_of(2) { byte & 15 } else { byte >> 4 })
            }
        }
    }

    /// The norm of point `i` in the run of a list of `n` points.
    pub fn norm(self, run: &[u8], n: usize, i: usize) -> f32 {
        if self.has_norm { self.term(run, n, i) } else { 0.0 }
    }

    /// α of the list of `n` points of this run: what the router's score of the list is multiplied by.
    pub fn alpha(self, run: &[u8], n: usize) -> f32 {
        if self.has_norm { 1.0 } else { self.term(run, n, 0) }
    }

    /// Where the norms, or α, begin in the run of a list of `n` points.
    pub fn terms_at(self, n: usize) -> usize {
        n.div_ceil(BLOCK) * self.block_bytes()
    }

    fn term(self, run: &[u8], n: usize, i: usize) -> f32 {
        let at = self.terms_at(n) + i * 4;
        f32::from_le_bytes([run[at], run[at + 1], run[at + 2], run[at + 3]])
    }
}

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
