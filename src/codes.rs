//! Blocks of PQ codes: 32 points, one row of 32 bytes a subspace (8 bits) or two (4 bits):
//!
//! ```text
//! codes  [n_blocks][rows][32] u8   x4: subspace 2·row in the low nibble, 2·row + 1 in the high one; x8: subspace row
//! norm   [n_blocks][32] f32        l2: added to a point's score
//! α      f32                       ip, cosine: what the router's score of the list is multiplied by
//! ```
//!
//! so that one 256-bit shuffle looks up 32 points, and a GPU invocation reads the codes of four points as a word. A
//! list's run is padded to a cache line.

use std::ops::Range;

use crate::{
    format::ALIGN,
    metric::Metric,
    spec::{Bits, IndexSpec, ScorerSpec},
};

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

    /// The sizes of a resolved specification for vectors of `d` dimensions, if its scorer looks codes up.
    pub fn of(spec: &IndexSpec, d: usize, metric: Metric) -> Option<Self> {
        match spec.scorer {
            ScorerSpec::Pq { m, bits, .. } => Some(Self::new(spec.scored_dims(d), m, bits, metric)),
            _ => None,
        }
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

    /// Bytes of a query's tables, in bytes and in f32.
    pub fn query_bytes(self) -> usize {
        5 * self.n_tables() * self.n_words()
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
