//! RRR: scores inside a list by reduced-rank regression (LoRANN).
//!
//! For a list with points C `[m, s]`, the scores `C·q` are a linear map of q. Over the queries that visit the
//! list, the best map of rank r + 1 keeps nearly all of it (`train.rs`), so a list costs
//! `s·(r + 1) + m·(r + 1)` multiplications instead of `m·s`, in int8:
//!
//! ```text
//! t = qA      A: [s, r + 1]      once a list
//! scores = tB B: [r + 1, m]      once a point
//! ```
//!
//! Component 0 of the rank carries most of the score, so its side of the query is never rounded: the column `A[:, 0]`
//! holds bytes but meets the f32 query, and `B[0, :]` is the f32 `first` of each point's block. The other
//! r components, and coordinates 1.. of the query, are int8 (or 4-bit) with a scale per column. For l2 a
//! point's block also holds `‖x‖²`. A list's A is one record:
//!
//! ```text
//! first   f32              A[0, 0], apart from the others since coordinate 0 is the largest
//! scale   f32              value of one code step of A[1.., 0]
//! column  [s − 1] u8       A[1.., 0] as code + 128; zeros up to a multiple of 64 bytes follow
//! run     r vectors        columns 1..=r, as `block.rs` lays them out
//! ```
//!
//! Bytes read per query with n_probe lists of m points, at 8 bits: `n_probe·(s + r·(s + 6))` of A and
//! `n_probe·m·(r + 6)` of B.
//!
//! Source: Jääsaari, Hyvönen, Roos, "LoRANN", NeurIPS 2024, sections 3 and 4.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
pub(crate) mod train;

use std::sync::Arc;

use crate::{
    block::{BLOCK, BlockShape},
    format::{ALIGN, Image, OpenError, TensorDecl, View},
    lists::Lists,
    metric::Metric,
    profile::Cost,
    spec::{Bits, IndexSpec, ScorerSpec},
};

const A: &str = "rrr.a";
pub(crate) const B: &str = "rrr.b";

/// Sizes that follow from the specification.
#[derive(Clone, Copy)]
pub(crate) struct RrrShape {
    /// Scored dimensions.
    pub s: usize,
    /// Components beside the first.
    pub rank: usize,
    /// Blocks of A's columns 1..: quantised query coordinates 1..s.
    pub a: BlockShape,
    /// Blocks of points: quantised components 1..=rank.
    pub b: BlockShape,
}

impl RrrShape {
    /// The sizes for `s` dimensions.
    pub fn new(s: usize, rank: usize, a_bits: Bits, b_bits: Bits, metric: Metric) -> Self {
        Self {
            s,
            rank,
            a: BlockShape::new(s - 1, a_bits, false),
            b: BlockShape::new(rank, b_bits, metric.is_l2()),
        }
    }

    /// The sizes of a resolved specification for vectors of `d` dimensions, if its scorer is a regression.
    pub fn of(spec: &IndexSpec, d: usize, metric: Metric) -> Option<Self> {
        match spec.scorer {
            ScorerSpec::Rrr { rank, a_bits, b_bits } => {
                Some(Self::new(spec.scored_dims(d), rank.unwrap_or_default(), a_bits, b_bits, metric))
            }
            _ => None,
        }
    }

    /// Bytes of column 0 of A with its two floats, padded to a cache line.
    pub fn column_bytes(self) -> usize {
        (8 + self.s - 1).next_multiple_of(ALIGN)
    }

    /// Bytes of one list's A.
    pub fn a_bytes(self) -> usize {
        self.column_bytes() + self.a.run_bytes(self.rank / BLOCK)
    }

    /// Bytes of the B of a list of `m` points.
    pub fn b_bytes(self, m: usize) -> usize {
        self.b.run_bytes(m.div_ceil(BLOCK))
    }

    /// The tensors for lists of these sizes.
    pub fn declare(self, list_sizes: impl Iterator<Item = usize> + Clone) -> Vec<TensorDecl> {
        let n_lists = list_sizes.clone().count();
        let b_bytes = list_sizes.map(|m| self.b_bytes(m)).sum();
        vec![TensorDecl::new::<u8>(A, &[n_lists, self.a_bytes()]), TensorDecl::new::<u8>(B, &[b_bytes])]
    }
}

/// The regressions of an index file.
pub(crate) struct Rrr {
    shape: RrrShape,
    metric: Metric,
    a: View<u8>,
    b: View<u8>,
    /// Where each list's run begins in `b`, and where the last one ends.
    starts: Vec<usize>,
}

/// A list's A, as stored.
struct ListA<'a> {
    first: f32,
    scale: f32,
    column: &'a [u8],
    run: &'a [u8],
}

impl Rrr {
    /// Reads the tensors.
    pub fn open(
        image: &Arc<Image>,
        shape: RrrShape,
        metric: Metric,
        lists: &Lists,
    ) -> Result<Self, OpenError> {
        let a = image.view(A, &[lists.len(), shape.a_bytes()])?;
        let mut starts = vec![0];
        let mut end = 0_usize;
        for list in 0..lists.len() {
            // At most 2³² points of a few hundred bytes each: far below 2⁶⁴.
            end += shape.b_bytes(lists.range(list).len());
            starts.push(end);
        }
        let b = image.view(B, &[end])?;
        Ok(Self { shape, metric, a, b, starts })
    }

    /// Bytes of all lists.
    pub fn n_bytes(&self) -> usize {
        self.a.len() + self.b.len()
    }

    /// Bytes that scoring a list of `n` points reads, and its operations.
    pub fn cost(&self, list: usize, n: usize) -> Cost {
        let bytes = self.shape.a_bytes() + self.b_of(list).len();
        Cost::of(bytes, 2 * (self.shape.s + n) * (self.shape.rank + 1))
    }

    /// A list's A.
    fn a_of(&self, list: usize) -> ListA<'_> {
        let bytes = self.shape.a_bytes();
        let record = &self.a[list * bytes..(list + 1) * bytes];
        let (head, run) = record.split_at(self.shape.column_bytes());
        // Byte by byte: a file made by others may hold this tensor at any address.
        let float = |at: usize| f32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        ListA { first: float(0), scale: float(4), column: &head[8..8 + self.shape.s - 1], run }
    }

    /// The run of a list's points.
    fn b_of(&self, list: usize) -> &[u8] {
        &self.b[self.starts[list]..self.starts[list + 1]]
    }
}
