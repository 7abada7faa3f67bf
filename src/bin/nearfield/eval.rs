//! `nearfield eval`

use std::{
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use ndarray::{Array2, ArrayView2, s};
use nearfield::{Effort, Hits, Index, SearchParams, Searcher, Vectors, eval::Recall, io};
use serde_json::json;

use crate::{build::limit_threads, devices::DeviceArgs, error::CliError, report};

/// Measure recall and speed over a range of efforts.
///
/// Every combination of --n-probe and --n-rerank is searched once to warm up and then again until --seconds
/// have passed; the median run counts. Recall is the share of the k true neighbours found (recall@k); it
/// counts each id once, and what ties with the k-th true neighbour. `1@k` (`recall_1` in JSON) is the share of
/// the queries whose nearest neighbour is among the k found; JSON has `recall_1_at` for smaller numbers too.
#[derive(clap::Args)]
pub struct Args {
    /// Index file.
    index: PathBuf,
    /// Query vectors, one a row.
    queries: PathBuf,
    /// Exact neighbours by query, best first: .npy, .ivecs or .ibin (see `nearfield truth`).
    #[arg(long)]
    truth: PathBuf,
    /// The vectors the index was built from: near-ties then count by exact score. Not needed where the
    /// index stores rows in f32.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Neighbours a query.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Lists read a query, one or several: 4,8,16.
    #[arg(long, value_delimiter = ',')]
    n_probe: Vec<usize>,
    /// Candidates scored exactly, one or several: 50,100.
    #[arg(long, value_delimiter = ',')]
    n_rerank: Vec<usize>,
    /// Queries a call: 1, all, or a number.
    #[arg(long, default_value = "all")]
    batch: Batch,
    #[command(flatten)]
    device: DeviceArgs,
    /// Read the index into memory (huge pages) instead of mapping it: slower to open, faster to search.
    #[arg(long)]
    load: bool,
    /// Threads a batch is spread over; all cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Time that one measurement takes at least, three runs in any case.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// Print where the time of one more run goes, on stderr: on the CPU stage by stage, on a GPU kernel by kernel.
    #[arg(long)]
    profile: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0 to 3600".to_owned()),
    }
}

/// Queries a call.
#[derive(Clone, Copy)]
enum Batch {
    All,
    Of(usize),
}

impl FromStr for Batch {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse() {
            _ if s == "all" => Ok(Self::All),
            Ok(n) if n > 0 => Ok(Self::Of(n)),
            _ => Err("expected 1, all, or a number of queries".to_owned()),
        }
    }
}

/// Runs of one measurement, at least.
const RUNS_MIN: usize = 3;

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    let (index, searcher) = report::searcher(&args.index, &args.device, args.load)?;
    let file = report::vectors("QUERIES", &args.queries)?;
    let mut queries = Array2::zeros((file.n_rows(), file.dim()));
    for (i, mut row) in queries.outer_iter_mut().enumerate() {
        if let Some(row) = row.as_slice_mut() {
            file.read(i, row);
        }
    }
    // Refused here with the library's words, before any is searched.
    let first = SearchParams::new(args.k.min(index.len())).n_probe(1).threads(1);
    searcher.search(queries.slice(s![..queries.nrows().min(1), ..]), first)?;
    if args.profile {
        searcher.profile(&queries.slice(s![..queries.nrows().min(1), ..]), first)?;
    }
    let truth = io::read_ids(&args.truth)?;
    let base = args.base.as_deref().map(|path| report::vectors("--base", path)).transpose()?;
    let view = queries.view();
    let mut recall = Recall::new(&index, &view, truth.view(), args.k)?;
    if let Some(base) = &base {
        recall = recall.with_base(base)?;
    }
    let n = queries.nrows();
    let batch = match args.batch {
        Batch::All => n,
        Batch::Of(size) => size.min(n),
    };
    // A single query runs on the calling thread.
    let threads = if batch == 1 { 1 } else { rayon::current_num_threads() };
    let options = |given: &[usize]| -> Vec<Option<usize>> {
        if given.is_empty() { vec![None] } else { given.iter().copied().map(Some).collect() }
    };
    if !json {
        report::line(&format!(
            "{} ({}), {} queries, k = {}, batch {batch}, {}",
            index.spec(),
            index.metric(),
            n,
            args.k,
            searcher.device().name
        ))?;
        report::line(&format!(
            "{:>8} {:>9} {:>8} {:>8} {:>10} {:>10} {:>10}",
            "n_probe",
            "n_rerank",
            "recall",
            format!("1@{}", args.k),
            "queries/s",
            "p50",
            "p99"
        ))?;
    }
    for n_probe in options(&args.n_probe) {
        for n_rerank in options(&args.n_rerank) {
            let mut params = SearchParams::new(args.k);
            params.n_probe = n_probe;
            params.n_rerank = n_rerank;
            params.threads = if threads == 1 { 1 } else { 0 };
            let effort = searcher.effort(params);
            report::say_clamped(&index, params, effort);
            let measured = measure(&searcher, queries.view(), batch, params, args.seconds)?;
            let ids = measured.hits.ids.view();
            let depths = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].into_iter().filter(|&n| n < args.k);
            let nearest: Vec<(usize, f64)> =
                depths.chain([args.k]).map(|n| (n, recall.of_nearest(ids.slice(s![.., ..n])))).collect();
            let found = (recall.of(ids), nearest);
            print(&index, &searcher, args.k, batch, threads, effort, found, &measured, json)?;
            if args.profile {
                let mut profile = nearfield::Profile::default();
                for start in (0..n).step_by(batch) {
                    let queries = queries.slice(s![start..n.min(start + batch), ..]);
                    profile.add(&searcher.profile(&queries, params)?.1);
                }
                eprintln!("n_probe {}, n_rerank {}:", effort.n_probe, effort.n_rerank);
                report::profile(&searcher, &profile);
            }
        }
    }
    Ok(())
}

struct Measured {
    hits: Hits,
    /// Seconds of the median run over all queries.
    seconds: f64,
    /// Median and 99th percentile of a call.
    p50: Duration,
    p99: Duration,
}

fn measure(
    searcher: &Searcher,
    queries: ArrayView2<'_, f32>,
    batch: usize,
    params: SearchParams,
    seconds: f64,
) -> Result<Measured, CliError> {
    let n = queries.nrows();
    // The warm-up run, whose results count.
    let mut hits = searcher.search(queries, params)?;
    let mut runs = Vec::new();
    let mut calls = Vec::new();
    let since = Instant::now();
    while runs.len() < RUNS_MIN || since.elapsed().as_secs_f64() < seconds {
        let run = Instant::now();
        for start in (0..n).step_by(batch) {
            let end = n.min(start + batch);
            let call = Instant::now();
            let found = searcher.search(queries.slice(s![start..end, ..]), params)?;
            calls.push(call.elapsed());
            hits.ids.slice_mut(s![start..end, ..]).assign(&found.ids);
        }
        runs.push(run.elapsed().as_secs_f64());
    }
    runs.sort_by(f64::total_cmp);
    calls.sort();
    let at = |percent: usize| calls[calls.len() * percent / 100];
    Ok(Measured { hits, seconds: runs[runs.len() / 2], p50: at(50), p99: at(99) })
}

#[allow(clippy::too_many_arguments, reason = "one row of the table, column by column")]
fn print(
    index: &Index,
    searcher: &Searcher,
    k: usize,
    batch: usize,
    threads: usize,
    effort: Effort,
    (recall, nearest): (f64, Vec<(usize, f64)>),
    measured: &Measured,
    json: bool,
) -> Result<(), CliError> {
    let recall_1 = nearest.last().map_or(0.0, |(_, share)| *share);
    let qps = measured.hits.ids.nrows() as f64 / measured.seconds;
    if json {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let by_depth: serde_json::Map<String, serde_json::Value> =
            nearest.iter().map(|(n, share)| (n.to_string(), json!(share))).collect();
        return report::line(
            &json!({
                "spec": index.spec().to_string(), "metric": index.metric().to_string(),
                "device": searcher.device().name, "k": k, "n_probe": effort.n_probe,
                "n_rerank": effort.n_rerank, "batch": batch, "threads": threads, "recall": recall,
                "recall_1": recall_1, "recall_1_at": by_depth, "qps": qps,
                "p50_ms": ms(measured.p50), "p99_ms": ms(measured.p99), "index_bytes": index.n_bytes(),
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{:>8} {:>9} {recall:>8.4} {recall_1:>8.4} {qps:>10.0} {:>10} {:>10}",
        effort.n_probe,
        effort.n_rerank,
        report::duration(measured.p50),
        report::duration(measured.p99)
    ))
}
