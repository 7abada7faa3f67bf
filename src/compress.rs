//! Transforms by themselves: vectors compressed for any other library.
//!
//! A [`Compressor`] reduces vectors as an index of the same specification would. What comes out is compared as the vectors
//! themselves are; distances stay about what they were (with `PCA` shorter). With [`Metric::Ip`] and [`Metric::Cosine`] lengths stay
//! exactly so, but for `PCA` where a sample of queries finds less that way.

use std::{io::Write, path::Path};

use ndarray::Array2;
use rayon::prelude::*;

use crate::{
    build::{BuildError, IndexBuilder},
    format::{Image, OpenError, SaveError, write_atomically},
    frame::Frame,
    index::Index,
    metric::Metric,
    spec::TransformSpec,
    stage::transform::{Transform, train::Trained},
    vectors::{VectorError, Vectors, check_row, check_shape},
};

/// Rows compressed together.
const CHUNK: usize = 256;

/// What vectors are called in errors.
const VECTORS: &str = "vectors";

/// A transform by itself, which compresses base vectors and, later, the queries that are compared with them.
///
/// ```
/// use nearfield::{Compressor, Index, Metric};
/// # let base = ndarray::Array2::from_shape_fn((500, 20), |(i, j)| ((i * 37 + j * j * 13) as f32).sin());
/// let builder = Index::builder("LIN5,Flat".parse()?).metric(Metric::L2);
/// let compressor = builder.compressor(base.view())?;
/// let small = compressor.compress(&base.view())?;
/// assert_eq!(small.dim(), (500, 5));
///
/// // Queries must go through the same transform.
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("lin.nf");
/// # let queries = base.slice(ndarray::s![..7, ..]);
/// compressor.save(&path)?;
/// let small_queries = Compressor::open(&path)?.compress(&queries)?;
/// assert_eq!(small_queries, small.slice(ndarray::s![..7, ..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Compressor {
    trained: Trained,
    spec: TransformSpec,
    frame: Frame,
}

impl IndexBuilder<'_> {
    /// Finds the specification's transform alone, as [`IndexBuilder::build`] would; the other stages do not matter.
    ///
    /// # Errors
    /// [`BuildError::NoTransform`] where there is none, else as [`IndexBuilder::build`].
    pub fn compressor(self, base: impl Vectors) -> Result<Compressor, BuildError> {
        let (contents, _) = self.check(&base)?;
        let spec = contents.spec.transform.ok_or(BuildError::NoTransform)?;
        // Compressed vectors are compared by the metric, which a part that only points lack would change.
        let frame =
            if contents.frame.is_even() { contents.frame } else { Frame::plain(contents.frame.metric()) };
        let trained = self.find(spec, &base, &frame)?;
        Ok(Compressor { trained, spec, frame })
    }
}

impl Compressor {
    /// The transform of an index, if it has one that does the same to points and queries: not where an index for products holds
    /// points without their common part.
    #[must_use]
    pub fn of_index(index: &Index) -> Option<Self> {
        let model = index.model();
        let frame = Some(&model.frame).filter(|frame| frame.is_even())?.clone();
        let (spec, metric, d) = (model.spec.transform?, frame.stages(), model.dim);
        let transform = Transform::open(&model.image, spec, metric, d, model.spec.scored_dims(d)).ok()?;
        Some(Self { trained: Trained::new(model.image.clone(), transform), spec, frame })
    }

    /// Reads a file that [`Compressor::save`] has written, and compares it with its checksums, or the transform of an index.
    ///
    /// # Errors
    /// [`OpenError`] names what is wrong with the file, or that it holds no transform.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let image = Image::open(path.as_ref())?;
        if image.metadata("transform").is_some() {
            image.verify()?;
            let (trained, spec, metric) = Trained::open(image.clone())?;
            let frame = Frame::open(&image, metric, trained.transform.d())?;
            return Ok(Self { trained, spec, frame });
        }
        let index = Index::from_image(image)?;
        Self::of_index(&index).ok_or_else(|| OpenError::Metadata {
            key: "spec",
            expected: "an index with a transform, for points and queries alike".to_owned(),
            got: Some(index.spec().to_string()),
        })
    }

    /// Writes the transform to a file of its own, whole or not at all.
    ///
    /// # Errors
    /// [`SaveError`] with the system's reason; what was at the path is then unchanged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SaveError> {
        let path = path.as_ref();
        let image = self.trained.alone(self.spec, &self.frame);
        image
            .and_then(|image| write_atomically(path, |file| file.write_all(image.bytes())))
            .map_err(|source| SaveError { path: path.to_owned(), source })
    }

    /// The transform.
    #[must_use]
    pub fn spec(&self) -> TransformSpec {
        self.spec
    }

    /// The metric that it was found for.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.frame.metric()
    }

    /// Dimensions of vectors before.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.trained.transform.d()
    }

    /// Dimensions of vectors after.
    #[must_use]
    pub fn compressed_dim(&self) -> usize {
        self.trained.transform.s()
    }

    /// Tensors of the file that it was read from, or would be written to.
    #[must_use]
    pub fn n_tensors(&self) -> usize {
        let frame = self.frame.declare();
        Transform::declare(self.spec, self.dim(), self.compressed_dim()).into_iter().chain(frame).count()
    }

    /// How it was trained, where it was: steps, and the loss on rows held out, before and after.
    #[must_use]
    pub fn training(&self) -> Option<&str> {
        self.trained.training()
    }

    /// Compresses vectors `[n, d]` to `[n, s]`, on rayon's current thread pool. Under [`Metric::Cosine`] they are scaled to unit length
    /// first.
    ///
    /// # Errors
    /// [`VectorError`] names what is wrong with the vectors.
    pub fn compress(&self, vectors: &dyn Vectors) -> Result<Array2<f32>, VectorError> {
        let n = vectors.n_rows();
        let mut out = Array2::zeros((n, self.compressed_dim()));
        self.compress_rows(vectors, 0, out.as_slice_mut().unwrap_or_default())?;
        Ok(out)
    }

    /// Compresses rows from `first` on into `out`, `[rows, s]`: as many whole ones as there is room for, and as there are.
    ///
    /// # Errors
    /// As [`Compressor::compress`].
    pub fn compress_rows(
        &self,
        vectors: &dyn Vectors,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), VectorError> {
        let (d, s) = (self.dim(), self.compressed_dim());
        check_shape(VECTORS, vectors.n_rows(), vectors.dim(), Some(d))?;
        self.trained.image.check_length()?;
        let n = (out.len() / s).min(vectors.n_rows().saturating_sub(first));
        let out = &mut out[..n * s];
        let pieces: Vec<Result<(), VectorError>> = out
            .par_chunks_mut(CHUNK * s)
            .enumerate()
            .map_init(Vec::new, |rows, (chunk, out)| {
                let from = first + chunk * CHUNK;
                rows.resize(out.len() / s * d, 0.0);
                for (i, row) in rows.chunks_exact_mut(d).enumerate() {
                    vectors.read(from + i, row);
                    check_row(VECTORS, from + i, row)?;
                    self.frame.point(row);
                }
                self.trained.reduce(rows, out);
                Ok(())
            })
            .collect();
        pieces.into_iter().collect()
    }
}
