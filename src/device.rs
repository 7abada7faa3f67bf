//! Where searches run.

use std::{fmt, str::FromStr};

use crate::simd::Simd;

/// A device to search on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The fastest one that can be used; [`Searcher::device`](crate::Searcher::device) says which and why.
    #[default]
    Auto,
    /// The CPU with the best instruction set it has.
    Cpu,
    /// The CPU with one instruction set: a lower one than the best, for comparison.
    CpuWith(Simd),
    /// The plain implementation that says what every other one means; slow.
    Reference,
}

impl Device {
    /// The fastest device that can be used.
    #[must_use]
    pub fn auto() -> Self {
        Self::Auto
    }

    /// The CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self::Cpu
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
    #[error("device `{given}`: this version searches on the CPU only; expected {}", DeviceError::names())]
    Unsupported {
        /// What was given.
        given: String,
    },
}

impl DeviceError {
    fn names() -> String {
        let tokens: Vec<String> = Simd::available().iter().map(|t| format!("cpu:{}", t.name())).collect();
        format!("auto, cpu, reference, or one of {}", tokens.join(", "))
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(s: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown { given: s.to_owned() };
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "reference" => Ok(Self::Reference),
            _ if s == "gpu" || s.starts_with("gpu:") => Err(DeviceError::Unsupported { given: s.to_owned() }),
            _ => s.strip_prefix("cpu:").and_then(Simd::by_name).map(Self::CpuWith).ok_or_else(unknown),
        }
    }
}

/// The device that a searcher uses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name: `cpu:avx512-vnni`, `reference`.
    pub name: String,
    /// Why this one.
    pub reason: String,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.reason)
    }
}

/// How a searcher runs its stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu(Simd),
    Reference,
}

impl Backend {
    /// The backend for a device.
    pub fn choose(device: Device) -> (Self, DeviceInfo) {
        let (backend, reason) = match device {
            Device::Auto => (Self::Cpu(Simd::detect()), "chosen: this version searches on the CPU only"),
            Device::Cpu => (Self::Cpu(Simd::detect()), "asked for, best instruction set"),
            Device::CpuWith(simd) => (Self::Cpu(simd), "asked for by name"),
            Device::Reference => (Self::Reference, "asked for"),
        };
        let name = match backend {
            Self::Cpu(simd) => format!("cpu:{}", simd.name()),
            Self::Reference => "reference".to_owned(),
        };
        (backend, DeviceInfo { name, reason: reason.to_owned() })
    }
}
