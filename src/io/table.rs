//! A mapped file seen as a table: rows of equal width at a fixed stride.

use std::{fs::File, path::Path};

use super::{FileError, npy};

/// Type of a table's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    U8,
    I8,
    I32,
    U32,
    I64,
    U64,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
        }
    }
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
}

/// A mapped table.
pub(super) struct Table {
    map: Option<memmap2::Mmap>,
    pub element: Element,
    pub n_rows: usize,
    pub width: usize,
    start: usize,
    stride: usize,
}

impl Table {
    /// Maps a file by its extension; `expected` lists the extensions that make sense here.
    pub fn open(path: &Path, expected: &'static str) -> Result<Self, FileError> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if extension.is_empty() || !expected.contains(&format!(".{extension}")) {
            return Err(FileError::Extension { path: path.to_owned(), expected });
        }
        let io = |source| FileError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(io(std::io::Error::other("it is not a regular file")));
        }
        // An empty file cannot be mapped on every system.
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the map is read-only and lives as long as the table. A file that others truncate
            // meanwhile ends the process with SIGBUS, as the module's documentation says.
            Some(unsafe { memmap2::Mmap::map(&file) }.map_err(io)?)
        };
        let bytes = map.as_deref().unwrap_or_default();
        let layout = match extension.as_str() {
            "npy" => npy::layout(bytes),
            "fvecs" => vecs(bytes, Element::F32),
            "bvecs" => vecs(bytes, Element::U8),
            "ivecs" => vecs(bytes, Element::I32),
            "fbin" => bin(bytes, Element::F32),
            "u8bin" => bin(bytes, Element::U8),
            "i8bin" => bin(bytes, Element::I8),
            _ => bin(bytes, Element::I32),
        }
        .map_err(|reason| FileError::Malformed { path: path.to_owned(), reason })?;
        if layout.width == 0 && layout.n_rows > 0 {
            let reason = format!("expected rows of at least one value, got {} empty rows", layout.n_rows);
            return Err(FileError::Malformed { path: path.to_owned(), reason });
        }
        Ok(Self {
            map,
            element: layout.element,
            n_rows: layout.n_rows,
            width: layout.width,
            start: layout.start,
            stride: layout.stride,
        })
    }

    /// The bytes of a row's values.
    pub fn row(&self, row: usize) -> &[u8] {
        let at = self.start + row * self.stride;
        &self.map.as_deref().unwrap_or_default()[at..at + self.width * self.element.bytes()]
    }
}

/// The little-endian u32 at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Rows that each begin with their length.
fn vecs(bytes: &[u8], element: Element) -> Result<Layout, String> {
    let empty = Layout { element, n_rows: 0, width: 0, start: 4, stride: 4 };
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
    let need = n_rows.checked_mul(width).and_then(|v| v.checked_mul(element.bytes())).map(|b| b + 8);
    if need != Some(bytes.len()) {
        return Err(format!(
            "its header says {n_rows} rows of {width} {} values, its length is {} bytes",
            element.name(),
            bytes.len()
        ));
    }
    Ok(Layout { element, n_rows, width, start: 8, stride: width * element.bytes() })
}
