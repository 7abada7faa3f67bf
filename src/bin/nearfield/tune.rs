//! `nearfield tune`

use std::{path::PathBuf, time::Instant};

use nearfield::{Index, QuerySource, Tuner, Tuning, Vectors, tune};
use serde_json::json;

use crate::{
    build::limit_threads,
    devices::DeviceArgs,
    error::CliError,
    eval::Batch,
    report,
    sample::{self, Points, Sample},
};

/// Measure which effort reaches which recall, and keep the table in the index.
///
/// From little effort on, n_probe and n_rerank are raised step by step, whichever of them brings more recall for its time, and
/// what no other effort beats is kept. After that `nearfield search --recall 0.95` needs no numbers, on any device; where the
/// index is tuned on a CPU and on a GPU, each has its own table, and another k has too.
///
/// Of the queries a random thousand is used at most. Half of them choose, and the recall that counts is theirs less a standard error, so
/// that other queries find what is asked for; the other half only checks, and is reported beside it. Rows that stand in for queries
/// find more than queries do, which is taken off as well.
#[derive(clap::Args)]
pub struct Args {
    /// Index file.
    index: PathBuf,
    /// Queries like those to come, some hundred or more, in any order. Without them rows of the vectors stand in, each left out of its own
    /// neighbours: right where queries are of the same kind as the vectors.
    queries: Option<PathBuf>,
    /// Exact neighbours of the queries; worked out if not given.
    #[arg(long, requires = "queries")]
    truth: Option<PathBuf>,
    /// The vectors the index was built from. Not needed where it stores rows in f32 or f16 (Refine, or Flat without a
    /// reduction); bytes would judge themselves.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Ids of the rows of --base, as given to `build`; row numbers if not given.
    #[arg(long, requires = "base")]
    ids: Option<PathBuf>,
    /// Neighbours a query.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Queries a call, which decides what is fast: 1, all, or a number.
    #[arg(long, default_value = "all")]
    batch: Batch,
    /// Recall from which on more effort is not tried, as 0.99: ends tuning earlier.
    #[arg(long, value_parser = share)]
    up_to: Option<f64>,
    /// Seed of the choice of queries.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Threads; all cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Where to write the index with its table; INDEX itself if not given, replaced only when complete.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("expected a recall above 0, at most 1, as 0.99".to_owned()),
    }
}

/// Queries by which recall is hardly known.
const FEW: usize = 100;

/// Recalls that are reported beside the table.
const REPORTED: [f64; 3] = [0.9, tune::USUAL, 0.99];

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    let output = args.output.as_ref().unwrap_or(&args.index);
    let mut inputs: Vec<&std::path::Path> = Vec::new();
    inputs.extend(args.queries.as_deref());
    inputs.extend(args.truth.as_deref());
    inputs.extend(args.base.as_deref());
    inputs.extend(args.ids.as_deref());
    report::check_output("--output", output, None, &inputs)?;
    let since = Instant::now();
    let (index, searcher) = report::searcher(&args.index, &args.device, false)?;
    if index.len() == 1 {
        return Err(CliError::Input("INDEX: expected two points or more to tune for, got one".to_owned()));
    }
    if args.k == 0 || args.k >= index.len() {
        let expected = format!("1 to {}, fewer than the index has points", index.len() - 1);
        return Err(CliError::Input(format!("-k: expected {expected}, got {}", args.k)));
    }
    let sample = sample(args, &index)?;
    let view = sample.queries();
    let recall = sample.recall(&index, &view, args.k, None)?;
    if args.base.is_some() && args.truth.is_none() && recall.out_of_order().is_some_and(|share| share > 0.5) {
        let expected = "expected the vectors the index was built from, in the order of its ids (--ids)";
        return Err(CliError::Input(format!(
            "--base: {expected}, but the index holds others under these ids"
        )));
    }
    report::doubt_truth(&recall, index.metric());
    let n = sample.len();
    if n < FEW {
        eprintln!(
            "QUERIES: {n} given, recall is then known to {:.2} or so; give some hundred",
            0.5 / (n as f64).sqrt()
        );
    }
    let tuner = Tuner {
        batch: args.batch.size(n),
        threads: if args.threads == Some(1) { 1 } else { 0 },
        enough: args.up_to.unwrap_or(tune::ENOUGH),
        ..sample.tuner(&index, &searcher, &recall, args.k)
    };
    let tuning = sample::run(&tuner, |_| true)?;
    index.with_tuning(tuning.clone()).save(output)?;
    print(&tuning, output, since.elapsed(), json)
}

/// The queries given, or rows of the index, and what they should find.
fn sample(args: &Args, index: &Index) -> Result<Sample, CliError> {
    let given = args.queries.as_deref().map(|path| report::queries("QUERIES", path)).transpose()?;
    if let (Some(queries), Some(truth)) = (&given, &args.truth) {
        let truth = report::ids("--truth", truth)?;
        if truth.nrows() != queries.n_rows() {
            let (expected, got) = (queries.n_rows(), truth.nrows());
            return Err(CliError::Input(format!(
                "--truth: expected {expected} rows, one a query, got {got}"
            )));
        }
        return Ok(Sample::with_truth(queries, &truth, sample::QUERIES, args.seed));
    }
    let base = args.base.as_deref().map(|path| report::vectors("--base", path)).transpose()?;
    let names = args.ids.as_deref().map(|path| report::row_ids("--ids", path)).transpose()?;
    let (n, d) = (index.len(), index.dim());
    if let Some(names) = &names
        && names.dim() != (n, 1)
    {
        return Err(CliError::Input(format!("--ids: expected shape ({n}, 1), got {:?}", names.dim())));
    }
    let among = |vectors: &dyn Vectors, id_of: &dyn Fn(usize) -> u64| {
        let points = Points { vectors, id_of, metric: index.metric() };
        let drawn = (sample::QUERIES, args.seed);
        match &given {
            Some(queries) => Sample::of_queries(queries, QuerySource::Given, &points, args.k, drawn),
            None => Sample::of_points(&points, args.k, drawn),
        }
    };
    match (&base, index.rows()) {
        (Some(base), _) if (base.n_rows(), base.dim()) != (n, d) => {
            let got = format!("{} × {}", base.n_rows(), base.dim());
            Err(CliError::Input(format!("--base: expected the {n} × {d} vectors of the index, got {got}")))
        }
        (Some(base), _) => among(base, &|row| names.as_ref().map_or(row as u64, |names| names[[row, 0]])),
        (None, Some(rows)) => among(&rows, &|row| rows.id(row)),
        (None, None) => Err(CliError::Usage(
            "--base: expected the vectors the index was built from (or --truth), for it stores no rows, or rows in bytes"
                .to_owned(),
        )),
    }
}

fn print(
    tuning: &Tuning,
    output: &std::path::Path,
    took: std::time::Duration,
    json: bool,
) -> Result<(), CliError> {
    if json {
        let points: Vec<_> = tuning
            .points
            .iter()
            .map(|p| {
                json!({
                    "n_probe": p.n_probe, "n_rerank": p.n_rerank, "recall": p.recall, "held_out": p.held_out,
                    "qps": p.qps,
                })
            })
            .collect();
        return report::line(
            &json!({
                "k": tuning.k, "device": tuning.device, "queries": tuning.n_queries, "source": tuning.source,
                "batch": tuning.batch,
                "threads": tuning.threads, "tune_s": took.as_secs_f64(), "points": points,
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{}: tuned for k = {} with {} {} in batches of {} on {} in {}",
        output.display(),
        tuning.k,
        tuning.n_queries,
        tuning.source,
        tuning.batch,
        tuning.device,
        report::duration(took)
    ))?;
    report::line(&format!(
        "{:>8} {:>9} {:>8} {:>8} {:>10}",
        "n_probe", "n_rerank", "recall", "checked", "queries/s"
    ))?;
    for p in &tuning.points {
        let checked = p.held_out.map_or("—".to_owned(), |found| format!("{found:.4}"));
        report::line(&format!(
            "{:>8} {:>9} {:>8.4} {checked:>8} {:>10.0}",
            p.n_probe, p.n_rerank, p.recall, p.qps
        ))?;
    }
    REPORTED
        .iter()
        .filter_map(|&recall| sample::says(tuning, recall))
        .try_for_each(|line| report::line(&line))
}
