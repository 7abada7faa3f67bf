//! `nearfield bench`

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use ndarray::{Array2, s};
use nearfield::{Hits, Index, IndexSpec, Metric, SearchParams, Searcher, Vectors, eval, io::VectorFile};
use serde_json::json;

use crate::{
    build::limit_threads,
    devices::GpuArgs,
    embedded::{self, Embedded},
    error::CliError,
    report,
};

/// Run the same batches on every device and print them side by side.
///
/// Without vectors of your own it takes the set that comes with the program. Queries are repeated where a batch wants
/// more than there are. `agree` is the share of ids that equal the first device's; recall is against exact search for the
/// first 200 queries. Software GPUs run only when named.
#[derive(clap::Args)]
pub struct Args {
    /// Vectors to index.
    #[arg(requires = "queries")]
    base: Option<PathBuf>,
    /// Queries.
    queries: Option<PathBuf>,
    /// Search this index instead of building one of BASE.
    #[arg(long)]
    index: Option<PathBuf>,
    /// Specification of the index built.
    #[arg(long, default_value = embedded::SPEC)]
    spec: IndexSpec,
    /// ip, cosine or l2.
    #[arg(long, default_value = "cosine")]
    metric: Metric,
    /// Seed of the index built.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Neighbours a query.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Lists read a query.
    #[arg(long, default_value_t = embedded::N_PROBE)]
    n_probe: usize,
    /// Candidates scored exactly.
    #[arg(long, default_value_t = embedded::N_RERANK)]
    n_rerank: usize,
    /// Queries a call, one or several.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256,4096")]
    batch: Vec<usize>,
    /// Devices, one or several: cpu,gpu:NAME. The CPU and every hardware GPU if not given.
    #[arg(long, value_delimiter = ',')]
    device: Vec<String>,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print where the time on each GPU goes, kernel by kernel, on stderr.
    #[cfg(feature = "gpu")]
    #[arg(long)]
    profile: bool,
    /// Threads on the CPU; all cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// Time that one measurement takes at least.
const MEASURED: Duration = Duration::from_millis(500);
/// Calls of one measurement, at least.
const CALLS_MIN: usize = 3;
/// Queries that recall is measured on.
const JUDGED: usize = 200;

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    match (&args.base, &args.queries) {
        (Some(base), Some(queries)) => {
            let base = report::vectors("BASE", base)?;
            let queries: VectorFile = report::vectors("QUERIES", queries)?;
            compare(args, &base, &queries, json)
        }
        _ => compare(args, &Embedded::base(), &Embedded::queries(), json),
    }
}

/// The devices asked for, or all that are hardware.
fn devices(given: &[String]) -> Vec<String> {
    if !given.is_empty() {
        return given.to_vec();
    }
    #[cfg_attr(not(feature = "gpu"), allow(unused_mut, reason = "GPUs are added where there may be some"))]
    let mut names = vec!["cpu".to_owned()];
    #[cfg(feature = "gpu")]
    for adapter in nearfield::Gpu::adapters() {
        let name = format!("gpu:{}", adapter.name);
        if adapter.is_software() {
            eprintln!("{name} left out: software runs only when named with --device");
        } else if !names.contains(&name) {
            // One card may be there for several back ends: the best.
            names.push(name);
        }
    }
    names
}

fn compare(args: &Args, base: &impl Vectors, queries: &impl Vectors, json: bool) -> Result<(), CliError> {
    let index = match &args.index {
        Some(path) => report::named(path, Index::load(path))?,
        None => {
            let stages = report::Stages::new();
            let progress = |p| stages.update(p);
            let built =
                Index::builder(args.spec).metric(args.metric).seed(args.seed).progress(&progress).build(base);
            stages.finish();
            built?
        }
    };
    if let Some(0) = args.batch.iter().min() {
        return Err(CliError::Usage("--batch: expected at least 1, got 0".to_owned()));
    }
    let mut all = Array2::zeros((queries.n_rows(), queries.dim()));
    for (i, mut row) in all.outer_iter_mut().enumerate() {
        if let Some(row) = row.as_slice_mut() {
            queries.read(i, row);
        }
    }
    let params = SearchParams::new(args.k).n_probe(args.n_probe).n_rerank(args.n_rerank);
    let judged = all.slice(s![..all.nrows().min(JUDGED), ..]);
    let truth = eval::exact(base, &judged, index.metric(), args.k.min(base.n_rows()), |_, _| ())?;
    let recall = eval::Recall::new(&index, &judged, truth.view(), args.k.min(base.n_rows()))?;
    let recall = recall.with_base(base)?;
    let mut searchers = Vec::new();
    for name in devices(&args.device) {
        match index.searcher(args.gpu.device(&name)?) {
            Ok(searcher) => {
                eprintln!("device: {}", searcher.device());
                searchers.push(searcher);
            }
            // Asked for: an error. Found: the others still count.
            Err(error) if args.device.is_empty() => eprintln!("{name} left out: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    let Some(effort) = searchers.first().map(|searcher| searcher.effort(params)) else { return Ok(()) };
    report::say_clamped(&index, params, effort);
    if !json {
        report::line(&format!(
            "{} ({}), {} × {}, k = {}, n_probe {}, n_rerank {}",
            index.spec(),
            index.metric(),
            index.len(),
            index.dim(),
            args.k,
            effort.n_probe,
            effort.n_rerank
        ))?;
        report::line(&format!(
            "{:>7} {:>11} {:>10} {:>10} {:>8} {:>8}  device",
            "batch", "queries/s", "p50", "kernels", "recall", "agree"
        ))?;
    }
    for &batch in &args.batch {
        let rows = Array2::from_shape_fn((batch, all.ncols()), |(i, j)| all[[i % all.nrows(), j]]);
        let mut first: Option<Hits> = None;
        for searcher in &searchers {
            let measured = measure(searcher, &rows, params)?;
            // Recall does not depend on the batch: all judged queries in one.
            let found = searcher.search(judged, params)?;
            let recall = recall.of(found.ids.view());
            let agree = first.as_ref().map_or(1.0, |first| agreement(first, &measured.hits));
            print(args, &index, searcher, batch, &measured, recall, agree, json)?;
            first.get_or_insert(measured.hits);
            #[cfg(feature = "gpu")]
            if args.profile && searcher.gpu().is_some() {
                report::profile(searcher, &searcher.profile(&rows.view(), params)?.1);
            }
        }
    }
    Ok(())
}

struct Measured {
    hits: Hits,
    p50: Duration,
    /// Time of all kernels of one call, where the device has a clock.
    kernels: Option<Duration>,
}

fn measure(searcher: &Searcher, rows: &Array2<f32>, params: SearchParams) -> Result<Measured, CliError> {
    let hits = searcher.search(rows.view(), params)?;
    let mut calls = Vec::new();
    let since = Instant::now();
    while calls.len() < CALLS_MIN || since.elapsed() < MEASURED {
        let call = Instant::now();
        searcher.search(rows.view(), params)?;
        calls.push(call.elapsed());
    }
    calls.sort();
    #[cfg(feature = "gpu")]
    let kernels = searcher.profile(&rows.view(), params).ok();
    #[cfg(feature = "gpu")]
    let kernels = kernels.map(|(_, profile)| Duration::from_secs_f64(profile.seconds()));
    #[cfg(not(feature = "gpu"))]
    let kernels = None;
    Ok(Measured { hits, p50: calls[calls.len() / 2], kernels })
}

/// Share of places that hold the same id.
fn agreement(a: &Hits, b: &Hits) -> f64 {
    let same = a.ids.iter().zip(&b.ids).filter(|(a, b)| a == b).count();
    same as f64 / a.ids.len() as f64
}

#[allow(clippy::too_many_arguments, reason = "one row of the table, column by column")]
fn print(
    args: &Args,
    index: &Index,
    searcher: &Searcher,
    batch: usize,
    measured: &Measured,
    recall: f64,
    agree: f64,
    json: bool,
) -> Result<(), CliError> {
    let qps = batch as f64 / measured.p50.as_secs_f64();
    if json {
        let effort = searcher.effort(SearchParams::new(args.k).n_probe(args.n_probe).n_rerank(args.n_rerank));
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        return report::line(
            &json!({
                "spec": index.spec().to_string(), "metric": index.metric().to_string(),
                "device": searcher.device().name, "k": args.k, "n_probe": effort.n_probe,
                "n_rerank": effort.n_rerank, "batch": batch, "qps": qps, "p50_ms": ms(measured.p50),
                "kernels_ms": measured.kernels.map(ms), "recall": recall, "agreement": agree,
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{batch:>7} {qps:>11.0} {:>10} {:>10} {recall:>8.4} {agree:>8.4}  {}",
        report::duration(measured.p50),
        measured.kernels.map_or_else(|| "-".to_owned(), report::duration),
        searcher.device().name
    ))
}
