//! Opening a file: mapped, and checked before any stage uses it.
//!
//! The safetensors crate checks that the header is sound: tensors lie inside the file, do not overlap,
//! leave no gap, and have the length their shape says. Stages then state the shape they expect of each
//! tensor, computed from the specification in the metadata, and refuse anything else. Nothing is
//! allocated by a size read from the file.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects))]

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::{
    Element, Image, Source, TensorPlace, Truncated, VERSION, View, anonymous, checksum, checksum_key,
};

/// A file that is not a usable index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a safetensors file, or is cut short.
    #[error("not a nearfield index, or a truncated one: {reason}")]
    Foreign {
        /// What is wrong with it.
        reason: String,
    },
    /// The file has become shorter since it was opened.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The file is of a version this build cannot read.
    #[error("index version: expected 1 to {VERSION}, got {got}; it was written by a newer nearfield")]
    Version {
        /// The file's version.
        got: u32,
    },
    /// A metadata entry is missing or unreadable.
    #[error("metadata `{key}`: expected {expected}, got {}", got.as_deref().map_or("nothing".to_owned(), shown))]
    Metadata {
        /// The entry.
        key: &'static str,
        /// What may stand there.
        expected: String,
        /// What stands there.
        got: Option<String>,
    },
    /// A tensor is missing or has another type or shape than the specification asks for.
    #[error("tensor `{name}`: expected {expected}, got {got}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Type and shape expected.
        expected: String,
        /// Type and shape found.
        got: String,
    },
    /// A tensor holds values that cannot be.
    #[error("tensor `{name}`: {reason}")]
    Value {
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor's bytes are not those that were saved.
    #[error("tensor `{name}`: checksum {got} instead of {}: the file is damaged", shown(expected))]
    Checksum {
        /// The tensor.
        name: String,
        /// The sum stored.
        expected: String,
        /// The sum of the bytes.
        got: String,
    },
}

impl Image {
    /// Maps a file and reads its header.
    pub fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let file = open_file(path)?;
        // SAFETY: the map is read-only; index files are replaced by renaming, never changed in place, so
        // the bytes stay as they are. (Of a file truncated by others while it is being searched the system ends the
        // process with SIGBUS; the crate's documentation says so, and searches look now and then.)
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Self::from_bytes(bytes, Some(Source::new(file)))
    }

    /// Reads a whole file into memory of its own.
    pub fn load(path: &Path) -> Result<Arc<Self>, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let mut file = open_file(path)?;
        let length = usize::try_from(file.metadata().map_err(io)?.len()).unwrap_or(usize::MAX);
        let mut bytes = anonymous(length).map_err(io)?;
        file.read_exact(&mut bytes).map_err(io)?;
        Self::from_bytes(bytes.make_read_only().map_err(io)?, None)
    }

    fn from_bytes(bytes: memmap2::Mmap, source: Option<Source>) -> Result<Arc<Self>, OpenError> {
        let foreign = |reason: String| OpenError::Foreign { reason };
        let (header_len, header) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign(e.to_string()))?;
        let start = header_len.saturating_add(8);
        let mut tensors = BTreeMap::new();
        for (name, info) in header.tensors() {
            let (from, to) = info.data_offsets;
            let bytes = start.saturating_add(from)..start.saturating_add(to);
            let place = TensorPlace { dtype: info.dtype, shape: info.shape.clone(), bytes };
            tensors.insert(name, place);
        }
        let end = tensors.values().map(|t: &TensorPlace| t.bytes.end).max().unwrap_or(start);
        if end != bytes.len() {
            return Err(foreign(format!("its tensors end at byte {end}, the file at byte {}", bytes.len())));
        }
        let metadata: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let image = Self { bytes, source, metadata, tensors };
        if image.metadata("format") != Some("nearfield") {
            return Err(foreign("its metadata does not say `format = nearfield`".to_owned()));
        }
        let version: u32 = image.parsed("version", "a number")?;
        if version == 0 || version > VERSION {
            return Err(OpenError::Version { got: version });
        }
        Ok(Arc::new(image))
    }

    /// A metadata entry, parsed.
    pub fn parsed<T: std::str::FromStr>(&self, key: &'static str, expected: &str) -> Result<T, OpenError> {
        self.metadata(key).and_then(|text| text.parse().ok()).ok_or_else(|| OpenError::Metadata {
            key,
            expected: expected.to_owned(),
            got: self.metadata(key).map(str::to_owned),
        })
    }

    /// The tensor of this name if it has exactly this type and shape.
    pub fn view<T: Element>(self: &Arc<Self>, name: &str, shape: &[usize]) -> Result<View<T>, OpenError> {
        let wrong = |got: String| OpenError::Tensor {
            name: name.to_owned(),
            expected: describe(T::DTYPE, shape),
            got,
        };
        let Some(place) = self.tensors.get(name) else { return Err(wrong("no such tensor".to_owned())) };
        // The length is checked again against the shape expected, so that no kernel relies on the header's
        // own arithmetic.
        let n_bytes = shape.iter().try_fold(size_of::<T>(), |a, &b| a.checked_mul(b));
        if place.dtype != T::DTYPE || place.shape != shape || n_bytes != Some(place.bytes.len()) {
            return Err(wrong(describe(place.dtype, &place.shape)));
        }
        if self.bytes_of(place).as_ptr().align_offset(align_of::<T>()) != 0 {
            return Err(wrong(format!("the same at byte {}, which is not aligned", place.bytes.start)));
        }
        Ok(View { image: self.clone(), bytes: place.bytes.clone(), element: std::marker::PhantomData })
    }

    /// A tensor's bytes, which lie within the file: the header was held against its length.
    fn bytes_of(&self, place: &TensorPlace) -> &[u8] {
        self.bytes.get(place.bytes.clone()).unwrap_or_default()
    }

    /// Compares every tensor with its stored checksum.
    pub fn verify(&self) -> Result<(), OpenError> {
        self.check_length()?;
        self.tensors.par_iter().try_for_each(|(name, place)| {
            let got = checksum(self.bytes_of(place));
            let expected = self.metadata(&checksum_key(name)).unwrap_or("nothing");
            if got == expected {
                return Ok(());
            }
            Err(OpenError::Checksum { name: name.clone(), expected: expected.to_owned(), got })
        })
    }
}

/// Characters of a file's text that messages show.
const SHOWN: usize = 200;

/// Opens a regular file that is long enough to have a header.
fn open_file(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    // Before it is opened: a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        let reason = "it is not a regular file, and an index is not read in order as a pipe is: save it to a file first";
        return Err(OpenError::Foreign { reason: reason.to_owned() });
    }
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.len() < 8 {
        return Err(OpenError::Foreign { reason: format!("it has only {} bytes", metadata.len()) });
    }
    Ok(file)
}

/// Text of a file as messages show it: not more than a line, nothing that a terminal would act on.
fn shown(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let start: String = text.chars().take(SHOWN).map(escaped).collect();
    if text.chars().nth(SHOWN).is_some() { start + "…" } else { start }
}

fn describe(dtype: Dtype, shape: &[usize]) -> String {
    format!("{dtype:?} {shape:?}")
}
