//! Columns of Parquet and Arrow files, by the Arrow project's crates.
//!
//! A column of vectors is a list column, of fixed size or with rows of equal length; a column of ids holds integers.

use std::{fs::File, io::Cursor, path::Path, sync::Arc};

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, GenericListArray, OffsetSizeTrait, PrimitiveArray, RecordBatch,
    cast::AsArray,
    types::{
        Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
        UInt32Type, UInt64Type,
    },
};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    basic::Type,
};

use super::{
    messages,
    table::{Element, Held, ID_TYPES, Kind, VECTOR_TYPES, most_bytes},
    thrift,
};

/// Rows of a batch.
const BATCH: usize = 8192;

/// Name of the column written.
const COLUMN: &str = "vector";

/// Reads a column of a Parquet file.
pub(super) fn read_parquet(path: &Path, column: Option<&str>, kind: Kind) -> Result<Held, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    // SAFETY: as for every mapped file, nobody may truncate it meanwhile (`VectorFile`).
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| e.to_string())?;
    let most = most_bytes(bytes.len() as u64);
    thrift::check_footer(&bytes, most)?;
    // The columns' own types: hints for others, which writers leave in the metadata, change no value.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader =
        ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(|e| e.to_string())?;
    let at = choose(reader.schema(), column, kind)?;
    let schema = reader.parquet_schema();
    if schema.root_schema().get_fields().len() != reader.schema().fields().len() {
        return Err("expected columns, got a group of none".to_owned());
    }
    let (mut left, mut room) =
        (bytes.len(), thrift::Room { expanded: most.saturating_mul(4), decoded: most });
    for group in reader.metadata().row_groups() {
        for (leaf, chunk) in group.columns().iter().enumerate() {
            if schema.get_column_root_idx(leaf) == at {
                let width = match chunk.column_type() {
                    Type::INT32 | Type::FLOAT => 4,
                    Type::INT64 | Type::DOUBLE => 8,
                    Type::FIXED_LEN_BYTE_ARRAY => chunk.column_descr().type_length().unsigned_abs().into(),
                    other => return Err(format!("expected a column of numbers, got {other}")),
                };
                let from = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
                let length = chunk.compressed_size();
                room.check_pages(&bytes, from, length, width)?;
                let rest = usize::try_from(length).ok().and_then(|length| left.checked_sub(length));
                left = rest.ok_or("expected row groups that do not overlap")?;
            }
        }
    }
    let mask = ProjectionMask::roots(reader.parquet_schema(), [at]);
    let batches = reader.with_projection(mask).with_batch_size(BATCH).build().map_err(|e| e.to_string())?;
    collect(batches, most)
}

/// Reads a column of an Arrow file, in the format of files or of streams.
pub(super) fn read_arrow(path: &Path, column: Option<&str>, kind: Kind) -> Result<Held, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    // SAFETY: as for every mapped file, nobody may truncate it meanwhile (`VectorFile`).
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| e.to_string())?;
    let most = most_bytes(bytes.len() as u64);
    messages::check(&bytes, most)?;
    let text = |e: ArrowError| e.to_string();
    if messages::is_file(&bytes) {
        let reader = |projection| FileReader::try_new(Cursor::new(&bytes), projection).map_err(text);
        let at = choose(&reader(None)?.schema(), column, kind)?;
        return collect(reader(Some(vec![at]))?, most);
    }
    let reader = |projection| StreamReader::try_new(&bytes[..], projection).map_err(text);
    let at = choose(&reader(None)?.schema(), column, kind)?;
    collect(reader(Some(vec![at]))?, most)
}

/// The place of the column asked for, or of the only one that may be meant, if it is one of numbers: others may take more memory than
/// their values when they are decoded.
fn choose(schema: &Schema, column: Option<&str>, kind: Kind) -> Result<usize, String> {
    let fields = schema.fields();
    let names =
        || fields.iter().map(|f| format!("{} ({})", f.name(), f.data_type())).collect::<Vec<_>>().join(", ");
    let suits = |field: &Field| match kind {
        Kind::Vectors => is_list(field.data_type()),
        Kind::Ids => field.data_type().is_integer() || is_list(field.data_type()),
        Kind::Any => true,
    };
    let mut all = (0..).zip(fields);
    let (at, field) = match column {
        Some(column) => all
            .find(|(_, field)| field.name() == column)
            .ok_or_else(|| format!("expected a column `{column}`, got {}", names()))?,
        None => {
            let mut found = all.filter(|(_, field)| suits(field));
            match (found.next(), found.next()) {
                (Some(found), None) => found,
                _ => {
                    return Err(format!(
                        "expected a column's name after the file's, as in file.parquet:name, of {}",
                        names()
                    ));
                }
            }
        }
    };
    let values = match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type()
        }
        other => other,
    };
    if is_read(values) { Ok(at) } else { Err(not_read(values)) }
}

fn is_read(kind: &DataType) -> bool {
    // Of the types that are numbers, this one alone is left out: it may be bfloat16.
    *kind != DataType::UInt16 && (kind.is_integer() || kind.is_floating())
}

fn not_read(kind: &DataType) -> String {
    format!(
        "expected a column of numbers, or of lists of numbers, that are {VECTOR_TYPES} (ids: {ID_TYPES}), got {kind}: \
         cast it to float32"
    )
}

fn is_list(kind: &DataType) -> bool {
    matches!(kind, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
}

/// All rows of one-column batches, of `most` bytes in all.
fn collect(
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    most: u64,
) -> Result<Held, String> {
    let mut held = Held::default();
    for batch in batches {
        let batch = batch.map_err(|e| e.to_string())?;
        let all = held.bytes.len().saturating_add(batch.column(0).get_array_memory_size());
        if all as u64 > most {
            return Err(format!(
                "expected at most {most} bytes of values in a file of this length, got more"
            ));
        }
        append(batch.column(0), &mut held)?;
    }
    Ok(held)
}

/// The values of equally long lists, and that length.
fn items<O: OffsetSizeTrait>(lists: &GenericListArray<O>, held: &Held) -> Result<(ArrayRef, usize), String> {
    let offsets: Vec<usize> = lists.value_offsets().iter().map(|o| o.as_usize()).collect();
    let width = equal_steps(&offsets, held)?;
    Ok((lists.values().slice(offsets.first().copied().unwrap_or(0), lists.len() * width), width))
}

fn append(column: &ArrayRef, held: &mut Held) -> Result<(), String> {
    // Not row by row unless some are missing: empty lists take no bytes, and may be as many as a number says.
    if column.null_count() > 0
        && let Some(row) = (0..column.len()).find(|&row| column.is_null(row))
    {
        return Err(format!("expected a value in every row, got none in row {}", held.n_rows + row));
    }
    let n = column.len();
    let (values, width) = match column.data_type() {
        DataType::FixedSizeList(_, width) => {
            let width = usize::try_from(*width).map_err(|_| format!("expected a list size, got {width}"))?;
            (column.as_fixed_size_list().values().slice(column.offset() * width, n * width), width)
        }
        DataType::List(_) => items(column.as_list::<i32>(), held)?,
        DataType::LargeList(_) => items(column.as_list::<i64>(), held)?,
        _ => (column.clone(), 1),
    };
    if n == 0 {
        return Ok(());
    }
    // They take no bytes, and may be as many as a number says.
    if width == 0 {
        return Err(format!("expected rows of at least one value, got {n} empty rows"));
    }
    if values.null_count() > 0 {
        return Err(format!("expected numbers, got nulls in a list from row {} on", held.n_rows));
    }
    macro_rules! copy {
        ($($kind:pat => $arrow:ty, $element:expr, $convert:expr;)*) => {
            match values.data_type() {
                $($kind => {
                    held.begin($element, width)?;
                    let values: &PrimitiveArray<$arrow> = values.as_primitive();
                    held.bytes.extend(values.values().iter().flat_map(|&v| ($convert)(v).to_le_bytes()));
                })*
                other => return Err(not_read(other)),
            }
        };
    }
    #[allow(clippy::cast_possible_truncation, reason = "vectors are f32 here")]
    {
        copy! {
            DataType::Float32 => Float32Type, Element::F32, |v: f32| v;
            DataType::Float64 => Float64Type, Element::F32, |v: f64| v as f32;
            DataType::Float16 => Float16Type, Element::F16, |v: half::f16| v;
            DataType::Int8 => Int8Type, Element::I8, |v: i8| v;
            DataType::UInt8 => UInt8Type, Element::U8, |v: u8| v;
            DataType::Int16 => Int16Type, Element::I16, |v: i16| v;
            DataType::Int32 => Int32Type, Element::I32, |v: i32| v;
            DataType::UInt32 => UInt32Type, Element::U32, |v: u32| v;
            DataType::Int64 => Int64Type, Element::I64, |v: i64| v;
            DataType::UInt64 => UInt64Type, Element::U64, |v: u64| v;
        }
    }
    held.n_rows = held.n_rows.saturating_add(n);
    Ok(())
}

/// The length of every list, which is one.
fn equal_steps(offsets: &[usize], held: &Held) -> Result<usize, String> {
    let mut steps = offsets.iter().zip(offsets.iter().skip(1)).map(|(from, to)| to - from);
    let Some(width) = steps.next() else { return Ok(0) };
    match (1..).zip(steps).find(|&(_, step)| step != width) {
        Some((row, step)) => Err(format!(
            "expected lists of one length, got {step} values after {width} in row {}",
            held.n_rows + row
        )),
        None => Ok(width),
    }
}

/// Batches of a table, one fixed-size list column.
fn batches(held: &Held) -> Result<(Arc<Schema>, impl Iterator<Item = Result<RecordBatch, String>>), String> {
    let inner = match held.element {
        Element::F32 => DataType::Float32,
        Element::F16 => DataType::Float16,
        Element::F64 => DataType::Float64,
        Element::I8 => DataType::Int8,
        Element::U8 => DataType::UInt8,
        Element::I16 => DataType::Int16,
        Element::I32 => DataType::Int32,
        Element::U32 => DataType::UInt32,
        Element::I64 => DataType::Int64,
        Element::U64 => DataType::UInt64,
    };
    let item = Arc::new(Field::new_list_field(inner, false));
    let width =
        i32::try_from(held.width).map_err(|_| format!("rows of {} values are too long", held.width))?;
    let list = DataType::FixedSizeList(item.clone(), width);
    let schema = Arc::new(Schema::new(vec![Field::new(COLUMN, list, false)]));
    let row = held.width * held.element.bytes();
    let made = schema.clone();
    let each = held.bytes.chunks((BATCH * row).max(1)).map(move |bytes| {
        macro_rules! values {
            ($($element:pat => $arrow:ty, $native:ty;)*) => {
                match held.element {
                    $($element => {
                        let (values, _) = bytes.as_chunks();
                        let values = values.iter().map(|&b| <$native>::from_le_bytes(b));
                        Arc::new(PrimitiveArray::<$arrow>::from_iter_values(values)) as ArrayRef
                    })*
                }
            };
        }
        let values = values! {
            Element::F32 => Float32Type, f32;
            Element::F16 => Float16Type, half::f16;
            Element::F64 => Float64Type, f64;
            Element::I8 => Int8Type, i8;
            Element::U8 => UInt8Type, u8;
            Element::I16 => Int16Type, i16;
            Element::I32 => Int32Type, i32;
            Element::U32 => UInt32Type, u32;
            Element::I64 => Int64Type, i64;
            Element::U64 => UInt64Type, u64;
        };
        let lists =
            FixedSizeListArray::try_new(item.clone(), width, values, None).map_err(|e| e.to_string())?;
        RecordBatch::try_new(made.clone(), vec![Arc::new(lists)]).map_err(|e| e.to_string())
    });
    Ok((schema, each))
}

/// Writes a table as a Parquet file of one column, `vector`.
pub(super) fn write_parquet(held: &Held, file: &mut File) -> Result<(), String> {
    let (schema, batches) = batches(held)?;
    let mut writer = ArrowWriter::try_new(file, schema, None).map_err(|e| e.to_string())?;
    for batch in batches {
        writer.write(&batch?).map_err(|e| e.to_string())?;
    }
    writer.close().map(drop).map_err(|e| e.to_string())
}

/// Writes a table as an Arrow file of one column, `vector`.
pub(super) fn write_arrow(held: &Held, file: &mut File) -> Result<(), String> {
    let (schema, batches) = batches(held)?;
    let mut writer = arrow_ipc::writer::FileWriter::try_new(file, &schema).map_err(|e| e.to_string())?;
    for batch in batches {
        writer.write(&batch?).map_err(|e| e.to_string())?;
    }
    writer.finish().map_err(|e| e.to_string())
}
