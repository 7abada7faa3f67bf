//! What can go wrong with a GPU, by cause.

/// A GPU that cannot be used, or stopped working.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No adapter fits.
    #[error("{}", not_found(.wanted.as_deref(), .found))]
    NotFound {
        /// The name looked for; nothing if any hardware would do.
        wanted: Option<String>,
        /// The adapters there are.
        found: Vec<String>,
    },
    /// The memory budget is too small for any index.
    #[error("GPU memory: expected a budget of at least {} MiB, got {given} bytes", .least >> 20)]
    Budget {
        /// Least budget.
        least: u64,
        /// Budget given.
        given: u64,
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

/// What there is instead of the adapter wanted.
fn not_found(wanted: Option<&str>, found: &[String]) -> String {
    match (wanted, found) {
        (_, []) => "no GPU: no Vulkan, Metal or DX12 driver was found".to_owned(),
        (Some(name), _) => format!("no GPU is named like `{name}`; there is {}", found.join(", ")),
        (None, _) => format!("no hardware GPU; {} runs only when named", found.join(", ")),
    }
}
