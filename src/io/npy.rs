//! NumPy arrays: headers by the npyz crate, values read in place.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use ndarray::ArrayView2;
use npyz::{NpyHeader, Order, WriterBuilder};

use super::{
    FileError,
    table::{Element, ID_TYPES, Layout, VECTOR_TYPES},
};
use crate::{format::write_atomically, topk::NO_ID};

/// Values written together.
const TOGETHER: usize = 1 << 20;

/// Bytes of a header, at most: real ones have 128.
const HEADER_MAX: usize = 1 << 16;

/// First bytes of every NumPy array.
pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Checks that bytes begin like a NumPy array.
pub(super) fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Where the values of an `.npy` file stand.
pub(super) fn layout(bytes: &[u8]) -> Result<Layout, String> {
    let mut header_bytes = bytes.get(..HEADER_MAX).unwrap_or(bytes);
    // The length field, refused here if it points outside, since the parser allocates by it.
    let stated = match bytes.get(6..12) {
        Some([1, _, low, high, ..]) => u32::from(u16::from_le_bytes([*low, *high])),
        Some([2 | 3, _, a, b, c, d]) => u32::from_le_bytes([*a, *b, *c, *d]),
        _ => {
            return Err(format!(
                "expected a NumPy array, got {} bytes that do not begin like one",
                bytes.len()
            ));
        }
    };
    if stated as usize > header_bytes.len() {
        return Err(format!("its header claims {stated} bytes of {}", bytes.len()));
    }
    let head = if bytes.get(6) == Some(&1) { 10 } else { 12 };
    let text = bytes.get(head..head + stated as usize).unwrap_or_default();
    if text.contains(&b'[') {
        return Err("expected plain values, got a structured type".to_owned());
    }
    // A dictionary with a tuple in it: the parser's time doubles with every bracket within a bracket.
    if [b'{', b'('].iter().any(|open| text.iter().filter(|byte| *byte == open).count() > 1) {
        return Err("not a NumPy array: its header has brackets within brackets".to_owned());
    }
    let before = header_bytes.len();
    let header = NpyHeader::from_reader(&mut header_bytes).map_err(|e| format!("not a NumPy array: {e}"))?;
    let start = before - header_bytes.len();
    let kind = header.dtype().descr();
    let element = match kind.trim_matches('\'') {
        "<f4" => Element::F32,
        "<f2" => Element::F16,
        "<f8" => Element::F64,
        "|u1" | "<u1" => Element::U8,
        "|i1" | "<i1" => Element::I8,
        "<i2" => Element::I16,
        "<i4" => Element::I32,
        "<u4" => Element::U32,
        "<i8" => Element::I64,
        "<u8" => Element::U64,
        // NumPy has no bfloat16, and stores it as one of these.
        "<u2" | "<V2" | "|V2" => {
            return Err(format!(
                "{kind} may be whole numbers or bfloat16, so it is not read: save x.astype(\"float32\"), and of bfloat16 \
                 x.view(ml_dtypes.bfloat16).astype(\"float32\")"
            ));
        }
        _ => {
            return Err(format!(
                "expected little-endian {VECTOR_TYPES} (ids: {ID_TYPES}), got {kind}: save x.astype(\"float32\")"
            ));
        }
    };
    let (n_rows, width) = match *header.shape() {
        [n] => (n, 1),
        [n, d] => (n, d),
        ref other => return Err(format!("expected two dimensions, got shape {other:?}")),
    };
    if header.order() == Order::Fortran && n_rows > 1 && width > 1 {
        return Err("expected C order, got Fortran order: save np.ascontiguousarray(x)".to_owned());
    }
    let need = n_rows.checked_mul(width).and_then(|v| v.checked_mul(element.bytes() as u64));
    if need != Some((bytes.len() - start) as u64) {
        return Err(format!(
            "its header says {n_rows} rows of {width} {} values, but {} bytes follow it",
            element.name(),
            bytes.len() - start
        ));
    }
    // The product fits the file's length, so both fit a usize unless one is 0.
    let small = |v: u64| usize::try_from(v).map_err(|_| format!("{v} does not fit this machine"));
    let (n_rows, width) = (small(n_rows)?, small(width)?);
    let (stride, is_flat) = (width.saturating_mul(element.bytes()), header.shape().len() == 1);
    Ok(Layout { element, n_rows, width, start, stride, is_flat })
}

/// The header of an array, as NumPy writes version 1.
pub(super) fn header(element: Element, n_rows: usize, width: usize) -> Vec<u8> {
    let descr = match element {
        Element::F32 => "<f4",
        Element::F16 => "<f2",
        Element::F64 => "<f8",
        Element::U8 => "|u1",
        Element::I8 => "|i1",
        Element::I16 => "<i2",
        Element::I32 => "<i4",
        Element::U32 => "<u4",
        Element::I64 => "<i8",
        Element::U64 => "<u8",
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n_rows}, {width}), }}");
    // Ten bytes of magic and length stand before; values begin on a cache line.
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend(text.into_bytes());
    out
}

/// Writes ids as i64, [`NO_ID`] as −1.
///
/// # Errors
/// [`FileError::Malformed`] for an id that i64 cannot hold, [`FileError::Io`] with the system's reason; what was at the path is then unchanged.
pub fn write_ids(path: impl AsRef<Path>, ids: ArrayView2<'_, u64>) -> Result<(), FileError> {
    let wide = |id: u64| id != NO_ID && i64::try_from(id).is_err();
    if let Some(id) = ids.iter().find(|&&id| wide(id)) {
        let reason = format!("expected ids below 2⁶³, which i64 holds, got {id}");
        return Err(FileError::Malformed { path: path.as_ref().to_owned(), reason });
    }
    // NO_ID is all ones, which is −1.
    write(path.as_ref(), ids.dim(), ids.iter().map(|id| id.cast_signed()))
}

/// Writes scores as f32.
///
/// # Errors
/// As [`write_ids`].
pub fn write_scores(path: impl AsRef<Path>, scores: ArrayView2<'_, f32>) -> Result<(), FileError> {
    write(path.as_ref(), scores.dim(), scores.iter().copied())
}

/// Writes vectors as f32, `[n, width]`, some rows at a time: `fill` is given the first one's number and room for all of their values.
///
/// # Errors
/// What `fill` fails with, and those of [`write_ids`].
pub fn write_vectors<E: From<FileError>>(
    path: impl AsRef<Path>,
    (n_rows, width): (usize, usize),
    mut fill: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.as_ref();
    check_extension(path)?;
    let mut failed = None;
    let written = write_atomically(path, |file| {
        let mut out = BufWriter::new(file);
        out.write_all(&header(Element::F32, n_rows, width))?;
        let at_once = TOGETHER.div_ceil(width.max(1)).min(n_rows);
        let mut values = vec![0.0; at_once * width];
        for first in (0..n_rows).step_by(at_once.max(1)) {
            values.truncate(at_once.min(n_rows - first) * width);
            fill(first, &mut values).map_err(|e| {
                failed = Some(e);
                std::io::Error::other("no more vectors")
            })?;
            for v in &values {
                out.write_all(&v.to_le_bytes())?;
            }
        }
        out.flush()
    });
    match (failed, written) {
        (Some(e), _) => Err(e),
        (None, written) => written.map_err(|source| FileError::Io { path: path.to_owned(), source }.into()),
    }
}

fn check_extension(path: &Path) -> Result<(), FileError> {
    if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("npy")) {
        return Err(FileError::Extension { path: path.to_owned(), expected: ".npy" });
    }
    Ok(())
}

fn write<T: npyz::AutoSerialize>(
    path: &Path,
    (n_rows, width): (usize, usize),
    values: impl Iterator<Item = T>,
) -> Result<(), FileError> {
    check_extension(path)?;
    write_atomically(path, |file| {
        let mut out = npyz::WriteOptions::<T>::new()
            .default_dtype()
            .shape(&[n_rows as u64, width as u64])
            .writer(BufWriter::new(file))
            .begin_nd()?;
        out.extend(values)?;
        out.finish()
    })
    .map_err(|source| FileError::Io { path: path.to_owned(), source })
}
