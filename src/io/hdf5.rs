//! Datasets of HDF5 files, by the hdf5-pure crate.
//!
//! Files of ann-benchmarks and VIBE hold `train`, `test`, `neighbors` and `distances`, and the metric as the attribute
//! `distance` of the file.

use std::{fs::File, io::Write, path::Path};

use hdf5_pure::{
    Chunk, ChunkIndex, DType, Dataset, Datatype, DatatypeByteOrder, FileBuilder, FloatingPointLayout,
};

use super::{
    objects::Objects,
    table::{Element, Held, ID_TYPES, Kind, most_bytes},
};
use crate::metric::Metric;

/// Name of the dataset written.
const DATASET: &str = "vectors";

fn open(path: &Path) -> Result<hdf5_pure::File, String> {
    let objects = File::open(path)
        .map_err(|e| e.to_string())
        .and_then(|file| Objects::new(file).map_err(|e| e.to_string()))?;
    hdf5_pure::File::from_source(objects).map_err(|e| e.to_string())
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
    check(&dataset, length).and_then(|()| held(&dataset, kind)).map_err(|e| format!("`{name}`: {e}"))
}

/// Filters of chunks that are read, once each: deflate, shuffle, fletcher32 and LZF. Others make of a few bytes what they say.
const FILTERS: [u16; 4] = [1, SHUFFLE, 3, 32000];
const SHUFFLE: u16 = 2;

/// Refuses what cannot be read, and sizes that a file of `length` bytes cannot hold, before memory is asked for them.
fn check(dataset: &Dataset, length: u64) -> Result<(), String> {
    let most = most_bytes(length);
    let shape = dataset.shape().map_err(|e| e.to_string())?;
    if !(1..=2).contains(&shape.len()) {
        return Err(format!("expected one or two dimensions, got shape {shape:?}"));
    }
    let bytes = bytes_of(&dataset.datatype().map_err(|e| e.to_string())?)?;
    let bytes_in = |what: &str, sizes: &[u64]| {
        let product = sizes.iter().try_fold(bytes, |product: u64, &size| product.checked_mul(size));
        product.filter(|&bytes| bytes <= most).ok_or_else(|| {
            format!("{what}: expected at most {most} bytes of values in a file of this length, got {sizes:?}")
        })
    };
    bytes_in("shape", &shape)?;
    let Some(chunk) = dataset.chunk_shape().map_err(|e| e.to_string())? else { return Ok(()) };
    if chunk.len() != shape.len() || chunk.contains(&0) {
        return Err(format!("chunks: expected parts of shape {shape:?}, got {chunk:?}"));
    }
    let chunk_bytes = bytes_in("chunks", &chunk)?;
    let pipeline = dataset.filter_pipeline();
    if pipeline.iter().any(|filter| {
        filter.id == SHUFFLE && filter.client_data.first().copied().map(u64::from) != Some(bytes)
    }) {
        return Err(format!("shuffle: expected values of {bytes} bytes"));
    }
    let filters: Vec<u16> = pipeline.iter().map(|filter| filter.id).collect();
    let mut known = filters.clone();
    known.sort_unstable();
    known.dedup();
    known.retain(|id| FILTERS.contains(id));
    if known.len() < filters.len() {
        return Err(format!("filters: expected some of {FILTERS:?}, each once at most, got {filters:?}"));
    }
    // Other indexes list every chunk that the shape has room for, whether it is there or not.
    if dataset.chunk_index().map_err(|e| e.to_string())? != Some(ChunkIndex::BTreeV1) {
        let sizes: Vec<u64> = shape.iter().zip(&chunk).map(|(size, chunk)| size.div_ceil(*chunk)).collect();
        if sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(size)).is_none_or(|n| n > length)
        {
            return Err(format!("chunks: expected at most {length}, the bytes of the file, got {sizes:?}"));
        }
    }
    let mut chunks = dataset.chunks().map_err(|e| e.to_string())?;
    check_chunks(&mut chunks, &shape, &chunk, filters.is_empty().then_some(chunk_bytes))?;
    // A chunk of a few bytes may stand for a whole one.
    bytes_in("chunks", &[chunks.len() as u64, chunk_bytes / bytes])?;
    let stored = chunks.iter().try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.storage_size));
    if stored.is_none_or(|stored| stored > length) {
        return Err(format!("chunks: expected at most {length} bytes, those of the file, got more"));
    }
    Ok(())
}

/// Checks that chunks lie where chunks do, no two at one place, and have the bytes that are expected of each.
fn check_chunks(
    chunks: &mut Vec<Chunk>,
    shape: &[u64],
    size: &[u64],
    bytes: Option<u64>,
) -> Result<(), String> {
    for chunk in &*chunks {
        let mut places = chunk.offset.iter().zip(shape.iter().zip(size));
        if !places.all(|(&at, (&end, &size))| at < end && at % size == 0) {
            return Err(format!("chunks: expected places of {size:?} in {shape:?}, got {:?}", chunk.offset));
        }
        if bytes.is_some_and(|bytes| bytes != chunk.storage_size) {
            return Err(format!("chunks: expected {size:?} values each, got {} bytes", chunk.storage_size));
        }
    }
    let n = chunks.len();
    chunks.sort_unstable_by(|a, b| a.offset.cmp(&b.offset));
    chunks.dedup_by(|a, b| a.offset == b.offset);
    if chunks.len() < n {
        return Err(format!("chunks: expected places of {size:?}, got {n} of {}", chunks.len()));
    }
    Ok(())
}

/// Bytes of a value, whose bits must be those of such numbers.
fn bytes_of(datatype: &Datatype) -> Result<u64, String> {
    let bytes = match datatype {
        Datatype::FixedPoint { size, layout, .. } => {
            let ends = u32::from(layout.bit_offset) + u32::from(layout.bit_precision);
            (layout.bit_precision > 0 && ends.div_ceil(8) <= *size).then_some(*size)
        }
        Datatype::FloatingPoint { size, byte_order, layout } => {
            let standard = match size {
                4 => Some(&FloatingPointLayout::IEEE754_BINARY32),
                8 => Some(&FloatingPointLayout::IEEE754_BINARY64),
                _ => None,
            };
            (standard == Some(layout) && *byte_order != DatatypeByteOrder::Vax).then_some(*size)
        }
        _ => None,
    };
    bytes.map(u64::from).ok_or_else(|| format!("expected integers, or floats of IEEE 754, got {datatype:?}"))
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
        DType::I16 => bytes!(Element::I16, read_i16),
        DType::I32 => bytes!(Element::I32, read_i32),
        DType::U32 => bytes!(Element::U32, read_u32),
        DType::I64 => bytes!(Element::I64, read_i64),
        DType::U64 => bytes!(Element::U64, read_u64),
        other => {
            return Err(format!(
                "expected f32, f64, u8, i8, i16 or i32 values (ids: {ID_TYPES}), got {other}: store the dataset as float32"
            ));
        }
    };
    let need = n_rows.checked_mul(width).and_then(|v| v.checked_mul(element.bytes()));
    if need != Some(bytes.len()) {
        return Err(format!("expected {n_rows} × {width} values, got {} bytes", bytes.len()));
    }
    Ok(Held { element, n_rows, width, bytes, is_flat: shape.len() == 1 })
}

/// The metric of an ann-benchmarks or VIBE file.
pub(super) fn metric(path: &Path) -> Result<Metric, String> {
    let attributes = open(path)?.root().attrs().map_err(|e| e.to_string())?;
    let distance = attributes.get("distance");
    let distance =
        distance.ok_or("expected an attribute `distance`, as ann-benchmarks writes it, got none")?;
    let text = distance.as_str().ok_or("attribute `distance`: expected text, got something else")?;
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
        Element::I16 => i16;
        Element::I32 => i32;
        Element::U32 => u32;
        Element::I64 => i64;
        Element::U64 => u64;
    }
    dataset.with_shape(&[table.n_rows as u64, table.width as u64]);
    let bytes = builder.finish().map_err(|e| e.to_string())?;
    file.write_all(&bytes).map_err(|e| e.to_string())
}
