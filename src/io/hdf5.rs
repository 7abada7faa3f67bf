//! Datasets of HDF5 files, by the hdf5-pure crate.
//!
//! Files of ann-benchmarks and VIBE hold `train`, `test`, `neighbors` and `distances`, and the metric as the attribute
//! `distance` of the file.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use hdf5_pure::{DType, Dataset, FileBuilder, FormatError, ReadSeekSource, Source};

use super::table::{Element, Held, Kind, most_bytes};
use crate::metric::Metric;

/// Name of the dataset written.
const DATASET: &str = "vectors";

/// A file of which only so much is read in all: nodes of its trees may share their children, and chunks their bytes, so that a few
/// kilobytes take for ever to follow.
struct Bounded {
    file: ReadSeekSource<File>,
    left: AtomicU64,
}

impl Bounded {
    /// Reads count as this many bytes more.
    const READ: u64 = 16;

    /// Headers are read several times, trees twice, values once.
    fn new(file: ReadSeekSource<File>) -> Self {
        let left = AtomicU64::new(file.len().saturating_mul(4).max(1 << 24));
        Self { file, left }
    }
}

impl Source for Bounded {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), FormatError> {
        let cost = bytes.len() as u64 + Self::READ;
        self.left
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(cost))
            .map_err(|_| FormatError::Source("the same bytes are pointed at again and again".to_owned()))?;
        self.file.read_at(offset, bytes)?;
        // Datatypes nest, which takes stack ([`guarded`](super::table::guarded)): in an object's header 8 000 times at most, but
        // messages that objects share may be of any length.
        if bytes.starts_with(b"SMTB") {
            return Err(FormatError::Source("expected no table of shared messages, got one".to_owned()));
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<hdf5_pure::File, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let source = ReadSeekSource::new(file).map_err(|e| e.to_string())?;
    hdf5_pure::File::from_source(Bounded::new(source)).map_err(|e| e.to_string())
}

/// Reads a dataset of one or two dimensions.
pub(super) fn read(path: &Path, name: Option<&str>, kind: Kind) -> Result<Held, String> {
    let file = open(path)?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let mut names = file.root().datasets().map_err(|e| e.to_string())?;
            names.sort();
            match &names[..] {
                [name] => name.clone(),
                _ => {
                    let names = names.join(", ");
                    return Err(format!(
                        "expected a dataset's name after the file's, as in file.hdf5:train, of {names}"
                    ));
                }
            }
        }
    };
    let dataset = file.dataset(&name).map_err(|e| format!("`{name}`: {e}"))?;
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    check_size(&dataset, length).and_then(|()| held(&dataset, kind)).map_err(|e| format!("`{name}`: {e}"))
}

/// Refuses sizes that a file of `length` bytes cannot hold, before memory is asked for them.
fn check_size(dataset: &Dataset, length: u64) -> Result<(), String> {
    let most = most_bytes(length);
    let shape = dataset.shape().map_err(|e| e.to_string())?;
    let chunk = dataset.chunk_shape().map_err(|e| e.to_string())?.unwrap_or_default();
    let bytes = match dataset.dtype().map_err(|e| e.to_string())? {
        DType::I8 | DType::U8 => 1,
        DType::F32 | DType::I32 | DType::U32 => 4,
        _ => 8,
    };
    // Some indexes list every chunk that the shape has room for, whether it is there or not.
    let chunks = shape.iter().zip(&chunk).map(|(size, chunk)| size.div_ceil(*chunk.max(&1)));
    if chunks.clone().try_fold(1_u64, u64::checked_mul).is_none_or(|n| n > length) {
        let chunks: Vec<u64> = chunks.collect();
        return Err(format!("chunks: expected at most {length}, the bytes of the file, got {chunks:?}"));
    }
    let stored = if dataset.is_chunked() { dataset.chunks().map_err(|e| e.to_string())? } else { Vec::new() };
    if stored
        .iter()
        .try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.storage_size))
        .is_none_or(|n| n > length)
    {
        return Err(format!("chunks: expected at most {length} bytes, those of the file, got more"));
    }
    // A chunk of a few bytes may stand for a whole one.
    for (what, n, sizes) in [("shape", 1, shape), ("chunks", stored.len() as u64, chunk)] {
        if sizes
            .iter()
            .try_fold(bytes * n, |product: u64, &size| product.checked_mul(size))
            .is_none_or(|n| n > most)
        {
            return Err(format!(
                "{what}: expected at most {most} bytes of values in a file of this length, got {n} × {sizes:?}"
            ));
        }
    }
    Ok(())
}

fn held(dataset: &Dataset, kind: Kind) -> Result<Held, String> {
    let shape = dataset.shape().map_err(|e| e.to_string())?;
    let size = |v: u64| usize::try_from(v).map_err(|_| format!("{v} rows or values do not fit this machine"));
    let (n_rows, width) = match shape[..] {
        [n] => (size(n)?, 1),
        [n, d] => (size(n)?, size(d)?),
        _ => return Err(format!("expected one or two dimensions, got shape {shape:?}")),
    };
    macro_rules! bytes {
        ($element:expr, $read:ident) => {{
            let values = dataset.$read().map_err(|e| e.to_string())?;
            ($element, values.into_iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
        }};
    }
    let (element, bytes) = match dataset.dtype().map_err(|e| e.to_string())? {
        DType::F32 => bytes!(Element::F32, read_f32),
        // Vectors are f32 here: they are never held as more.
        DType::F64 if kind == Kind::Vectors => bytes!(Element::F32, read_f32),
        DType::F64 => bytes!(Element::F64, read_f64),
        DType::I8 => bytes!(Element::I8, read_i8),
        DType::U8 => bytes!(Element::U8, read_u8),
        DType::I32 => bytes!(Element::I32, read_i32),
        DType::U32 => bytes!(Element::U32, read_u32),
        DType::I64 => bytes!(Element::I64, read_i64),
        DType::U64 => bytes!(Element::U64, read_u64),
        other => {
            let name: String = other.to_string().chars().take(40).collect();
            return Err(format!("expected numbers of 8 to 64 bits, got {name}"));
        }
    };
    let need = n_rows.checked_mul(width).and_then(|v| v.checked_mul(element.bytes()));
    if need != Some(bytes.len()) {
        return Err(format!("expected {n_rows} × {width} values, got {} bytes", bytes.len()));
    }
    Ok(Held { element, n_rows, width, bytes })
}

/// The metric of an ann-benchmarks or VIBE file.
pub(super) fn metric(path: &Path) -> Result<Metric, String> {
    let attributes = open(path)?.root().attrs().map_err(|e| e.to_string())?;
    let distance = attributes.get("distance");
    let distance =
        distance.ok_or("expected an attribute `distance`, as ann-benchmarks writes it, got none")?;
    let text =
        distance.as_str().ok_or_else(|| format!("attribute `distance`: expected text, got {distance:?}"))?;
    match text {
        "euclidean" | "l2" => Ok(Metric::L2),
        "angular" | "cosine" => Ok(Metric::Cosine),
        "ip" | "dot" | "normalized" => Ok(Metric::Ip),
        other => Err(format!(
            "attribute `distance`: expected euclidean, angular, cosine, normalized or ip, got {other}"
        )),
    }
}

/// Writes a table as an HDF5 file of one dataset, `vectors`.
pub(super) fn write(table: &Held, file: &mut File) -> Result<(), String> {
    let mut builder = FileBuilder::new();
    let dataset = builder.create_dataset(DATASET);
    macro_rules! data {
        ($($element:pat => $native:ty;)*) => {
            match table.element {
                $($element => {
                    let (values, _) = table.bytes.as_chunks();
                    let values: Vec<$native> = values.iter().map(|&b| <$native>::from_le_bytes(b)).collect();
                    dataset.with_data(&values);
                })*
                Element::F16 => return Err("HDF5: expected values of another type, got f16: give --dtype f32".to_owned()),
            }
        };
    }
    data! {
        Element::F32 => f32;
        Element::F64 => f64;
        Element::I8 => i8;
        Element::U8 => u8;
        Element::I32 => i32;
        Element::U32 => u32;
        Element::I64 => i64;
        Element::U64 => u64;
    }
    dataset.with_shape(&[table.n_rows as u64, table.width as u64]);
    let bytes = builder.finish().map_err(|e| e.to_string())?;
    file.write_all(&bytes).map_err(|e| e.to_string())
}
