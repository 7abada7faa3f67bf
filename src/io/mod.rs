//! Vector files, by extension, and files of ids.
//!
//! | extension | layout | feature |
//! |---|---|---|
//! | `.npy` | NumPy array `[n, d]`, C order | |
//! | `.fvecs` `.bvecs` `.ivecs` | each row: its length as i32, then f32, u8 or i32 values | |
//! | `.fbin` `.u8bin` `.i8bin` `.ibin` | n and d as u32, then f32, u8, i8 or i32 values | |
//! | `.safetensors` | a tensor `[n, d]`: `file.safetensors:name` | |
//! | `.hdf5` `.h5` | a dataset `[n, d]`: `file.hdf5:train` | `hdf5` |
//! | `.parquet` `.arrow` `.feather` `.ipc` | a column of lists: `file.parquet:embedding` | `arrow` |
//!
//! A name behind the colon is not needed where a file holds only one thing that may be meant. Values are f32, f16, f64, u8,
//! i8, i16 or i32, ids integers of 32 or 64 bits; other types are refused. A `.npy` file of bfloat16 looks like one of u16, so neither is
//! read. The files above the line of features are mapped, and rows converted to f32 as
//! they are read: a file of bytes is never held in memory as floats. Such a file must not be truncated or changed while it
//! is open. The others are read into memory, and so are pipes (`<(…)`, `/dev/stdin`) of up to 16 GiB or half of the free memory. A pipe
//! without an extension must hold a NumPy array; HDF5, Parquet and Arrow are not read from pipes. Pages of Parquet may be packed by Snappy, Zstandard, LZ4 or gzip, not by Brotli, which
//! unpacks without a bound. Chunks of HDF5 may be filtered by deflate, shuffle, fletcher32 and LZF; what HDF5 2.0 writes in its newest
//! version is not read (h5py: `libver="v110"`).

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice))]

#[cfg(feature = "arrow")]
mod columns;
mod convert;
#[cfg(feature = "hdf5")]
mod hdf5;
#[cfg(feature = "arrow")]
mod messages;
mod npy;
#[cfg(feature = "hdf5")]
mod objects;
mod stream;
mod table;
mod tensors;
#[cfg(feature = "arrow")]
mod thrift;

use std::path::{Path, PathBuf};

use half::f16;
use ndarray::Array2;

pub use convert::convert;
pub use npy::{write_ids, write_scores, write_vectors};
use table::{Element, ID_TYPES, Kind, Table, VECTOR_TYPES};

use crate::{topk::NO_ID, vectors::Vectors};

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The name ends in none of the known extensions.
    #[error("{}: expected a file ending in {expected}", path.display())]
    Extension {
        /// The file.
        path: PathBuf,
        /// Extensions allowed.
        expected: &'static str,
    },
    /// The contents do not follow the format.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Expected and found, with the byte offset where there is one.
        reason: String,
    },
}

const EXTENSIONS: &str = ".npy, .fvecs, .bvecs, .ivecs, .fbin, .u8bin, .i8bin, .ibin, .safetensors, .hdf5, .h5, .parquet, .arrow, .feather or .ipc";
const ID_EXTENSIONS: &str =
    ".npy, .ivecs, .ibin, .safetensors, .hdf5, .h5, .parquet, .arrow, .feather or .ipc";

/// The file of a path that may name a part of it behind a colon: `docs.parquet` of `docs.parquet:embedding`.
#[must_use]
pub fn file_of(path: &Path) -> PathBuf {
    table::split(path).0
}

/// An open file of vectors.
pub struct VectorFile(Table);

impl VectorFile {
    /// Opens a file, or the part of it behind a colon, and checks its layout. An array of one dimension is refused: it may be one
    /// vector, or vectors of one value.
    ///
    /// # Errors
    /// [`FileError`] names the file, what was expected and what was found.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let file = Self::of_any_shape(path.as_ref())?;
        if file.0.is_flat {
            let n = file.0.n_rows;
            return Err(FileError::Malformed {
                path: path.as_ref().to_owned(),
                reason: format!(
                    "expected two dimensions, got one of {n}: save x.reshape(1, -1) for one vector, or x.reshape(-1, 1) for {n} \
                     vectors of one value"
                ),
            });
        }
        Ok(file)
    }

    /// Opens queries: as [`VectorFile::open`], but an array of one dimension is one query.
    ///
    /// # Errors
    /// [`FileError`] names the file, what was expected and what was found.
    pub fn open_queries(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let mut file = Self::of_any_shape(path.as_ref())?;
        if file.0.is_flat {
            file.0.join();
        }
        Ok(file)
    }

    fn of_any_shape(path: &Path) -> Result<Self, FileError> {
        let table = Table::open(path, Kind::Vectors, EXTENSIONS)?;
        let got = table.element.name();
        if matches!(table.element, Element::I64 | Element::U64 | Element::U32) {
            let remedy = as_float(path);
            return Err(FileError::Malformed {
                path: path.to_owned(),
                reason: format!(
                    "expected {VECTOR_TYPES} values, got {got}: {remedy}, or run `nearfield convert --dtype f32`"
                ),
            });
        }
        Ok(Self(table))
    }

    /// Type of the stored values: `f32`, `f16`, `f64`, `u8`, `i8`, `i16` or `i32`.
    #[must_use]
    pub fn dtype(&self) -> &'static str {
        self.0.element.name()
    }

    /// Bytes of all values.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.0.n_rows * self.0.width * self.0.element.bytes()
    }
}

impl Vectors for VectorFile {
    fn n_rows(&self) -> usize {
        self.0.n_rows
    }

    fn dim(&self) -> usize {
        self.0.width
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        let bytes = self.0.row(row);
        match self.0.element {
            Element::F32 => values(bytes, out, f32::from_le_bytes),
            Element::F16 => {
                // Aligned in any NumPy file; then converted many at a time.
                match bytemuck::try_cast_slice::<u8, f16>(bytes) {
                    Ok(half) if cfg!(target_endian = "little") => {
                        half::slice::HalfFloatSliceExt::convert_to_f32_slice(half, out);
                    }
                    _ => values(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
                }
            }
            #[allow(clippy::cast_possible_truncation, reason = "vectors are f32 here")]
            Element::F64 => values(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Element::U8 => values(bytes, out, |[b]: [u8; 1]| f32::from(b)),
            Element::I8 => values(bytes, out, |b: [u8; 1]| f32::from(i8::from_le_bytes(b))),
            Element::I16 => values(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
            Element::I32 => values(bytes, out, |b| i32::from_le_bytes(b) as f32),
            // Refused on opening.
            Element::I64 | Element::U64 | Element::U32 => {}
        }
    }
}

/// Returns how the program that wrote a file can write f32 instead.
fn as_float(path: &Path) -> &'static str {
    match file_of(path).extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("parquet" | "arrow" | "feather" | "ipc") => "cast the column to lists of float32",
        Some("hdf5" | "h5") => "store the dataset as float32",
        Some("safetensors") => "save the tensor as float32",
        _ => "save x.astype(\"float32\")",
    }
}

fn values<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (rows, _) = bytes.as_chunks::<N>();
    for (out, &bytes) in out.iter_mut().zip(rows) {
        *out = value(bytes);
    }
}

/// Reads a file of ids, `[n, width]`: neighbours by query, or with width 1 one id a row. A one-dimensional
/// array has width 1; negative values are [`NO_ID`].
///
/// # Errors
/// [`FileError`] names the file, what was expected and what was found.
pub fn read_ids(path: impl AsRef<Path>) -> Result<Array2<u64>, FileError> {
    let path = path.as_ref();
    let table = Table::open(path, Kind::Ids, ID_EXTENSIONS)?;
    let malformed = |reason: String| FileError::Malformed { path: path.to_owned(), reason };
    let mut ids = Vec::with_capacity(table.n_rows * table.width);
    let signed = |v: i64| u64::try_from(v).unwrap_or(NO_ID);
    for row in 0..table.n_rows {
        let bytes = table.row(row);
        match table.element {
            Element::I32 => {
                ids.extend(bytes.as_chunks().0.iter().map(|&b| signed(i32::from_le_bytes(b).into())))
            }
            Element::U32 => ids.extend(bytes.as_chunks().0.iter().map(|&b| u64::from(u32::from_le_bytes(b)))),
            Element::I64 => ids.extend(bytes.as_chunks().0.iter().map(|&b| signed(i64::from_le_bytes(b)))),
            Element::U64 => ids.extend(bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b))),
            other => {
                return Err(malformed(format!("expected {ID_TYPES} ids, got {}", other.name())));
            }
        }
    }
    Array2::from_shape_vec((table.n_rows, table.width), ids).map_err(|e| malformed(e.to_string()))
}

/// The metric that an ann-benchmarks or VIBE file names in its attribute `distance`.
///
/// # Errors
/// [`FileError`] where there is none that is known here.
#[cfg(feature = "hdf5")]
pub fn hdf5_metric(path: impl AsRef<Path>) -> Result<crate::Metric, FileError> {
    let path = path.as_ref();
    let place = stream::place(path).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
    if place == stream::Place::Stream {
        return Err(FileError::Malformed { path: path.to_owned(), reason: stream::out_of_order("hdf5") });
    }
    table::guarded(|| hdf5::metric(path))
        .map_err(|reason| FileError::Malformed { path: path.to_owned(), reason })
}
