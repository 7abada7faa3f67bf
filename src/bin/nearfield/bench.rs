//! `nearfield bench`

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use ndarray::{Array2, s};
use nearfield::{
    Effort, Hits, Index, IndexSpec, Metric, SearchParams, Searcher, Vectors, eval, io::VectorFile,
};
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
/// Without vectors of your own it takes the set that comes with the program. `p50` is the median time of a call,
/// transfers included; `kernels` the time of a GPU's kernels in one call, each run by itself, so that their sum may be the
/// larger; `agree` the share of ids that equal the first device's; recall is against exact search. Queries are repeated
/// where a batch wants more than there are. Software GPUs run only when named.
#[derive(clap::Args)]
pub struct Args {
    /// Vectors to index.
    #[arg(requires = "queries")]
    base: Option<PathBuf>,
    /// Queries.
    queries: Option<PathBuf>,
    /// Search this index of BASE instead of building one; BASE is still read, to know the exact answers.
    #[arg(long, requires = "base", conflicts_with_all = ["spec", "metric", "seed"])]
    index: Option<PathBuf>,
    /// Specification of the index built; "PCA,IVF,RRR,Refine(f16)" if not given.
    #[arg(long)]
    spec: Option<IndexSpec>,
    /// ip, cosine or l2.
    #[arg(long, default_value = "cosine")]
    metric: Metric,
    /// Seed of the index built.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Neighbours a query.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Lists read a query. One in 32, at least 8, if not given.
    #[arg(long)]
    n_probe: Option<usize>,
    /// Candidates scored exactly. 5·k, at least 50, if not given.
    #[arg(long)]
    n_rerank: Option<usize>,
    /// Queries a call, one or several.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256,4096")]
    batch: Vec<usize>,
    /// Devices, one or several: cpu,gpu:NAME. The CPU and every hardware GPU if not given.
    #[arg(long)]
    device: Vec<String>,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print where the time goes, on stderr: on the CPU stage by stage, on GPUs kernel by kernel; with --json in each row.
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
/// Queries that recall is measured on, at most: exact search takes its time.
const JUDGED: usize = 1000;
/// Values of a batch, at most: 4 GiB.
const VALUES_MAX: usize = 1 << 30;

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    match (&args.base, &args.queries) {
        (Some(base), Some(queries)) => {
            let base = report::vectors("BASE", base)?;
            let queries: VectorFile = report::queries("QUERIES", queries)?;
            compare(args, &base, &queries, json)
        }
        _ => compare(args, &Embedded::base(), &Embedded::queries(), json),
    }
}

/// The devices of a list; adapters' names may hold commas themselves.
fn split(list: &str) -> Vec<String> {
    let mut devices: Vec<String> = Vec::new();
    for part in list.split(',') {
        let begins = ["auto", "cpu", "gpu", "reference"].iter().any(|kind| part.starts_with(kind));
        match devices.last_mut() {
            Some(last) if !begins => *last += &format!(",{part}"),
            _ => devices.push(part.to_owned()),
        }
    }
    devices
}

/// The devices asked for, or all that are hardware.
fn devices(given: &[String]) -> Vec<String> {
    if !given.is_empty() {
        return given.iter().flat_map(|list| split(list)).collect();
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

fn compare(args: &Args, base: &dyn Vectors, queries: &dyn Vectors, json: bool) -> Result<(), CliError> {
    if args.batch.contains(&0) {
        return Err(CliError::Usage("--batch: expected at least 1, got 0".to_owned()));
    }
    let width = queries.dim().max(1);
    if let Some(batch) = args.batch.iter().find(|&&batch| batch > VALUES_MAX / width) {
        let most = VALUES_MAX / width;
        return Err(CliError::Usage(format!(
            "--batch: expected at most {most} queries of {width} values, got {batch}"
        )));
    }
    // Names that mean nothing are refused before anything is built.
    let names = devices(&args.device);
    let wanted = names.iter().map(|name| args.gpu.device(name)).collect::<Result<Vec<_>, _>>()?;
    let index = index(args, base)?;
    let mut searchers = Vec::new();
    for (name, device) in names.iter().zip(wanted) {
        match index.searcher(device) {
            Ok(searcher) => {
                eprintln!("device: {}", searcher.device());
                searchers.push(searcher);
            }
            // Asked for: an error. Found: the others still count.
            Err(error) if args.device.is_empty() => eprintln!("{name} left out: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    let mut all = Array2::zeros((queries.n_rows(), queries.dim()));
    for (i, mut row) in all.outer_iter_mut().enumerate() {
        if let Some(row) = row.as_slice_mut() {
            queries.read(i, row);
        }
    }
    let mut params = SearchParams::new(args.k);
    params.n_probe = args.n_probe.or((args.base.is_none()).then_some(embedded::N_PROBE));
    params.n_rerank = args.n_rerank.or((args.base.is_none()).then_some(embedded::N_RERANK));
    params.threads = if args.threads == Some(1) { 1 } else { 0 };
    let Some(first) = searchers.first() else { return Ok(()) };
    let effort = first.effort(params)?;
    report::say_clamped(&index, params, effort);
    let judged = all.slice(s![..all.nrows().min(JUDGED), ..]);
    // Refused here with the library's words, before anything takes time.
    first.search(judged.slice(s![..judged.nrows().min(1), ..]), params)?;
    let k = args.k.min(base.n_rows());
    let truth = eval::exact(base, &judged, index.metric(), k, &|_, _| ())?;
    let recall = eval::Recall::new(&index, &judged, truth.view(), k)?.with_base(base)?;
    if !json {
        report::line(&format!(
            "{} ({}), {} × {}, k = {}, n_probe {}, n_rerank {}; {} queries, repeated for larger batches",
            index.spec(),
            index.metric(),
            index.len(),
            index.dim(),
            args.k,
            effort.n_probe,
            effort.n_rerank,
            all.nrows()
        ))?;
        report::line(&format!(
            "{:>7} {:>11} {:>10} {:>10} {:>8} {:>8}  device",
            "batch", "queries/s", "p50", "kernels", "recall", "agree"
        ))?;
    }
    let mut recalls = Vec::new();
    for searcher in &searchers {
        // Recall does not depend on the batch: all judged queries in one.
        let found = searcher.search(judged, params)?;
        recalls.push(recall.of(found.ids.slice(s![.., ..k])));
    }
    for &batch in &args.batch {
        let too_large = || {
            CliError::Usage(format!(
                "--batch: expected queries that fit in memory, got {batch} of {width} values"
            ))
        };
        let mut rows: Vec<f32> = Vec::new();
        rows.try_reserve_exact(batch * all.ncols()).map_err(|_| too_large())?;
        rows.extend(all.iter().cycle().take(batch * all.ncols()));
        let rows = Array2::from_shape_vec((batch, all.ncols()), rows).map_err(|_| too_large())?;
        let mut first: Option<Hits> = None;
        for (searcher, &recall) in searchers.iter().zip(&recalls) {
            let measured = measure(searcher, &rows, params, args.profile)?;
            let agree = first.as_ref().map_or(1.0, |first| agreement(first, &measured.hits));
            print(args, &index, searcher, &measured, (batch, effort), (recall, agree), json)?;
            first.get_or_insert(measured.hits);
        }
    }
    Ok(())
}

/// The index asked for: from its file, or built of `base`.
fn index(args: &Args, base: &dyn Vectors) -> Result<Index, CliError> {
    if let Some(path) = &args.index {
        let index = report::named(path, Index::load(path))?;
        if (index.len(), index.dim()) != (base.n_rows(), base.dim()) {
            return Err(CliError::Input(format!(
                "BASE: expected the {} × {} vectors of the index, got {} × {}",
                index.len(),
                index.dim(),
                base.n_rows(),
                base.dim()
            )));
        }
        return Ok(index);
    }
    let default = if args.base.is_none() { embedded::SPEC } else { "PCA,IVF,RRR,Refine(f16)" };
    let spec = match args.spec {
        Some(spec) => spec,
        None => default.parse().map_err(|e: nearfield::SpecError| CliError::Usage(e.to_string()))?,
    };
    let stages = report::Stages::default();
    let progress = |p| stages.update(p);
    let built = Index::builder(spec).metric(args.metric).seed(args.seed).progress(&progress).build(base);
    stages.finish();
    Ok(built?)
}

struct Measured {
    hits: Hits,
    p50: Duration,
    /// Where one call's time goes, where the device has a clock.
    profile: Option<nearfield::Profile>,
    on_gpu: bool,
}

impl Measured {
    /// Time of all kernels of one call, on a GPU.
    fn kernels(&self) -> Option<Duration> {
        let profile = self.profile.as_ref().filter(|_| self.on_gpu);
        profile.map(|profile| Duration::from_secs_f64(profile.seconds()))
    }
}

fn measure(
    searcher: &Searcher,
    rows: &Array2<f32>,
    params: SearchParams,
    is_profiled: bool,
) -> Result<Measured, CliError> {
    #[cfg(feature = "gpu")]
    let on_gpu = searcher.gpu().is_some();
    #[cfg(not(feature = "gpu"))]
    let on_gpu = false;
    let hits = searcher.search(rows.view(), params)?;
    let mut calls = Vec::new();
    let since = Instant::now();
    while calls.len() < CALLS_MIN || since.elapsed() < MEASURED {
        let call = Instant::now();
        searcher.search(rows.view(), params)?;
        calls.push(call.elapsed());
    }
    calls.sort();
    // The column of kernels wants a GPU's times in any case.
    let times = if on_gpu || is_profiled { searcher.profile(&rows.view(), params).ok() } else { None };
    Ok(Measured { hits, p50: calls[calls.len() / 2], profile: times.map(|(_, profile)| profile), on_gpu })
}

/// Share of places that hold the same id.
fn agreement(a: &Hits, b: &Hits) -> f64 {
    let same = a.ids.iter().zip(&b.ids).filter(|(a, b)| a == b).count();
    same as f64 / a.ids.len() as f64
}

fn print(
    args: &Args,
    index: &Index,
    searcher: &Searcher,
    measured: &Measured,
    (batch, effort): (usize, Effort),
    (recall, agree): (f64, f64),
    json: bool,
) -> Result<(), CliError> {
    let qps = batch as f64 / measured.p50.as_secs_f64();
    if json {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let mut row = json!({
            "spec": index.spec().to_string(), "metric": index.metric().to_string(),
            "device": searcher.device().name, "why": searcher.device().reason, "k": args.k,
            "n_probe": effort.n_probe, "n_rerank": effort.n_rerank, "batch": batch,
            "threads": rayon::current_num_threads(), "qps": qps, "p50_ms": ms(measured.p50),
            "kernels_ms": measured.kernels().map(ms), "recall": recall, "agree": agree,
            "index_bytes": index.n_bytes(),
        });
        if let (true, Some(profile)) = (args.profile, &measured.profile) {
            let kernels: serde_json::Map<String, serde_json::Value> = profile
                .kernels
                .iter()
                .map(|(name, t)| {
                    let values = json!({
                        "dispatches": t.dispatches, "ms": t.seconds * 1e3, "bytes": t.bytes, "ops": t.ops,
                    });
                    (name.clone(), values)
                })
                .collect();
            row["kernels"] = kernels.into();
        }
        return report::line(&row.to_string());
    }
    report::line(&format!(
        "{batch:>7} {qps:>11.0} {:>10} {:>10} {recall:>8.4} {agree:>8.4}  {}",
        report::duration(measured.p50),
        measured.kernels().map_or_else(|| "-".to_owned(), report::duration),
        searcher.device().name
    ))?;
    if let (true, Some(profile)) = (args.profile, &measured.profile) {
        eprintln!("batch {batch} on {}:", searcher.device().name);
        report::profile(searcher, profile);
    }
    Ok(())
}
