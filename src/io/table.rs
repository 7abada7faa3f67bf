//! A table: rows of equal width at a fixed stride, mapped from a file or held in memory.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    FileError, npy,
    stream::{self, Place, StreamError},
    tensors,
};
use crate::spec::DIM_MAX;

/// Type of a table's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Element {
    #[default]
    F32,
    F16,
    F64,
    U8,
    I8,
    I16,
    I32,
    U32,
    I64,
    U64,
}

/// Types that vectors may have, as messages list them.
pub(super) const VECTOR_TYPES: &str = "f32, f16, f64, u8, i8, i16 or i32";

/// Types that ids may have.
pub(super) const ID_TYPES: &str = "i32, i64, u32 or u64";

impl Element {
    pub const ALL: [Self; 10] = [
        Self::F32,
        Self::F16,
        Self::F64,
        Self::U8,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::U64,
    ];

    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 | Self::I16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::F64 => "f64",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
        }
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Vectors,
    Ids,
    Any,
}

/// Where rows stand in a file.
pub(super) struct Layout {
    pub element: Element,
    pub n_rows: usize,
    pub width: usize,
    /// Byte of the first value.
    pub start: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// An array of one dimension, which is laid out as rows of one value.
    pub is_flat: bool,
}

/// A table in memory, one row after the other.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub element: Element,
    pub n_rows: usize,
    pub width: usize,
    /// Little-endian.
    pub bytes: Vec<u8>,
    /// As that of [`Layout`].
    #[cfg_attr(
        not(any(feature = "arrow", feature = "hdf5")),
        allow(dead_code, reason = "without these features tables in memory are only written")
    )]
    pub is_flat: bool,
}

#[cfg(feature = "arrow")]
impl Held {
    /// Makes sure that further rows are like those before.
    pub fn begin(&mut self, element: Element, width: usize) -> Result<(), String> {
        if self.n_rows == 0 {
            (self.element, self.width) = (element, width);
        }
        if (self.element, self.width) == (element, width) {
            return Ok(());
        }
        Err(format!(
            "expected rows of {} {} values, got {width} of {} in row {}",
            self.width,
            self.element.name(),
            element.name(),
            self.n_rows
        ))
    }
}

/// An open table.
pub(super) struct Table {
    bytes: Bytes,
    pub element: Element,
    pub n_rows: usize,
    pub width: usize,
    /// As that of [`Layout`].
    pub is_flat: bool,
    start: usize,
    stride: usize,
}

enum Bytes {
    /// An empty file cannot be mapped on every system.
    Empty,
    Map(memmap2::Mmap),
    Held(Vec<u8>),
}

impl Bytes {
    fn map(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self::Empty);
        }
        // SAFETY: the map is read-only and lives as long as the table. A file that others truncate
        // meanwhile ends the process with SIGBUS, as the module's documentation says.
        Ok(Self::Map(unsafe { memmap2::Mmap::map(&file) }?))
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Map(map) => map,
            Self::Held(bytes) => bytes,
        }
    }
}

/// Files that hold several tables, one of which is named behind a colon.
const CONTAINERS: [&str; 7] = [".safetensors", ".hdf5", ".h5", ".parquet", ".arrow", ".feather", ".ipc"];

/// Formats whose readers go back and forth in a file, which a pipe does not allow.
const OUT_OF_ORDER: [&str; 6] = ["hdf5", "h5", "parquet", "arrow", "feather", "ipc"];

/// A file, and which of its tables is meant: `file.hdf5:train`.
pub(super) fn split(path: &Path) -> (PathBuf, Option<&str>) {
    if let Some(text) = path.to_str().filter(|_| !path.exists()) {
        for (colon, _) in text.match_indices(':') {
            let (file, part) = text.split_at(colon);
            let part = part.strip_prefix(':').unwrap_or_default();
            if !part.is_empty() && CONTAINERS.iter().any(|end| file.to_ascii_lowercase().ends_with(end)) {
                return (PathBuf::from(file), Some(part));
            }
        }
    }
    (path.to_owned(), None)
}

/// Whether a list of extensions, as messages show it, has this one.
pub(super) fn lists(extensions: &str, extension: &str) -> bool {
    extensions.split(&[',', ' ']).any(|listed| listed.strip_prefix('.') == Some(extension))
}

impl Table {
    /// Opens a file by its extension; `expected` lists the extensions that make sense here.
    pub fn open(path: &Path, kind: Kind, expected: &'static str) -> Result<Self, FileError> {
        let (file_path, part) = split(path);
        let mut extension =
            file_path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let is_named = lists(expected, &extension);
        let io = |source| FileError::Io { path: file_path.clone(), source };
        let place = stream::place(&file_path);
        if !is_named {
            // `/dev/stdin` is a regular file where one is redirected to it.
            let is_npy = match &place {
                Ok(Place::Stream) => true,
                Ok(Place::File) => extension.is_empty() && stream::begins_like_npy(&file_path),
                Err(_) => false,
            };
            if !is_npy {
                return Err(FileError::Extension { path: path.to_owned(), expected });
            }
            "npy".clone_into(&mut extension);
        }
        let place = place.map_err(io)?;
        let malformed = |reason: String| FileError::Malformed { path: path.to_owned(), reason };
        if place == Place::Stream && OUT_OF_ORDER.contains(&extension.as_str()) {
            return Err(malformed(stream::out_of_order(&extension)));
        }
        let table = match Self::hold(&file_path, &extension, part, kind) {
            Some(held) => held.map_err(malformed)?,
            None => {
                let bytes = match place {
                    Place::File => Bytes::map(&file_path).map_err(io)?,
                    Place::Stream => {
                        Bytes::Held(stream::read(&file_path, is_named).map_err(|e| match e {
                            StreamError::Io(e) => io(e),
                            StreamError::Refused(reason) => malformed(reason),
                        })?)
                    }
                };
                let layout = match extension.as_str() {
                    "npy" => npy::layout(&bytes),
                    "safetensors" => tensors::layout(&bytes, part),
                    "fvecs" => vecs(&bytes, Element::F32),
                    "bvecs" => vecs(&bytes, Element::U8),
                    "ivecs" => vecs(&bytes, Element::I32),
                    "fbin" => bin(&bytes, Element::F32),
                    "u8bin" => bin(&bytes, Element::U8),
                    "i8bin" => bin(&bytes, Element::I8),
                    _ => bin(&bytes, Element::I32),
                }
                .map_err(malformed)?;
                let Layout { element, n_rows, width, start, stride, is_flat } = layout;
                Self { bytes, element, n_rows, width, is_flat, start, stride }
            }
        };
        if table.n_rows == 0 && table.width > DIM_MAX {
            return Err(malformed(format!("expected rows, got none of {} values each", table.width)));
        }
        if table.width == 0 && table.n_rows > 0 {
            let reason = format!("expected rows of at least one value, got {} empty rows", table.n_rows);
            return Err(malformed(reason));
        }
        Ok(table)
    }

    /// A table of a file that cannot be read in place; nothing for the others.
    #[cfg_attr(
        not(all(feature = "arrow", feature = "hdf5")),
        allow(unused_variables, reason = "which formats there are is chosen by features")
    )]
    fn hold(path: &Path, extension: &str, part: Option<&str>, kind: Kind) -> Option<Result<Self, String>> {
        let held: Result<Held, String> = match extension {
            #[cfg(feature = "arrow")]
            "parquet" => guarded(|| super::columns::read_parquet(path, part, kind)),
            #[cfg(feature = "arrow")]
            "arrow" | "feather" | "ipc" => guarded(|| super::columns::read_arrow(path, part, kind)),
            #[cfg(not(feature = "arrow"))]
            "parquet" | "arrow" | "feather" | "ipc" => Err(lacks("arrow")),
            #[cfg(feature = "hdf5")]
            "hdf5" | "h5" => guarded(|| super::hdf5::read(path, part, kind)),
            #[cfg(not(feature = "hdf5"))]
            "hdf5" | "h5" => Err(lacks("hdf5")),
            _ => return None,
        };
        #[cfg(any(feature = "arrow", feature = "hdf5"))]
        return Some(held.map(|held| Self {
            element: held.element,
            n_rows: held.n_rows,
            width: held.width,
            is_flat: held.is_flat,
            start: 0,
            stride: held.width.saturating_mul(held.element.bytes()),
            bytes: Bytes::Held(held.bytes),
        }));
        #[cfg(not(any(feature = "arrow", feature = "hdf5")))]
        Some(held.and(Err(String::new())))
    }

    /// Makes one row of an array of one dimension, or none of an empty one.
    pub fn join(&mut self) {
        (self.n_rows, self.width) = (usize::from(self.n_rows > 0), self.n_rows);
        self.stride = self.width.saturating_mul(self.element.bytes());
        self.is_flat = false;
    }

    /// The bytes of a row's values.
    #[allow(
        clippy::indexing_slicing,
        reason = "opening checked that all rows lie inside; a row beyond them is the caller's error"
    )]
    pub fn row(&self, row: usize) -> &[u8] {
        let at = self.start + row * self.stride;
        &self.bytes[at..at + self.width * self.element.bytes()]
    }
}

/// Bytes of values that a file of packed ones may hold: as much as deflate makes of it, or what does no harm, for numbers that are
/// alike or follow one another take next to nothing.
#[cfg(any(feature = "arrow", feature = "hdf5"))]
pub(super) fn most_bytes(file_len: u64) -> u64 {
    file_len.saturating_mul(1032).max(1 << 26)
}

/// What a format's crate reads; where it panics over a damaged file, an error.
#[cfg(any(feature = "arrow", feature = "hdf5"))]
pub(super) fn guarded<T>(
    read: impl FnOnce() -> Result<T, String> + std::panic::UnwindSafe,
) -> Result<T, String> {
    std::panic::catch_unwind(read)
        .unwrap_or_else(|_| Err("expected a sound file, got one that its reader fails on".to_owned()))
}

/// Why a format is not read.
#[cfg(not(all(feature = "arrow", feature = "hdf5")))]
pub(super) fn lacks(feature: &str) -> String {
    format!(
        "this build lacks the feature `{feature}`, which reads and writes such files: cargo install with --features {feature}"
    )
}

/// The little-endian u32 at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Rows that each begin with their length.
fn vecs(bytes: &[u8], element: Element) -> Result<Layout, String> {
    let empty = Layout { element, n_rows: 0, width: 0, start: 4, stride: 4, is_flat: false };
    if bytes.is_empty() {
        return Ok(empty);
    }
    let width =
        word(bytes, 0).ok_or_else(|| format!("expected a row length in 4 bytes, got {}", bytes.len()))?;
    let width = usize::try_from(width).unwrap_or(usize::MAX);
    let stride = width
        .checked_mul(element.bytes())
        .and_then(|b| b.checked_add(4))
        .filter(|&stride| width > 0 && stride <= bytes.len())
        .ok_or_else(|| {
            format!("row length {width} at byte 0 does not fit a file of {} bytes", bytes.len())
        })?;
    if !bytes.len().is_multiple_of(stride) {
        return Err(format!("expected rows of {stride} bytes, got {} bytes in all: truncated?", bytes.len()));
    }
    for at in (0..bytes.len()).step_by(stride) {
        let found = word(bytes, at).unwrap_or_default();
        if usize::try_from(found) != Ok(width) {
            return Err(format!("expected row length {width} at byte {at}, got {found}"));
        }
    }
    Ok(Layout { n_rows: bytes.len() / stride, width, stride, ..empty })
}

/// Two counts, then all values.
fn bin(bytes: &[u8], element: Element) -> Result<Layout, String> {
    let (Some(n_rows), Some(width)) = (word(bytes, 0), word(bytes, 4)) else {
        return Err(format!("expected two counts in 8 bytes, got {}", bytes.len()));
    };
    let (n_rows, width) = (n_rows as usize, width as usize);
    let need = n_rows.checked_mul(width).and_then(|v| v.checked_mul(element.bytes()));
    let need = need.and_then(|bytes| bytes.checked_add(8));
    if need != Some(bytes.len()) {
        return Err(format!(
            "its header says {n_rows} rows of {width} {} values, its length is {} bytes",
            element.name(),
            bytes.len()
        ));
    }
    let stride = width.saturating_mul(element.bytes());
    Ok(Layout { element, n_rows, width, start: 8, stride, is_flat: false })
}
