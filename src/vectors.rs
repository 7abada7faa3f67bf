//! Where vectors come from: an array in memory, or a mapped file.

use ndarray::ArrayView2;

/// Rows of equal length, read one at a time as f32.
///
/// Builders read through this trait, so that a file of bytes or half-precision numbers is never held in
/// memory as f32.
pub trait Vectors: Sync {
    /// Number of rows.
    fn n_rows(&self) -> usize;

    /// Values a row.
    fn dim(&self) -> usize;

    /// Copies row `row` to `out`, which holds [`Vectors::dim`] values.
    fn read(&self, row: usize, out: &mut [f32]);
}

impl Vectors for ArrayView2<'_, f32> {
    fn n_rows(&self) -> usize {
        self.nrows()
    }

    fn dim(&self) -> usize {
        self.ncols()
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        let row = self.row(row);
        match row.as_slice() {
            Some(row) => out.copy_from_slice(row),
            None => row.iter().zip(out).for_each(|(v, out)| *out = *v),
        }
    }
}

/// Some rows of vectors.
pub(crate) struct Rows<'v> {
    pub vectors: &'v dyn Vectors,
    pub rows: Vec<usize>,
}

impl Vectors for Rows<'_> {
    fn n_rows(&self) -> usize {
        self.rows.len()
    }

    fn dim(&self) -> usize {
        self.vectors.dim()
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        self.vectors.read(self.rows[row], out);
    }
}

impl<T: Vectors + ?Sized> Vectors for &T {
    fn n_rows(&self) -> usize {
        (**self).n_rows()
    }

    fn dim(&self) -> usize {
        (**self).dim()
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        (**self).read(row, out);
    }
}

/// Rows that no index or query may contain.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// There is no row.
    #[error("{what}: expected at least one row, got none")]
    Empty {
        /// Which vectors.
        what: &'static str,
    },
    /// Rows have no values, or too many.
    #[error("{what}: expected 1 to {} dimensions, got {got}", crate::spec::DIM_MAX)]
    DimRange {
        /// Which vectors.
        what: &'static str,
        /// Dimensions given.
        got: usize,
    },
    /// Rows are not as long as they should be.
    #[error("{what}: expected {expected} dimensions, got {got}")]
    DimMismatch {
        /// Which vectors.
        what: &'static str,
        /// Dimensions of the base or index.
        expected: usize,
        /// Dimensions given.
        got: usize,
    },
    /// A value is NaN, infinite, or so large that its square is.
    #[error("{what}: expected finite values up to 1e15, got {value} in row {row}, column {column}")]
    NotFinite {
        /// Which vectors.
        what: &'static str,
        /// Row.
        row: usize,
        /// Column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A value does not fit half precision.
    #[error("Refine(f16) holds values up to 65504, got {value} in column {column}: use Refine(f32)")]
    HalfRange {
        /// Column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// Most values are below what half precision resolves.
    #[error(
        "Refine(f16) holds magnitudes from 6e-5 on, got {largest} or so: use Refine(f32) or scale the vectors"
    )]
    HalfUnderflow {
        /// Magnitude of most values.
        largest: f32,
    },
    /// The file of the transform that they were to go through was cut short while open.
    #[error(transparent)]
    Truncated(#[from] crate::format::Truncated),
}

/// Largest magnitude accepted: with it, (q − x)² summed over 65 536 dimensions is at most
/// 4e30 · 65 536 = 2.6e35, below f32's 3.4e38.
const MAGNITUDE_MAX: f32 = 1e15;

/// Checks one row.
pub(crate) fn check_row(what: &'static str, row: usize, values: &[f32]) -> Result<(), VectorError> {
    // `<=` is false for NaN. Counted without a branch, so that compilers turn it into vectors.
    let good: u32 = values.iter().map(|v| u32::from(v.abs() <= MAGNITUDE_MAX)).sum();
    if good as usize != values.len() {
        let bad = |v: &f32| v.is_nan() || v.abs() > MAGNITUDE_MAX;
        let column = values.iter().position(bad).unwrap_or_default();
        return Err(VectorError::NotFinite { what, row, column, value: values[column] });
    }
    Ok(())
}

/// Checks the shape of a set of vectors; `expected`: the dimensions they must have.
pub(crate) fn check_shape(
    what: &'static str,
    n_rows: usize,
    dim: usize,
    expected: Option<usize>,
) -> Result<(), VectorError> {
    if n_rows == 0 {
        return Err(VectorError::Empty { what });
    }
    if let Some(expected) = expected
        && expected != dim
    {
        return Err(VectorError::DimMismatch { what, expected, got: dim });
    }
    if dim == 0 || dim > crate::spec::DIM_MAX {
        return Err(VectorError::DimRange { what, got: dim });
    }
    Ok(())
}
