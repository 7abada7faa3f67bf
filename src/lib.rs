//! Approximate nearest neighbours, fast on any machine.
//!
//! An index answers: which k of millions of vectors are nearest to this one? A query runs through four
//! stages, each named by one word of a specification such as `PCA128,IVF1024,RRR32,Refine(f16)`:
//!
//! ```text
//! query [d] ─► Transform [d→s] ─► Router: n_probe of n_lists lists ─► Scorer: approximate scores of the
//!              points in those lists ─► top n_rerank ─► Rerank: exact scores on stored vectors ─► top k
//! ```
//!
//! ```
//! use nearfield::{Device, Index, Metric, SearchParams};
//!
//! let base = ndarray::Array2::from_shape_fn((2000, 24), |(i, j)| (((i * 31 + j * 17) % 97) as f32).sin());
//! let index = Index::builder("PCA16,IVF16,RRR16,Refine(f32)".parse()?)
//!     .metric(Metric::Cosine)
//!     .seed(7)
//!     .build(base.view())?;
//! let searcher = index.searcher(Device::auto())?;
//! let hits = searcher.search(base.slice(ndarray::s![..3, ..]), SearchParams::new(10).n_probe(8))?;
//! assert_eq!(hits.ids.dim(), (3, 10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An index is one file, [saved](Index::save) atomically and [mapped](Index::open) on opening. Results are
//! always k wide: where there is no neighbour stand [`NO_ID`] and the worst score. Neighbours are ordered by
//! score, then by lower id, so that equal scores never make two runs differ.
//!
//! # Features
//! - `cli` (default): the `nearfield` command.
//! - `gpu` (default): searching on GPUs through wgpu (Vulkan, Metal, DX12).
//! - `neural`: training networks (`CNT`, `CNN`, `router=cnn`); searching with them needs nothing.
//! - `hdf5`, `arrow`: files of HDF5; of Parquet and Arrow.

#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::todo, clippy::unimplemented, clippy::unreachable)
)]

pub mod auto;
mod block;
mod build;
mod codes;
mod compress;
mod device;
pub mod eval;
mod format;
mod frame;
#[cfg(feature = "gpu")]
mod gpu;
mod index;
pub mod io;
mod lists;
mod metric;
mod network;
mod profile;
mod rows;
mod search;
mod simd;
mod spec;
mod stage;
mod topk;
mod train;
pub mod tune;
mod vectors;

pub use auto::{Auto, Trial};
pub use build::{BuildError, IndexBuilder, Plan, Progress, StageTime};
pub use compress::Compressor;
pub use device::{Device, DeviceError, DeviceInfo};
pub use format::{OpenError, SaveError, Truncated, VERSION as FORMAT_VERSION, discard_unfinished};
#[cfg(feature = "gpu")]
pub use gpu::{AdapterSummary, Gpu, GpuError, GpuOptions, Tier};
pub use index::{Index, StoredRows, TensorInfo};
pub use metric::{Metric, MetricError};
pub use profile::{KernelTime, Profile, Roof};
pub use search::{Effort, Hits, SearchError, SearchParams, Searcher};
pub use simd::Simd;
pub use spec::{
    AxesDtype, Bits, CntSizes, IndexSpec, IvfSpec, LinearMap, Milli, RouterSpec, RouterTarget, RowDtype,
    ScorerSpec, SpecError, SpillSpec, TransformSpec,
};
pub use topk::NO_ID;
pub use train::{
    inrp::{CheckpointError, Training},
    score_aware::{eta, eta_limit},
};
pub use tune::{Choice, OperatingPoint, QuerySource, Tuner, Tuning};
pub use vectors::{VectorError, Vectors};
