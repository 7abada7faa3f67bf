//! Where searches run.

use std::{fmt, str::FromStr};

#[cfg(feature = "gpu")]
use crate::gpu::{Gpu, GpuError, GpuOptions};
use crate::simd::Simd;

/// A device to search on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// A hardware GPU if there is one that can be used, else the CPU;
    /// [`Searcher::device`](crate::Searcher::device) says which and why.
    #[default]
    Auto,
    /// The CPU with the best instruction set it has.
    Cpu,
    /// The CPU with one instruction set: a lower one than the best, for comparison.
    CpuWith(Simd),
    /// A GPU, opened for this searcher.
    #[cfg(feature = "gpu")]
    Gpu(GpuOptions),
    /// A GPU opened before, shared with other searchers: kernels are compiled once.
    #[cfg(feature = "gpu")]
    OpenGpu(Gpu),
    /// The plain implementation that says what every other one means; slow.
    Reference,
}

impl Device {
    /// A hardware GPU if there is one, else the CPU.
    #[must_use]
    pub fn auto() -> Self {
        Self::Auto
    }

    /// The CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self::Cpu
    }

    /// The best hardware GPU.
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn gpu() -> Self {
        Self::Gpu(GpuOptions::default())
    }
}

#[cfg(feature = "gpu")]
impl From<Gpu> for Device {
    fn from(gpu: Gpu) -> Self {
        Self::OpenGpu(gpu)
    }
}

/// A device that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No device has this name.
    #[error("device `{given}`: expected {}", DeviceError::names())]
    Unknown {
        /// What was given.
        given: String,
    },
    /// This build has no backend for the device.
    #[error("device `{given}`: this build lacks the feature `gpu`; expected {}", DeviceError::names())]
    Unsupported {
        /// What was given.
        given: String,
    },
    /// The GPU cannot be used.
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

impl DeviceError {
    fn names() -> String {
        let tokens: Vec<String> = Simd::available().iter().map(|t| format!("cpu:{}", t.name())).collect();
        let gpu = if cfg!(feature = "gpu") { "gpu, gpu:NAME, " } else { "" };
        format!("auto, cpu, {gpu}reference, or one of {}", tokens.join(", "))
    }
}

/// `auto`, `cpu`, `cpu:NAME` (see [`Simd::by_name`]), `gpu`, `gpu:NAME` (see `GpuOptions::name`) or `reference`.
impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(s: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown { given: s.to_owned() };
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "reference" => Ok(Self::Reference),
            #[cfg(feature = "gpu")]
            "gpu" => Ok(Self::gpu()),
            #[cfg(feature = "gpu")]
            _ if s.starts_with("gpu:") => {
                Ok(Self::Gpu(GpuOptions { name: Some(s[4..].to_owned()), ..GpuOptions::default() }))
            }
            #[cfg(not(feature = "gpu"))]
            _ if s == "gpu" || s.starts_with("gpu:") => Err(DeviceError::Unsupported { given: s.to_owned() }),
            _ => s.strip_prefix("cpu:").and_then(Simd::by_name).map(Self::CpuWith).ok_or_else(unknown),
        }
    }
}

/// The device that a searcher uses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name: `cpu:avx512-vnni`, `gpu:NVIDIA H200`, `reference`.
    pub name: String,
    /// Why this one.
    pub reason: String,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.reason)
    }
}
