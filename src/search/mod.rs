//! Searching: parameters in, the k nearest out.
//!
//! A [`Searcher`] runs the four stages on one backend. It is shared between threads: each call borrows the
//! scratch memory it needs from a pool and gives it back.

mod cpu;
#[cfg(feature = "gpu")]
mod gpu;
mod memory;
mod reference;

use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array2, ArrayView2};

pub(crate) use self::memory::Memory;
#[cfg(feature = "gpu")]
use crate::gpu::{Gpu, GpuError};
use crate::{
    device::{Device, DeviceError, DeviceInfo},
    format::Truncated,
    index::Model,
    profile::Profile,
    simd::Simd,
    topk::NO_ID,
    tune::{self, Choice, Tuning},
    vectors::{VectorError, Vectors, check_row, check_shape},
};

/// How to search.
///
/// Lists probed and candidates reranked trade speed for recall; both have defaults that suit a first try.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchParams {
    /// Neighbours a query; more than there are points is allowed, missing places are marked.
    pub k: usize,
    /// Lists read a query, at most all; `None` is one list in 32, at least 8 and as many as hold `k` points, or more where
    /// tuning says so: see [`Searcher::effort`].
    pub n_probe: Option<usize>,
    /// Candidates scored exactly, at least `k`; `None` is `5·k`, at least 50, or more where tuning says so.
    pub n_rerank: Option<usize>,
    /// Threads for a batch: 0 takes rayon's current pool, 1 stays on the calling thread.
    pub threads: usize,
    /// Recall to reach, in the place of `n_probe` and `n_rerank`: see [`SearchParams::recall`].
    pub recall: Option<f64>,
}

impl SearchParams {
    /// The `k` nearest, with default effort, on rayon's current pool.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self { k, n_probe: None, n_rerank: None, threads: 0, recall: None }
    }

    /// Lists read a query.
    #[must_use]
    pub fn n_probe(mut self, n_probe: usize) -> Self {
        self.n_probe = Some(n_probe);
        self
    }

    /// Candidates scored exactly.
    #[must_use]
    pub fn n_rerank(mut self, n_rerank: usize) -> Self {
        self.n_rerank = Some(n_rerank);
        self
    }

    /// Recall to reach, above 0 and at most 1: the fastest effort that reached it when the index was tuned
    /// ([`crate::Tuner`], `nearfield tune`). [`Searcher::choose`] says which that is.
    #[must_use]
    pub fn recall(mut self, recall: f64) -> Self {
        self.recall = Some(recall);
        self
    }

    /// Threads for a batch.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }
}

impl SearchParams {
    /// The effort for an index of `n_lists` lists, of which any `n_filling` hold `k` points, and `n` points; `reranks`: it stores rows.
    fn filled_in(&self, n_lists: usize, n_filling: usize, n: usize, reranks: bool) -> Effort {
        let n_probe = self.n_probe.unwrap_or_else(|| (n_lists / 32).max(8).max(n_filling)).min(n_lists);
        let n_rerank = if reranks {
            self.n_rerank.unwrap_or_else(|| self.k.saturating_mul(5).max(50)).max(self.k)
        } else {
            self.k
        };
        Effort { n_probe, n_rerank: n_rerank.min(n) }
    }
}

/// Numbers that a search really uses: defaults filled in, values clamped to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Lists read a query.
    pub n_probe: usize,
    /// Candidates that survive scoring: reranked if rows are stored, returned as they are if not.
    pub n_rerank: usize,
}

/// The neighbours of a batch of queries, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    /// Ids, `[n_queries, k]`; [`NO_ID`] where there is no neighbour.
    pub ids: Array2<u64>,
    /// Scores, `[n_queries, k]`: larger is better for products, smaller for l2; the worst there is where
    /// there is no neighbour.
    pub scores: Array2<f32>,
}

/// A search that cannot be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The queries do not fit the index.
    #[error(transparent)]
    Queries(#[from] VectorError),
    /// A number is zero that may not be.
    #[error("{name}: expected at least 1, got 0")]
    Zero {
        /// The parameter.
        name: &'static str,
    },
    /// The result would not fit in memory.
    #[error(
        "k: expected a result of at most {limit} places that fits in memory, got {n_queries} queries of {k} neighbours"
    )]
    TooLarge {
        /// Places allowed.
        limit: usize,
        /// Queries.
        n_queries: usize,
        /// Neighbours asked for.
        k: usize,
    },
    /// No thread pool could be made.
    #[error("threads: {0}")]
    Threads(String),
    /// A recall that cannot be.
    #[error("recall: expected a number above 0, at most 1, got {given}")]
    RecallRange {
        /// The recall given.
        given: String,
    },
    /// A recall beside the numbers that it stands for.
    #[error("recall: expected it without {name}, which it stands for")]
    RecallAndEffort {
        /// The number given.
        name: &'static str,
    },
    /// Nothing is known of the recall of `k` neighbours.
    #[error("recall: expected an index tuned for k = {k} or more, {}", tuned_for(*tuned))]
    NotTuned {
        /// Neighbours asked for.
        k: usize,
        /// The largest `k` it was tuned for.
        tuned: Option<usize>,
    },
    /// More than the index reaches.
    #[error(
        "recall: expected at most {best}, the best that tuning for k = {k} found, got {given}; `nearfield tune` may find more"
    )]
    RecallTooHigh {
        /// The recall given.
        given: String,
        /// The best there is.
        best: String,
        /// Neighbours tuned for.
        k: usize,
    },
    /// The index file has become shorter since it was opened.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The GPU failed, or is gone.
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The device has no clock.
    #[error("profile: {0} does not tell where its time goes; the CPU does, and GPUs with timestamp queries")]
    NoProfile(String),
}

fn tuned_for(tuned: Option<usize>) -> String {
    match tuned {
        Some(k) => format!("this one is for up to {k}: run `nearfield tune` with the larger k"),
        None => "this one is not tuned: run `nearfield tune`".to_owned(),
    }
}

/// Places of one result, at most: 12 GiB of ids and scores. Beyond it a wrong `k` is likelier than a wish.
const PLACES_MAX: usize = 1 << 30;

/// Places of a result of `n` queries, if one may be so large.
fn places(n: usize, k: usize) -> Option<usize> {
    n.checked_mul(k).filter(|&places| places <= PLACES_MAX)
}

/// An array of `value`, or nothing where memory does not suffice.
pub(crate) fn filled<T: Clone>(n: usize, k: usize, value: T) -> Option<Array2<T>> {
    let places = places(n, k)?;
    let mut values = Vec::new();
    values.try_reserve_exact(places).ok()?;
    values.resize(places, value);
    Array2::from_shape_vec((n, k), values).ok()
}

/// Runs searches of one index on one device.
///
/// Batches are spread over threads, and on a thread go through the stages together; a single query runs on the calling
/// thread. Which way changes the speed, never the answer.
pub struct Searcher {
    model: Arc<Model>,
    tunings: Arc<[Tuning]>,
    backend: Backend,
    device: DeviceInfo,
    scratch: Mutex<Vec<cpu::Scratch>>,
}

/// How a searcher runs its stages.
enum Backend {
    Host(Host),
    #[cfg(feature = "gpu")]
    Gpu(Box<gpu::GpuSearcher>),
}

/// Backends that take queries piece by piece, on any number of threads.
#[derive(Clone, Copy)]
enum Host {
    Cpu(Simd),
    Reference,
}

impl Backend {
    /// The backend for a device, and why it was taken.
    fn choose(
        #[cfg(feature = "gpu")] model: &Model,
        device: Device,
    ) -> Result<(Self, DeviceInfo), DeviceError> {
        let cpu = |simd: Simd, reason: String| {
            (Self::Host(Host::Cpu(simd)), DeviceInfo { name: format!("cpu:{}", simd.name()), reason })
        };
        Ok(match device {
            #[cfg(feature = "gpu")]
            Device::Auto => {
                match Gpu::open(&crate::gpu::GpuOptions::default())
                    .and_then(|gpu| Self::gpu(model, gpu, "chosen"))
                {
                    Ok(chosen) => chosen,
                    Err(e) => cpu(Simd::detect(), format!("chosen: {e}")),
                }
            }
            #[cfg(not(feature = "gpu"))]
            Device::Auto => cpu(Simd::detect(), "chosen: this build lacks the feature `gpu`".to_owned()),
            Device::Cpu => cpu(Simd::detect(), "asked for, best instruction set".to_owned()),
            Device::CpuWith(simd) => cpu(simd, "asked for by name".to_owned()),
            #[cfg(feature = "gpu")]
            Device::Gpu(options) => Self::gpu(model, Gpu::open(&options)?, "asked for")?,
            #[cfg(feature = "gpu")]
            Device::OpenGpu(gpu) => Self::gpu(model, gpu, "asked for")?,
            Device::Reference => {
                let info = DeviceInfo { name: "reference".to_owned(), reason: "asked for".to_owned() };
                (Self::Host(Host::Reference), info)
            }
        })
    }

    #[cfg(feature = "gpu")]
    fn gpu(model: &Model, gpu: Gpu, reason: &str) -> Result<(Self, DeviceInfo), GpuError> {
        let name = format!("gpu:{}", gpu.adapter().name);
        let about = format!("{reason}, {}, tier {}", gpu.adapter().backend, gpu.tier());
        let searcher = gpu::GpuSearcher::new(model, gpu)?;
        let reason = about + &searcher.note();
        Ok((Self::Gpu(Box::new(searcher)), DeviceInfo { name, reason }))
    }
}

impl Searcher {
    pub(crate) fn new(
        model: Arc<Model>,
        tunings: Arc<[Tuning]>,
        device: Device,
    ) -> Result<Self, DeviceError> {
        let (backend, device) = Backend::choose(
            #[cfg(feature = "gpu")]
            &model,
            device,
        )?;
        Ok(Self { model, tunings, backend, device, scratch: Mutex::new(Vec::new()) })
    }

    /// The device in use, and why.
    #[must_use]
    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// The GPU in use, if it is one.
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.backend {
            Backend::Gpu(gpu) => Some(gpu.gpu()),
            Backend::Host(_) => None,
        }
    }

    /// What the recall asked for means for this index, and what that rests on. Without any number it is [`tune::USUAL`] where the index
    /// is tuned for `k`, but never less effort than an index that is not tuned takes; else nothing.
    ///
    /// # Errors
    /// [`SearchError`] where the index is not tuned, or the recall is out of its reach.
    pub fn choose(&self, params: SearchParams) -> Result<Option<Choice>, SearchError> {
        let Some(recall) = params.recall else {
            if params.n_probe.is_some() || params.n_rerank.is_some() {
                return Ok(None);
            }
            let least = self.filled_in(params);
            return Ok(tune::usual(&self.tunings, &self.device.name, params.k).map(|mut choice| {
                choice.effort.n_probe = choice.effort.n_probe.max(least.n_probe);
                choice.effort.n_rerank = choice.effort.n_rerank.max(least.n_rerank);
                choice
            }));
        };
        for (name, value) in [("n_probe", params.n_probe), ("n_rerank", params.n_rerank)] {
            if value.is_some() {
                return Err(SearchError::RecallAndEffort { name });
            }
        }
        tune::choose(&self.tunings, &self.device.name, params.k, recall).map(Some)
    }

    /// The effort that these parameters mean for this index.
    ///
    /// # Errors
    /// As [`Searcher::choose`].
    pub fn effort(&self, params: SearchParams) -> Result<Effort, SearchError> {
        let (mut n_probe, mut n_rerank) = (params.n_probe, params.n_rerank);
        if let Some(choice) = self.choose(params)? {
            (n_probe, n_rerank) = (Some(choice.effort.n_probe), Some(choice.effort.n_rerank));
        } else if n_probe.is_none()
            && n_rerank.is_none()
            && let Some(known) = tune::beyond(&self.tunings, &self.device.name, params.k)
        {
            // For more neighbours than it is tuned for: no less than for those.
            let least = self.filled_in(params);
            n_probe = Some(known.n_probe.max(least.n_probe));
            n_rerank = Some(known.n_rerank.max(least.n_rerank));
        }
        Ok(self.filled_in(SearchParams { n_probe, n_rerank, ..params }))
    }

    /// The effort of numbers given, without what tuning knows.
    fn filled_in(&self, params: SearchParams) -> Effort {
        let Model { lists, refine, n, .. } = &*self.model;
        params.filled_in(lists.len(), lists.n_filling(params.k), *n, refine.is_some())
    }

    /// The `k` nearest points of each query, `[n_queries, d]`.
    ///
    /// # Errors
    /// [`SearchError`] names the argument, what was expected and what was given; NaN and infinity are
    /// refused with their row and column.
    pub fn search(&self, queries: ArrayView2<'_, f32>, params: SearchParams) -> Result<Hits, SearchError> {
        self.search_vectors(&queries, params)
    }

    /// [`Searcher::search`] for queries from anywhere, a mapped file for instance.
    ///
    /// # Errors
    /// As [`Searcher::search`].
    pub fn search_vectors(&self, queries: &dyn Vectors, params: SearchParams) -> Result<Hits, SearchError> {
        self.run_all(queries, params, None)
    }

    /// A search, and where its time went. On a GPU kernels then run one after the other, so the search as a whole
    /// takes a little longer; on the CPU a few clock readings a query are added.
    ///
    /// # Errors
    /// As [`Searcher::search`], and [`SearchError::NoProfile`] for the reference and for a GPU without timestamps.
    pub fn profile(
        &self,
        queries: &dyn Vectors,
        params: SearchParams,
    ) -> Result<(Hits, Profile), SearchError> {
        let has_clock = match &self.backend {
            Backend::Host(Host::Cpu(_)) => true,
            Backend::Host(Host::Reference) => false,
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.gpu().has_timestamps(),
        };
        if !has_clock {
            return Err(SearchError::NoProfile(self.device.name.clone()));
        }
        let mut profile = Profile::default();
        let hits = self.run_all(queries, params, Some(&mut profile))?;
        Ok((hits, profile))
    }

    fn run_all(
        &self,
        queries: &dyn Vectors,
        params: SearchParams,
        profile: Option<&mut Profile>,
    ) -> Result<Hits, SearchError> {
        let (n, d, k) = (queries.n_rows(), queries.dim(), params.k);
        check_shape("queries", n, d, Some(self.model.dim))?;
        for (name, value) in [("k", Some(k)), ("n_probe", params.n_probe), ("n_rerank", params.n_rerank)] {
            if value == Some(0) {
                return Err(SearchError::Zero { name });
            }
        }
        self.model.image.check_length()?;
        let too_large = SearchError::TooLarge { limit: PLACES_MAX, n_queries: n, k };
        let ids = filled(n, k, NO_ID);
        let scores = filled(n, k, self.model.frame.metric().worst_score());
        let (Some(mut ids), Some(mut scores)) = (ids, scores) else { return Err(too_large) };
        let times = Mutex::new(Profile::default());
        let clock = profile.is_some().then_some(&times);
        let request = Request { queries, effort: self.effort(params)?, k, clock };
        let host = match &self.backend {
            Backend::Host(host) => *host,
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                if let (Some(ids), Some(scores)) = (ids.as_slice_mut(), scores.as_slice_mut()) {
                    gpu.search(&self.model, &request, ids, scores, params.threads, profile)?;
                }
                return Ok(Hits { ids, scores });
            }
        };
        if n == 1 || params.threads == 1 {
            self.run(host, &request, 0, ids.as_slice_mut(), scores.as_slice_mut())?;
        } else {
            let mut spread = || self.spread(host, &request, &mut ids, &mut scores);
            match params.threads {
                0 => spread()?,
                threads => rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .map_err(|e| SearchError::Threads(e.to_string()))?
                    .install(spread)?,
            }
        }
        if let Some(profile) = profile {
            profile.add(&times.into_inner().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(Hits { ids, scores })
    }

    fn spread(
        &self,
        host: Host,
        request: &Request<'_>,
        ids: &mut Array2<u64>,
        scores: &mut Array2<f32>,
    ) -> Result<(), SearchError> {
        use rayon::prelude::*;
        let rows = cpu::piece_rows(request.queries.n_rows(), rayon::current_num_threads());
        let (Some(ids), Some(scores)) = (ids.as_slice_mut(), scores.as_slice_mut()) else { return Ok(()) };
        let width = rows * request.k;
        ids.par_chunks_mut(width)
            .zip(scores.par_chunks_mut(width))
            .enumerate()
            .map(|(piece, (ids, scores))| self.run(host, request, piece * rows, Some(ids), Some(scores)))
            // The first error in query order, whichever thread met one first.
            .collect::<Vec<_>>()
            .into_iter()
            .collect()
    }

    /// Searches the queries from row `first` on, as many as `ids` has room for.
    fn run(
        &self,
        host: Host,
        request: &Request<'_>,
        first: usize,
        ids: Option<&mut [u64]>,
        scores: Option<&mut [f32]>,
    ) -> Result<(), SearchError> {
        let (Some(ids), Some(scores)) = (ids, scores) else { return Ok(()) };
        match host {
            Host::Reference => reference::search(&self.model, request, first, ids, scores),
            Host::Cpu(simd) => {
                let pooled = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut scratch = pooled.unwrap_or_default();
                let done = cpu::search(&self.model, simd, request, first, ids, scores, &mut scratch);
                self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
                done
            }
        }
    }
}

impl std::fmt::Debug for Searcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searcher").field("device", &self.device).finish_non_exhaustive()
    }
}

/// What is asked of a backend.
struct Request<'a> {
    queries: &'a dyn Vectors,
    effort: Effort,
    k: usize,
    /// Where stages on the CPU add their times.
    clock: Option<&'a Mutex<Profile>>,
}

impl Request<'_> {
    /// Reads and checks one query, as stored rows meet it. `out`: `[d]`.
    fn query(&self, model: &Model, row: usize, out: &mut [f32]) -> Result<(), VectorError> {
        self.queries.read(row, out);
        check_row("queries", row, out)?;
        model.frame.query(out);
        Ok(())
    }
}
