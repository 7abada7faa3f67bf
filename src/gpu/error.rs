//! What can go wrong with a GPU, by cause.

/// A GPU that cannot be used, or stopped working.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No adapter fits.
    #[error("no GPU {wanted}; {found}")]
    NotFound {
        /// What was looked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The adapter has less than every kernel needs.
    #[error("GPU {adapter}: {limit} is {got}, at least {expected} is needed")]
    BelowFloor {
        /// Adapter.
        adapter: String,
        /// Limit or feature.
        limit: &'static str,
        /// Least value.
        expected: u64,
        /// The adapter's.
        got: u64,
    },
    /// A tier was asked for that the adapter does not have.
    #[error("GPU {adapter}: tier {wanted} was asked for, it has {has}")]
    Tier {
        /// Adapter.
        adapter: String,
        /// Tier asked for.
        wanted: super::Tier,
        /// Best tier it has.
        has: super::Tier,
    },
    /// The driver refused to open the adapter.
    #[error("GPU {adapter}: the driver refused it: {reason}")]
    Refused {
        /// Adapter.
        adapter: String,
        /// The driver's reason.
        reason: String,
    },
    /// The driver refused a kernel.
    #[error("GPU kernel {kernel}: {reason}")]
    Shader {
        /// Kernel.
        kernel: String,
        /// The driver's reason.
        reason: String,
    },
    /// Something does not fit a limit of the device.
    #[error("{what} needs {needed} bytes, the GPU allows {allowed}")]
    TooLarge {
        /// What.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The device has no clock for kernels.
    #[error("GPU {adapter}: it has no timestamps, so kernels cannot be timed")]
    NoTimestamps {
        /// Adapter.
        adapter: String,
    },
    /// The device has no memory left.
    #[error("out of GPU memory at {what}; a smaller memory budget makes the index stream through")]
    OutOfMemory {
        /// What was being done.
        what: String,
    },
    /// The device is gone; a new searcher on a newly opened device works again.
    #[error("the GPU device was lost: {reason}")]
    Lost {
        /// The driver's reason.
        reason: String,
    },
    /// The driver reported something that is neither of these.
    #[error("GPU failure at {what}: {reason}")]
    Failed {
        /// What was being done.
        what: String,
        /// The driver's reason.
        reason: String,
    },
}
