//! Scoring by stored vectors, `Flat` and `SQ8`: a list is one stream of `4·s` or `s` bytes a point.
//!
//! The meaning of a row's score is [`RowStore::score_reference`](crate::rows::RowStore::score_reference).

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
