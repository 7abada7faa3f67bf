//! The index: immutable once built, one image whether built or opened.

use std::{path::Path, sync::Arc};

use crate::{
    build::{IndexBuilder, ZERO_ROWS},
    codes::PqShape,
    device::{Device, DeviceError},
    format::{Image, OpenError, SaveError},
    frame::Frame,
    lists::{ListSizes, Lists},
    metric::Metric,
    rows::{REFINE_ROWS, RowStore, SCORER_ROWS},
    search::Searcher,
    spec::{IndexSpec, RowDtype},
    stage::{
        router::{Router, RouterShape},
        scorer::{
            Cnn, Pq, Rrr, Scorer,
            cnn::{self, CnnShape},
            pq,
            rrr::{self, RrrShape},
        },
        transform::Transform,
    },
    tune::{self, Tuning},
    vectors::Vectors,
};

/// A trained index: cheap to clone, shared between threads.
///
/// ```
/// use nearfield::{Device, Index, Metric, SearchParams};
/// # let base = ndarray::Array2::from_shape_fn((500, 20), |(i, j)| ((i * 37 + j * j * 13) as f32).sin());
/// let index = Index::builder("IVF8,SQ8,Refine(f32)".parse()?).metric(Metric::L2).seed(7).build(base.view())?;
/// let searcher = index.searcher(Device::auto())?;
/// let hits = searcher.search(base.view(), SearchParams::new(3).n_probe(8))?;
/// assert_eq!(hits.ids[[42, 0]], 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Index {
    model: Arc<Model>,
    tunings: Arc<[Tuning]>,
}

/// The stages of an index, viewing its image.
pub(crate) struct Model {
    pub image: Arc<Image>,
    pub spec: IndexSpec,
    pub frame: Frame,
    pub n: usize,
    pub dim: usize,
    pub seed: u64,
    pub lists: Lists,
    pub transform: Option<Transform>,
    pub router: Option<Router>,
    pub scorer: Scorer,
    pub refine: Option<RowStore>,
}

impl Model {
    /// Whether results are scored on stored rows: those of `Refine`, or untransformed ones of a scorer. Else they are scores of the
    /// stages.
    pub fn scores_rows(&self) -> bool {
        self.refine.is_some() || (self.transform.is_none() && matches!(self.scorer, Scorer::Rows(_)))
    }

    /// The metric that a scorer's own rows are scored by.
    pub fn rows_metric(&self) -> Metric {
        if self.transform.is_none() { self.frame.metric() } else { self.frame.stages() }
    }

    /// A stored row as it was given, as far as its storage keeps it; of unit length under cosine.
    pub fn given_row(&self, rows: &RowStore, row: usize) -> Vec<f32> {
        let mut x = rows.decode(row);
        self.frame.restore(&mut x);
        x
    }
}

/// Tensors that scorers read list by list: they hold every copy of a point.
const SCORED_BY_POSITION: [&str; 4] = [rrr::B, pq::CODES, cnn::POINTS, SCORER_ROWS.rows];

/// What an index consists of, for display.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Length in bytes.
    pub bytes: usize,
}

impl Index {
    /// Starts building an index.
    #[must_use]
    pub fn builder(spec: IndexSpec) -> IndexBuilder<'static> {
        IndexBuilder::new(spec)
    }

    /// Maps an index file and checks it; vectors are read when searches touch them.
    ///
    /// The file must not be changed in place while it is open. Replacing it by renaming, as [`Index::save`] does, is safe. One that
    /// has been cut short is noticed by searches that begin a hundredth of a second later, which end with an error; the system may end
    /// those in between, with the process. [`Index::load`] depends on no file.
    ///
    /// # Errors
    /// [`OpenError`] names what is wrong with the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::from_image(Image::open(path.as_ref())?)
    }

    /// Reads an index file into memory instead of mapping it: opening takes as long as reading it, and in
    /// return random rows are found faster, since the memory is in huge pages where the system has them.
    /// Files that others may truncate or change in place are safe to load.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::from_image(Image::load(path.as_ref())?)
    }

    pub(crate) fn from_image(image: Arc<Image>) -> Result<Self, OpenError> {
        let spec: IndexSpec = image.parsed("spec", "an index specification")?;
        let metric: Metric = image.parsed("metric", "ip, cosine or l2")?;
        let n: usize = image.parsed("n", "a number of points")?;
        let dim: usize = image.parsed("dim", "a number of dimensions")?;
        let seed: u64 = image.parsed("seed", "a number")?;
        let unfit = |key, expected: String| OpenError::Metadata {
            key,
            expected,
            got: image.metadata(key).map(str::to_owned),
        };
        if dim == 0 || dim > crate::spec::DIM_MAX {
            return Err(unfit("dim", format!("1 to {}", crate::spec::DIM_MAX)));
        }
        if n == 0 || n >= u32::MAX as usize {
            return Err(unfit("n", format!("1 to {}", u32::MAX - 1)));
        }
        let complete = spec.resolve(n, dim).map_err(|e| unfit("spec", e.to_string()))?;
        if complete != spec {
            return Err(unfit("spec", format!("every number written out, as in {complete}")));
        }
        let frame = Frame::open(&image, metric, dim)?;
        let metric = frame.stages();
        let s = spec.scored_dims(dim);
        let n_lists = spec.ivf.and_then(|ivf| ivf.n_lists);
        let sizes = ListSizes { n, n_lists, n_copies: spec.n_copies() };
        if sizes.n_positions() >= u32::MAX as usize {
            return Err(unfit("n", format!("at most {} in {} lists each", u32::MAX - 1, sizes.n_copies)));
        }
        let lists = Lists::open(&image, sizes)?;
        let tunings = tune::parse(image.metadata(tune::KEY), lists.len(), n)
            .ok_or_else(|| unfit(tune::KEY, "operating points of this index, as JSON".to_owned()))?;
        let transform = spec.transform.map(|transform| Transform::open(&image, transform, metric, dim, s));
        let transform = transform.transpose()?;
        let router = RouterShape::of(&spec, dim, metric);
        let router = router.map(|shape| Router::open(&image, shape)).transpose()?;
        let scorer = if let Some(shape) = RrrShape::of(&spec, dim, metric) {
            Scorer::Rrr(Rrr::open(&image, shape, metric, &lists)?)
        } else if let Some(shape) = PqShape::of(&spec, dim, metric) {
            Scorer::Pq(Pq::open(&image, shape, metric, &lists)?)
        } else if let Some(shape) = CnnShape::of(&spec, dim) {
            Scorer::Cnn(Cnn::open(&image, shape, metric, &lists)?)
        } else {
            let dtype = spec.scorer_rows().unwrap_or(RowDtype::F32);
            Scorer::Rows(RowStore::open(&image, &SCORER_ROWS, dtype, sizes.n_positions(), s)?)
        };
        let refine =
            spec.refine.map(|dtype| RowStore::open(&image, &REFINE_ROWS, dtype, n, dim)).transpose()?;
        let model = Model { image, spec, frame, n, dim, seed, lists, transform, router, scorer, refine };
        Ok(Self { model: Arc::new(model), tunings: tunings.into() })
    }

    /// Writes the index to a file, whole or not at all: what was there stays until the new file is
    /// complete and on disk.
    ///
    /// # Errors
    /// [`SaveError`] with the system's reason; the old file is then unchanged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SaveError> {
        self.model.image.save(path.as_ref(), (tune::KEY, &tune::text(&self.tunings)))
    }

    /// What tuning has measured, by k.
    #[must_use]
    pub fn tunings(&self) -> &[Tuning] {
        &self.tunings
    }

    /// The same index with a tuning more, in the place of one for the same `k` on the same kind of device. Searchers made of it
    /// know it, and so do files it is saved to.
    #[must_use]
    pub fn with_tuning(&self, tuning: Tuning) -> Self {
        let mut tunings = self.tunings.to_vec();
        tune::replace(&mut tunings, tuning);
        Self { model: self.model.clone(), tunings: tunings.into() }
    }

    /// Compares every tensor with its checksum.
    ///
    /// # Errors
    /// [`OpenError::Checksum`] names a damaged tensor.
    pub fn verify(&self) -> Result<(), OpenError> {
        self.model.image.verify()
    }

    /// A searcher on a device.
    ///
    /// # Errors
    /// [`DeviceError`] where the device asked for cannot be used.
    pub fn searcher(&self, device: Device) -> Result<Searcher, DeviceError> {
        Searcher::new(self.model.clone(), self.tunings.clone(), device)
    }

    /// The specification, with every number filled in.
    #[must_use]
    pub fn spec(&self) -> IndexSpec {
        self.model.spec
    }

    /// The metric.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.model.frame.metric()
    }

    /// Number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.model.n
    }

    /// Number of zero rows that it was built of under [`Metric::Cosine`], 0 under other metrics. They have no direction: their
    /// score is 0 for every query.
    #[must_use]
    pub fn n_zero_rows(&self) -> usize {
        self.model.image.metadata(ZERO_ROWS).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Never true: an index has at least one point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.model.n == 0
    }

    /// Dimensions of points and queries.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.model.dim
    }

    /// Number of lists; 1 without a partition.
    #[must_use]
    pub fn n_lists(&self) -> usize {
        self.model.lists.len()
    }

    /// The seed it was built with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.model.seed
    }

    /// Bytes of the index, as a file and in memory.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.model.image.bytes().len()
    }

    /// Lists that hold each point: 1, and one more for each copy that `soar` asks for.
    #[must_use]
    pub fn n_copies(&self) -> usize {
        self.model.lists.sizes().n_copies
    }

    /// Points in each list, copies included.
    #[must_use]
    pub fn list_sizes(&self) -> Vec<usize> {
        (0..self.model.lists.len()).map(|l| self.model.lists.range(l).len()).collect()
    }

    /// Bytes that one list more for each point takes, as `soar` adds them: its place, and what it is scored by there.
    #[must_use]
    pub fn copy_bytes(&self) -> usize {
        let tensors = self.model.image.tensors();
        let bytes = |name: &str| tensors.get(name).map_or(0, |place| place.bytes.len());
        let scored: usize = SCORED_BY_POSITION.map(bytes).iter().sum();
        self.len() * size_of::<u32>() + scored / self.n_copies()
    }

    /// The vectors that the index stores in f32 or f16, if it does: those of `Refine`, or of `Flat` without a reduction or
    /// copies. Rows in bytes are too far from what they were to stand for it.
    #[must_use]
    pub fn rows(&self) -> Option<StoredRows<'_>> {
        let model = &*self.model;
        let by_point = self.n_copies() == 1 && model.transform.is_none();
        let rows = match (&model.refine, &model.scorer) {
            (Some(rows), _) => rows,
            (None, Scorer::Rows(rows)) if by_point => rows,
            _ => return None,
        };
        (!rows.is_bytes()).then_some(StoredRows { model, rows })
    }

    /// The tensors of the file.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorInfo> {
        self.model
            .image
            .tensors()
            .iter()
            .map(|(name, place)| TensorInfo {
                name: name.clone(),
                dtype: format!("{:?}", place.dtype),
                shape: place.shape.clone(),
                bytes: place.bytes.len(),
            })
            .collect()
    }

    /// An entry of the file's metadata, such as `builder`.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.model.image.metadata(key)
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }
}

/// The vectors of an index as it stores them, in an order of its own.
pub struct StoredRows<'a> {
    model: &'a Model,
    rows: &'a RowStore,
}

impl StoredRows<'_> {
    /// The id of a row.
    #[must_use]
    pub fn id(&self, row: usize) -> u64 {
        self.model.lists.ids().get(u32::try_from(row).unwrap_or(u32::MAX))
    }
}

impl Vectors for StoredRows<'_> {
    fn n_rows(&self) -> usize {
        self.model.n
    }

    fn dim(&self) -> usize {
        self.model.dim
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.model.given_row(self.rows, row));
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("spec", &self.model.spec.to_string())
            .field("metric", &self.model.frame.metric())
            .field("n", &self.model.n)
            .field("dim", &self.model.dim)
            .finish_non_exhaustive()
    }
}
