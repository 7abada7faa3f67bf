//! Failures of the command, each with its exit code.

use nearfield::{
    BuildError, CheckpointError, DeviceError, OpenError, SaveError, SearchError, auto::AutoError,
    eval::EvalError, io::FileError,
};

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments do not make sense.
    #[error("{0}")]
    Usage(String),
    /// Files or numbers are not what they should be.
    #[error("{0}")]
    Input(String),
    /// The device cannot be used.
    #[error("{0}")]
    Device(#[from] DeviceError),
    /// The device failed.
    #[error("{0}")]
    DeviceFailed(String),
    /// The system refused to read or write.
    #[error("{0}")]
    Io(String),
    /// Standard output was closed by its reader.
    #[error("standard output was closed")]
    Closed,
}

impl CliError {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Input(_) => 3,
            Self::Device(_) | Self::DeviceFailed(_) => 4,
            Self::Io(_) | Self::Closed => 5,
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(e: std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Io(e.to_string()) }
    }
}

impl From<FileError> for CliError {
    fn from(e: FileError) -> Self {
        match e {
            FileError::Io { .. } => Self::Io(e.to_string()),
            _ => Self::Input(e.to_string()),
        }
    }
}

impl From<OpenError> for CliError {
    fn from(e: OpenError) -> Self {
        match e {
            OpenError::Io { .. } => Self::Io(e.to_string()),
            _ => Self::Input(e.to_string()),
        }
    }
}

impl From<BuildError> for CliError {
    fn from(e: BuildError) -> Self {
        match e {
            BuildError::Memory(_) | BuildError::Checkpoint(CheckpointError::Io { .. }) => {
                Self::Io(e.to_string())
            }
            _ => Self::Input(e.to_string()),
        }
    }
}

impl From<AutoError> for CliError {
    fn from(e: AutoError) -> Self {
        match e {
            AutoError::Build(e) => e.into(),
            AutoError::Device(e) => e.into(),
            AutoError::Search(e) => e.into(),
            AutoError::Truth(e) => e.into(),
            _ => Self::Input(e.to_string()),
        }
    }
}

impl From<SaveError> for CliError {
    fn from(e: SaveError) -> Self {
        Self::Io(e.to_string())
    }
}

impl From<SearchError> for CliError {
    fn from(e: SearchError) -> Self {
        match e {
            #[cfg(feature = "gpu")]
            SearchError::Gpu(_) => Self::DeviceFailed(e.to_string()),
            SearchError::NoProfile(_) => Self::DeviceFailed(e.to_string()),
            _ => Self::Input(e.to_string()),
        }
    }
}

impl From<EvalError> for CliError {
    fn from(e: EvalError) -> Self {
        Self::Input(e.to_string())
    }
}
