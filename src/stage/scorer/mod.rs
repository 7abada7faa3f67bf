//! Scorer: approximate scores of every point in a list.
//!
//! [`Rrr`] is LoRANN's reduced-rank regression, [`Pq`] is ScaNN's product quantisation, [`Cnn`] a convolutional network for each list;
//! [`Scorer::Rows`] scores stored vectors (`Flat` in f32, `SQ8` in bytes). All work in the transform's space and return internal scores (smaller is better), up to a term
//! that depends on the query alone: for l2, [`Scorer::omits_query_norm`] says that `‖q‖²` is left out.

pub(crate) mod cnn;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod pq;
pub(crate) mod rows;
pub(crate) mod rrr;

pub(crate) use cnn::Cnn;
pub(crate) use pq::Pq;
pub(crate) use rrr::Rrr;

use crate::{
    block::BlockQuery,
    rows::{RowQuery, RowStore},
};

/// The scorer of an index file.
pub(crate) enum Scorer {
    /// Reduced-rank regression per list.
    Rrr(Rrr),
    /// Lookup tables over codes.
    Pq(Pq),
    /// Networks.
    Cnn(Cnn),
    /// Stored vectors.
    Rows(RowStore),
}

impl Scorer {
    /// Bytes of what is prepared for a query, beside its own.
    pub fn query_bytes(&self) -> usize {
        match self {
            Self::Pq(pq) => pq.query_bytes(),
            Self::Rrr(_) | Self::Cnn(_) | Self::Rows(_) => 0,
        }
    }

    /// Bytes of all lists.
    pub fn n_bytes(&self) -> usize {
        match self {
            Self::Rrr(rrr) => rrr.n_bytes(),
            Self::Pq(pq) => pq.n_bytes(),
            Self::Cnn(cnn) => cnn.n_bytes(),
            Self::Rows(rows) => rows.n_bytes(),
        }
    }

    /// Whether l2 scores lack `‖q‖²`.
    pub fn omits_query_norm(&self) -> bool {
        matches!(self, Self::Rrr(_) | Self::Pq(_) | Self::Cnn(_))
    }
}

/// A query as scorers want it.
#[derive(Default)]
pub(crate) struct ScorerQuery {
    /// The reduced query, `[s]`.
    pub reduced: Vec<f32>,
    /// Sum of its coordinates 1.., which takes the offset of byte codes back.
    pub rest_sum: f32,
    /// Its coordinates 1.. as int8, coordinate 0 in f32.
    pub blocks: BlockQuery,
    /// Prepared for stored vectors.
    pub rows: RowQuery,
    /// Prepared for codes.
    pub tables: pq::PqTables,
}
