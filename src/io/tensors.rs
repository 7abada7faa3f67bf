//! Tensors of safetensors files, read in place.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::table::{Element, Held, ID_TYPES, Layout, VECTOR_TYPES};

/// Name of the tensor written.
const TENSOR: &str = "vectors";

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::F64 => Element::F64,
        Dtype::U8 => Element::U8,
        Dtype::I8 => Element::I8,
        Dtype::I16 => Element::I16,
        Dtype::I32 => Element::I32,
        Dtype::U32 => Element::U32,
        Dtype::I64 => Element::I64,
        Dtype::U64 => Element::U64,
        _ => return None,
    })
}

/// Where the values of a tensor of one or two dimensions stand.
pub(super) fn layout(bytes: &[u8], name: Option<&str>) -> Result<Layout, String> {
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| format!("not a safetensors file: {e}"))?;
    let tensors = metadata.tensors();
    let names = || {
        let mut names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(", ")
    };
    let info = match (name, tensors.len()) {
        (Some(name), _) => {
            tensors.get(name).ok_or_else(|| format!("expected a tensor `{name}`, got {}", names()))?
        }
        (None, 1) => tensors.values().next().ok_or("expected a tensor, got none")?,
        (None, _) => {
            return Err(format!(
                "expected a tensor's name after the file's, as in file.safetensors:name, of {}",
                names()
            ));
        }
    };
    let element = element(info.dtype).ok_or_else(|| {
        format!(
            "expected {VECTOR_TYPES} values (ids: {ID_TYPES}), got {:?}: save the tensor as float32",
            info.dtype
        )
    })?;
    let (n_rows, width) = match info.shape[..] {
        [n] => (n, 1),
        [n, d] => (n, d),
        _ => return Err(format!("expected one or two dimensions, got shape {:?}", info.shape)),
    };
    let start = header + 8 + info.data_offsets.0;
    let need = n_rows.checked_mul(width).and_then(|v| v.checked_mul(element.bytes()));
    if need.and_then(|need| start.checked_add(need)).is_none_or(|end| end > bytes.len()) {
        return Err(format!("expected {n_rows} × {width} values from byte {start} on: truncated?"));
    }
    let (stride, is_flat) = (width.saturating_mul(element.bytes()), info.shape.len() == 1);
    Ok(Layout { element, n_rows, width, start, stride, is_flat })
}

/// A table as a safetensors file of one tensor, `vectors`.
pub(super) fn file(table: &Held) -> Result<Vec<u8>, String> {
    let dtype = match table.element {
        Element::F32 => Dtype::F32,
        Element::F16 => Dtype::F16,
        Element::F64 => Dtype::F64,
        Element::U8 => Dtype::U8,
        Element::I8 => Dtype::I8,
        Element::I16 => Dtype::I16,
        Element::I32 => Dtype::I32,
        Element::U32 => Dtype::U32,
        Element::I64 => Dtype::I64,
        Element::U64 => Dtype::U64,
    };
    let view =
        TensorView::new(dtype, vec![table.n_rows, table.width], &table.bytes).map_err(|e| e.to_string())?;
    safetensors::serialize([(TENSOR, view)], None).map_err(|e| e.to_string())
}
