//! `nearfield tune`

use std::{path::PathBuf, time::Instant};

use ndarray::Array2;
use nearfield::{
    Index, Metric, NO_ID, Searcher, Tuner, Tuning, Vectors,
    eval::{self, Recall},
    tune,
};
use serde_json::json;

use crate::{build::limit_threads, devices::DeviceArgs, error::CliError, eval::Batch, report};

/// Measure which effort reaches which recall, and keep the table in the index.
///
/// From little effort on, n_probe and n_rerank are raised step by step, whichever of them brings more recall for its time, and
/// what no other effort beats is kept. After that `nearfield search --recall 0.95` needs no numbers, on any device; where the
/// index is tuned on a CPU and on a GPU, each has its own table, and another k has too.
#[derive(clap::Args)]
pub struct Args {
    /// Index file.
    index: PathBuf,
    /// Queries like those to come, some hundred or more. Without them rows of the vectors stand in, each left out of its own
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
    #[command(flatten)]
    device: DeviceArgs,
    /// Threads; all cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Where to write the index with its table; INDEX itself if not given, replaced only when complete.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

/// Queries by which recall is hardly known.
const FEW: usize = 100;

/// Rows that stand in for queries, at most.
const SAMPLE: usize = 1000;

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
    let sample = Sample::new(args, &index, &searcher)?;
    let view = sample.queries.view();
    let recall = Recall::new(&index, &view, sample.truth.view(), args.k)?;
    if args.base.is_some() && args.truth.is_none() && recall.out_of_order().is_some_and(|share| share > 0.5) {
        let expected = "expected the vectors the index was built from, in the order of its ids (--ids)";
        return Err(CliError::Input(format!(
            "--base: {expected}, but the index holds others under these ids"
        )));
    }
    report::doubt_truth(&recall, index.metric());
    let n = sample.queries.nrows();
    if n < FEW {
        eprintln!(
            "QUERIES: {n} given, recall is then known to {:.2} or so; give some hundred",
            0.5 / (n as f64).sqrt()
        );
    }
    let tuner = Tuner {
        searcher: &searcher,
        index: &index,
        queries: view,
        recall: &recall,
        k: args.k,
        batch: args.batch.size(n),
        threads: if args.threads == Some(1) { 1 } else { 0 },
        own: sample.own.as_deref(),
        enough: tune::ENOUGH,
    };
    let bar = report::bar("tune", 1000);
    let tuning = tuner.run(&mut |point| {
        // How far the recall has come: most of the time goes into the last hundredth.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        bar.set_position((1000.0 * (1.0 - (1.0 - point.recall).sqrt())) as u64);
        true
    })?;
    bar.finish_and_clear();
    index.with_tuning(tuning.clone()).save(output)?;
    print(&tuning, output, since.elapsed(), json)
}

/// Queries, and what they should find.
struct Sample {
    queries: Array2<f32>,
    truth: Array2<u64>,
    /// The queries' own ids, where they are points of the index.
    own: Option<Vec<u64>>,
}

impl Sample {
    fn new(args: &Args, index: &Index, searcher: &Searcher) -> Result<Self, CliError> {
        let given = args.queries.as_deref().map(|path| report::queries("QUERIES", path)).transpose()?;
        let queries = given.as_ref().map(|file| rows_of(file, 0..file.n_rows()));
        if let (Some(queries), Some(truth)) = (&queries, &args.truth) {
            let truth = report::ids("--truth", truth)?;
            return Ok(Self { queries: queries.clone(), truth, own: None });
        }
        let base = args.base.as_deref().map(|path| report::vectors("--base", path)).transpose()?;
        let names = args.ids.as_deref().map(|path| report::row_ids("--ids", path)).transpose()?;
        let (n, d) = (index.len(), index.dim());
        if let Some(names) = &names
            && names.dim() != (n, 1)
        {
            return Err(CliError::Input(format!("--ids: expected shape ({n}, 1), got {:?}", names.dim())));
        }
        match &base {
            Some(base) if (base.n_rows(), base.dim()) != (n, d) => {
                let got = format!("{} × {}", base.n_rows(), base.dim());
                Err(CliError::Input(format!("--base: expected the {n} × {d} vectors of the index, got {got}")))
            }
            Some(base) => {
                let id_of = |row| names.as_ref().map_or(row as u64, |names| names[[row, 0]]);
                Self::among(base, id_of, queries, args.k, index.metric(), searcher)
            }
            None => match index.rows() {
                Some(rows) => {
                    Self::among(&rows, |row| rows.id(row), queries, args.k, index.metric(), searcher)
                }
                None => Err(CliError::Usage(
                    "--base: expected the vectors the index was built from (or --truth), for it stores no rows, or rows in bytes"
                        .to_owned(),
                )),
            },
        }
    }

    /// Works out what the queries should find among `base`, of which some rows are the queries if there are none.
    fn among(
        base: &dyn Vectors,
        id_of: impl Fn(usize) -> u64,
        queries: Option<Array2<f32>>,
        k: usize,
        metric: Metric,
        searcher: &Searcher,
    ) -> Result<Self, CliError> {
        let n = base.n_rows();
        let sample = SAMPLE.min(n);
        // Rows far apart: what a file has side by side is often alike.
        let own: Option<Vec<usize>> =
            queries.is_none().then(|| (0..sample).map(|i| i * n / sample).collect());
        let queries = match (queries, &own) {
            (Some(queries), _) => queries,
            (None, own) => rows_of(base, own.iter().flatten().copied()),
        };
        let further = usize::from(own.is_some());
        let rows = exact(base, &queries, metric, k + further, searcher)?;
        let ids = rows.mapv(|row| match usize::try_from(row) {
            Ok(row) if row < n => id_of(row),
            _ => NO_ID,
        });
        let own: Option<Vec<u64>> = own.map(|own| own.into_iter().map(id_of).collect());
        let truth = match &own {
            Some(own) => tune::without(&ids, own),
            None => ids,
        };
        Ok(Self { queries, truth, own })
    }
}

/// Some rows as an array.
fn rows_of(vectors: &dyn Vectors, rows: impl IntoIterator<Item = usize>) -> Array2<f32> {
    let rows: Vec<usize> = rows.into_iter().collect();
    let mut out = Array2::zeros((rows.len(), vectors.dim()));
    for (row, mut out) in rows.into_iter().zip(out.outer_iter_mut()) {
        if let Some(out) = out.as_slice_mut() {
            vectors.read(row, out);
        }
    }
    out
}

/// Exact neighbours as row numbers: on the GPU that is searched on, if it is one, else on the CPU.
fn exact(
    base: &dyn Vectors,
    queries: &Array2<f32>,
    metric: Metric,
    k: usize,
    searcher: &Searcher,
) -> Result<Array2<u64>, CliError> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = searcher.gpu() {
        let flat = "Flat".parse().map_err(|e: nearfield::SpecError| CliError::Usage(e.to_string()))?;
        let all = Index::builder(flat).metric(metric).build(base)?.searcher(gpu.clone().into())?;
        return Ok(all.search(queries.view(), nearfield::SearchParams::new(k))?.ids);
    }
    #[cfg(not(feature = "gpu"))]
    let _ = searcher;
    let bar = report::bar("truth", 1);
    let found = eval::exact(base, &queries.view(), metric, k, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(found)
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
            .map(
                |p| json!({ "n_probe": p.n_probe, "n_rerank": p.n_rerank, "recall": p.recall, "qps": p.qps }),
            )
            .collect();
        return report::line(
            &json!({
                "k": tuning.k, "device": tuning.device, "queries": tuning.n_queries, "batch": tuning.batch,
                "threads": tuning.threads, "tune_s": took.as_secs_f64(), "points": points,
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{}: tuned for k = {} with {} queries in batches of {} on {} in {}",
        output.display(),
        tuning.k,
        tuning.n_queries,
        tuning.batch,
        tuning.device,
        report::duration(took)
    ))?;
    report::line(&format!("{:>8} {:>9} {:>8} {:>10}", "n_probe", "n_rerank", "recall", "queries/s"))?;
    for p in &tuning.points {
        report::line(&format!("{:>8} {:>9} {:>8.4} {:>10.0}", p.n_probe, p.n_rerank, p.recall, p.qps))?;
    }
    Ok(())
}
