//! What an index file holds, known before it is built but for the sizes of its lists.

use std::collections::BTreeMap;

use crate::{
    codes::PqShape,
    format::{TensorDecl, VERSION},
    frame::Frame,
    lists::{ListSizes, Lists},
    rows::{REFINE_ROWS, RowStore, SCORER_ROWS},
    spec::IndexSpec,
    stage::{
        router::{Router, RouterShape},
        scorer::{Pq, cnn::CnnShape, rrr::RrrShape},
        transform::Transform,
    },
};

/// Everything that decides the tensors and the metadata.
pub(crate) struct Contents {
    /// Resolved.
    pub spec: IndexSpec,
    /// What the stages see.
    pub frame: Frame,
    /// Length above which rows have a scale of their own in sq8, where some are longer.
    pub limit: Option<f32>,
    /// Half precision holds the vectors.
    pub fits_half: bool,
    pub n: usize,
    pub d: usize,
    pub seed: u64,
    /// Ids are row numbers.
    pub plain_ids: bool,
    /// Some id needs 64 bits.
    pub wide_ids: bool,
    /// Rows that are all zeros.
    pub n_zero_rows: usize,
}

/// FORMAT: Metadata. The entry of the number of zero rows under cosine.
pub(crate) const ZERO_ROWS: &str = "zero_rows";

impl Contents {
    /// Dimensions that router and scorer see.
    pub fn s(&self) -> usize {
        self.spec.scored_dims(self.d)
    }

    /// How many points, lists and copies there are.
    pub fn sizes(&self) -> ListSizes {
        let n_lists = self.spec.ivf.and_then(|ivf| ivf.n_lists);
        ListSizes { n: self.n, n_lists, n_copies: self.spec.n_copies() }
    }

    /// The tensors for lists that hold so many positions each.
    pub fn declare(&self, list_sizes: impl Iterator<Item = usize> + Clone) -> Vec<TensorDecl> {
        let (sizes, s) = (self.sizes(), self.s());
        let mut decls = Lists::declare(sizes, self.plain_ids, self.wide_ids);
        let metric = self.frame.stages();
        decls.extend(self.frame.declare());
        if let Some(transform) = self.spec.transform {
            decls.extend(Transform::declare(transform, self.d, s));
        }
        if let Some(router) = RouterShape::of(&self.spec, self.d, metric) {
            decls.extend(Router::declare(router));
        }
        if let Some(shape) = RrrShape::of(&self.spec, self.d, metric) {
            decls.extend(shape.declare(list_sizes));
        } else if let Some(shape) = PqShape::of(&self.spec, self.d, metric) {
            decls.extend(Pq::declare(shape, list_sizes));
        } else if let Some(shape) = CnnShape::of(&self.spec, self.d) {
            decls.extend(shape.declare(list_sizes));
        } else if let Some(dtype) = self.spec.scorer_rows() {
            decls.extend(RowStore::declare(
                &SCORER_ROWS,
                dtype,
                sizes.n_positions(),
                s,
                self.limit.is_some(),
            ));
        }
        if let Some(dtype) = self.spec.refine {
            decls.extend(RowStore::declare(&REFINE_ROWS, dtype, self.n, self.d, self.limit.is_some()));
        }
        decls
    }

    /// The entries of the header beside checksums.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let version = if self.limit.is_some() { VERSION } else { self.frame.version() };
        let entries = [
            ("format", "nearfield".to_owned()),
            ("version", version.to_string()),
            ("builder", concat!("nearfield ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("spec", self.spec.to_string()),
            ("metric", self.frame.metric().to_string()),
            ("n", self.n.to_string()),
            ("dim", self.d.to_string()),
            ("seed", self.seed.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let zeros = self.frame.metric().normalises() && self.n_zero_rows > 0;
        let zeros = zeros.then(|| (ZERO_ROWS.to_owned(), self.n_zero_rows.to_string()));
        entries.into_iter().chain(self.frame.metadata()).chain(zeros).collect()
    }
}
