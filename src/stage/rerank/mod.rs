//! Rerank: exact scores of the candidates on stored rows.
//!
//! The candidates' rows lie anywhere in the file: a row of `b` bytes costs about `b / 64` cache lines and one
//! or two address translations, so rows are asked for a few candidates ahead.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod reference;
