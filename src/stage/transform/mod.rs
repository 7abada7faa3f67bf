//! Transform: vectors of `d` dimensions to `s` that keep what matters between them.
//!
//! | | what | found so as to keep |
//! |---|---|---|
//! | `PCA` | linear, principal axes | products, with the least squared error |
//! | `LIN` | linear, trained (`train/inrp`) | distances |
//! | `SRP` | linear, random | distances |
//! | `CNT` | a network of attention, trained (`train/inrp`) | distances |
//!
//! Under ip and cosine lengths are kept besides: what comes out is scaled to the length of what went in. Distances and products then
//! say the same, `2⟨x, y⟩ = ‖x‖² + ‖y‖² − ‖x − y‖²`, and later stages go on with products. (115 659 unit rows of 384 dimensions
//! reduced to 96 by PCA: the nearest by product was the true one for 57 of 100 queries without this, for 67 with it.) Under l2
//! nothing is scaled. Of PCA, points alone are, for the length of a query has no effect on their order, and only where a sample of
//! queries finds more that way: points may be short along its axes for good reason, above all where these are those of queries of
//! another kind, or where lengths differ.

pub(crate) mod cnt;
pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod linear;
pub(crate) mod reference;
pub(crate) mod train;

use std::sync::Arc;

use self::{cnt::Cnt, linear::Linear};
use crate::{
    format::{Image, OpenError, TensorDecl},
    metric::Metric,
    profile::Cost,
    spec::{LinearMap, TransformSpec},
};

/// The transform of an index.
pub(crate) struct Transform {
    kind: Kind,
    spec: TransformSpec,
    d: usize,
    s: usize,
    scales_queries: bool,
}

enum Kind {
    Linear(Linear),
    Cnt(Cnt),
}

/// Whether queries are scaled to the length that they had.
pub(crate) fn scales_queries(spec: TransformSpec, metric: Metric) -> bool {
    let is_pca = matches!(spec, TransformSpec::Linear { map: LinearMap::Pca, .. });
    !is_pca && !metric.is_l2()
}

/// The share of a vector's energy below which what comes out is mostly rounding, and is not scaled: 2⁻¹², a 64th of the length. Axes in
/// int8 leave up to 2⁻¹⁶ of a vector at right angles to all of them, in f16 2⁻²⁶.
pub(crate) const NOTHING_LEFT: f32 = 1.0 / 4096.0;

/// Products that a vector takes.
pub(crate) fn n_products(spec: TransformSpec, d: usize, s: usize) -> usize {
    match spec {
        TransformSpec::Linear { .. } => d * s,
        TransformSpec::Cnt { sizes, .. } => cnt::Shape::new(d, s, sizes).n_products(),
    }
}

/// Bytes that training holds beside rows and a linear map.
pub(crate) fn training_bytes(spec: TransformSpec, d: usize, s: usize) -> usize {
    match spec {
        TransformSpec::Linear { .. } => 0,
        TransformSpec::Cnt { sizes, .. } => cnt::Shape::new(d, s, sizes).training_bytes(),
    }
}

impl Transform {
    /// The tensors of a transform from `d` to `s` dimensions.
    pub fn declare(spec: TransformSpec, d: usize, s: usize) -> Vec<TensorDecl> {
        match spec {
            TransformSpec::Linear { dtype, .. } => Linear::declare(d, s, dtype),
            TransformSpec::Cnt { sizes, .. } => Cnt::declare(cnt::Shape::new(d, s, sizes)),
        }
    }

    /// Reads the tensors.
    pub fn open(
        image: &Arc<Image>,
        spec: TransformSpec,
        metric: Metric,
        d: usize,
        s: usize,
    ) -> Result<Self, OpenError> {
        let kind = match spec {
            TransformSpec::Linear { dtype, .. } => Kind::Linear(Linear::open(image, d, s, dtype)?),
            TransformSpec::Cnt { sizes, .. } => Kind::Cnt(Cnt::open(image, cnt::Shape::new(d, s, sizes))?),
        };
        Ok(Self { kind, spec, d, s, scales_queries: scales_queries(spec, metric) })
    }

    /// Dimensions of what goes in.
    pub fn d(&self) -> usize {
        self.d
    }

    /// Dimensions of what comes out.
    pub fn s(&self) -> usize {
        self.s
    }

    /// Bytes that a query reads.
    pub fn n_bytes(&self) -> usize {
        match &self.kind {
            Kind::Linear(linear) => linear.n_bytes(),
            Kind::Cnt(cnt) => cnt.n_bytes(),
        }
    }

    /// Whether its arithmetic is in floats.
    pub fn is_float(&self) -> bool {
        !matches!(&self.kind, Kind::Linear(linear) if linear.is_int8())
    }

    /// What it takes to reduce queries that share the reading of the weights.
    pub fn cost(&self, n_queries: usize) -> Cost {
        Cost::of(self.n_bytes(), 2 * n_queries * n_products(self.spec, self.d, self.s))
    }
}
