//! From one file of vectors or ids to another.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use half::f16;

use super::{
    EXTENSIONS, FileError, npy,
    table::{self, Element, Held, Kind, Table},
    tensors,
};
use crate::format::write_atomically;

/// A value on its way from one type to another.
#[derive(Clone, Copy)]
enum Value {
    Float(f64),
    Integer(i128),
}

impl Value {
    fn read(element: Element, b: &[u8]) -> Self {
        macro_rules! number {
            ($kind:ident, $native:ty, $wide:ty) => {
                Self::$kind(<$wide>::from(
                    b.try_into().map_or(<$native>::default(), <$native>::from_le_bytes),
                ))
            };
        }
        match element {
            Element::F32 => number!(Float, f32, f64),
            Element::F16 => number!(Float, f16, f64),
            Element::F64 => number!(Float, f64, f64),
            Element::U8 => number!(Integer, u8, i128),
            Element::I8 => number!(Integer, i8, i128),
            Element::I16 => number!(Integer, i16, i128),
            Element::I32 => number!(Integer, i32, i128),
            Element::U32 => number!(Integer, u32, i128),
            Element::I64 => number!(Integer, i64, i128),
            Element::U64 => number!(Integer, u64, i128),
        }
    }

    /// Appends it as another type, if that holds it: floats are rounded, integers must be whole and in range.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "rounding to floats is what is asked for; whole numbers are far below 2¹²⁷"
    )]
    fn write(self, element: Element, out: &mut Vec<u8>) -> Option<()> {
        let float = match self {
            Self::Float(v) => v,
            Self::Integer(v) => v as f64,
        };
        let whole = match self {
            Self::Float(v) => (v.fract() == 0.0 && v.abs() < 1e30).then_some(v as i128),
            Self::Integer(v) => Some(v),
        };
        // What is finite stays finite.
        let kept = |rounded: f64| rounded.is_finite() || !float.is_finite();
        macro_rules! integer {
            ($native:ty) => {
                out.extend(<$native>::try_from(whole?).ok()?.to_le_bytes())
            };
        }
        match element {
            Element::F32 if kept(f64::from(float as f32)) => out.extend((float as f32).to_le_bytes()),
            Element::F16 if kept(f16::from_f64(float).to_f64()) => {
                out.extend(f16::from_f64(float).to_le_bytes())
            }
            Element::F32 | Element::F16 => return None,
            Element::F64 => out.extend(float.to_le_bytes()),
            Element::U8 => integer!(u8),
            Element::I8 => integer!(i8),
            Element::I16 => integer!(i16),
            Element::I32 => integer!(i32),
            Element::U32 => integer!(u32),
            Element::I64 => integer!(i64),
            Element::U64 => integer!(u64),
        }
        Some(())
    }

    fn text(self) -> String {
        match self {
            Self::Float(v) => v.to_string(),
            Self::Integer(v) => v.to_string(),
        }
    }
}

/// The one type that a format holds, of those with one.
fn only(extension: &str) -> Option<Element> {
    Some(match extension {
        "fvecs" | "fbin" => Element::F32,
        "bvecs" | "u8bin" => Element::U8,
        "i8bin" => Element::I8,
        "ivecs" | "ibin" => Element::I32,
        _ => return None,
    })
}

/// Writes the vectors or ids of a file, or of the part of it behind a colon, to another, whose extension says how; returns
/// rows, values a row and their type. `dtype`: the type to write, `f32` for instance; without it the type that the format
/// has, or else that of the values. `step` is called with (done, total) rows.
///
/// # Errors
/// [`FileError`] names the file, and the first value that the type does not hold; what was at `to` is then unchanged.
pub fn convert(
    from: &Path,
    to: &Path,
    dtype: Option<&str>,
    step: &dyn Fn(u64, u64),
) -> Result<(usize, usize, &'static str), FileError> {
    let table = Table::open(from, Kind::Any, EXTENSIONS)?;
    let extension = to.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if !table::lists(EXTENSIONS, &extension) {
        return Err(FileError::Extension { path: to.to_owned(), expected: EXTENSIONS });
    }
    let malformed = |path: &Path, reason: String| FileError::Malformed { path: path.to_owned(), reason };
    let asked = match dtype {
        None => None,
        Some(name) => {
            let names = || Element::ALL.map(Element::name).join(", ");
            let found = Element::ALL.into_iter().find(|element| element.name() == name);
            Some(found.ok_or_else(|| malformed(to, format!("expected a type of {}, got {name}", names())))?)
        }
    };
    let element = match (only(&extension), asked) {
        (Some(only), Some(asked)) if only != asked => {
            let reason = format!("a .{extension} file holds {}, got {}", only.name(), asked.name());
            return Err(malformed(to, reason));
        }
        (Some(only), _) => only,
        (None, asked) => asked.unwrap_or(table.element),
    };
    let rows = |put: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| -> std::io::Result<()> {
        let mut out = Vec::new();
        for row in 0..table.n_rows {
            let bytes = table.row(row);
            if element == table.element {
                put(bytes)?;
            } else {
                out.clear();
                for (column, value) in bytes.chunks_exact(table.element.bytes()).enumerate() {
                    let value = Value::read(table.element, value);
                    value.write(element, &mut out).ok_or_else(|| {
                        let name = element.name();
                        let text = value.text();
                        std::io::Error::other(format!(
                            "row {row}, column {column}: {name} does not hold {text}"
                        ))
                    })?;
                }
                put(&out)?;
            }
            if row % 1024 == 0 || row + 1 == table.n_rows {
                step(row as u64 + 1, table.n_rows as u64);
            }
        }
        Ok(())
    };
    let word =
        |v: usize| u32::try_from(v).map_err(|_| std::io::Error::other(format!("{v} does not fit 32 bits")));
    let held = || -> std::io::Result<Held> {
        let mut bytes = Vec::new();
        rows(&mut |row| {
            bytes.extend_from_slice(row);
            Ok(())
        })?;
        Ok(Held { element, n_rows: table.n_rows, width: table.width, bytes, is_flat: false })
    };
    write_atomically(to, |file: &mut File| {
        let mut out = BufWriter::new(&mut *file);
        match extension.as_str() {
            "npy" => out.write_all(&npy::header(element, table.n_rows, table.width))?,
            "fvecs" | "bvecs" | "ivecs" => {
                let width = word(table.width)?.to_le_bytes();
                rows(&mut |row| {
                    out.write_all(&width)?;
                    out.write_all(row)
                })?;
                return out.flush();
            }
            "fbin" | "u8bin" | "i8bin" | "ibin" => {
                out.write_all(&word(table.n_rows)?.to_le_bytes())?;
                out.write_all(&word(table.width)?.to_le_bytes())?;
            }
            container => {
                drop(out);
                return write_container(container, &held()?, file).map_err(std::io::Error::other);
            }
        }
        rows(&mut |row| out.write_all(row))?;
        out.flush()
    })
    .map_err(|source| match source.kind() {
        // Not the system's: a value that the type does not hold, a feature that is not there.
        std::io::ErrorKind::Other => malformed(to, source.to_string()),
        _ => FileError::Io { path: to.to_owned(), source },
    })?;
    Ok((table.n_rows, table.width, element.name()))
}

fn write_container(extension: &str, held: &Held, file: &mut File) -> Result<(), String> {
    match extension {
        #[cfg(feature = "arrow")]
        "parquet" => super::columns::write_parquet(held, file),
        #[cfg(feature = "arrow")]
        "arrow" | "feather" | "ipc" => super::columns::write_arrow(held, file),
        #[cfg(not(feature = "arrow"))]
        "parquet" | "arrow" | "feather" | "ipc" => Err(super::table::lacks("arrow")),
        #[cfg(feature = "hdf5")]
        "hdf5" | "h5" => super::hdf5::write(held, file),
        #[cfg(not(feature = "hdf5"))]
        "hdf5" | "h5" => Err(super::table::lacks("hdf5")),
        _ => file.write_all(&tensors::file(held)?).map_err(|e| e.to_string()),
    }
}
