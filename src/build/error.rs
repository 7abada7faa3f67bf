//! Why a build fails.

use crate::{
    format::OpenError, spec::SpecError, topk::NO_ID, train::inrp::CheckpointError, vectors::VectorError,
};

/// A build that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The specification does not fit the data.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The vectors cannot be indexed.
    #[error(transparent)]
    Vectors(#[from] VectorError),
    /// Not one id a row.
    #[error("ids: expected one a row, {expected}, got {got}")]
    IdCount {
        /// Rows.
        expected: usize,
        /// Ids.
        got: usize,
    },
    /// An id is given twice.
    #[error("ids: expected each id once, got {id} again")]
    IdTwice {
        /// The id.
        id: u64,
    },
    /// The id that means "no neighbour".
    #[error("ids: expected values below {NO_ID}, which stands for a missing neighbour (so do negative ids)")]
    IdReserved,
    /// More points than positions.
    #[error("vectors: expected fewer than {} rows and copies of rows, got {got}", u32::MAX)]
    TooMany {
        /// Rows, times the lists that hold each.
        got: usize,
    },
    /// The checkpoint of a training cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A number of [`Training`](crate::Training) is none that it may be.
    #[error("training, `{argument}`: expected {expected}, got {got}")]
    Training {
        /// The field.
        argument: &'static str,
        /// The values allowed.
        expected: String,
        /// The value given.
        got: String,
    },
    /// Only the transform was asked for, and the specification has none.
    #[error("expected a specification with a transform, such as `LIN96,Flat`")]
    NoTransform,
    /// This build of the crate has nothing to train a network with.
    #[error(
        "CNT, CNN, router=cnn: expected nearfield built with the feature `neural`, which trains them (searching needs none)"
    )]
    NoNeural,
    /// No memory for the index.
    #[error("cannot reserve memory for the index: {0}")]
    Memory(#[from] std::io::Error),
    /// The flag given to [`IndexBuilder::cancel`](crate::IndexBuilder::cancel) was set.
    #[error("the build was cancelled")]
    Cancelled,
    /// The finished index does not open: a defect of this crate.
    #[error("the built index is not valid, which is a defect of nearfield: {0}")]
    Invalid(#[from] OpenError),
}
