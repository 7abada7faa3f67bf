//! `nearfield truth`

use std::{path::PathBuf, time::Instant};

use nearfield::{Metric, NO_ID, Vectors, eval, io};
use serde_json::json;

use crate::{build::limit_threads, error::CliError, report};

/// Compute exact neighbours, to judge an index by.
#[derive(clap::Args)]
pub struct Args {
    /// Vectors, one a row.
    base: PathBuf,
    /// Query vectors, one a row; a one-dimensional array is one query.
    queries: PathBuf,
    /// Neighbours a query.
    #[arg(short, default_value_t = 100)]
    k: usize,
    /// ip (inner product), cosine, or l2 (squared Euclidean distance).
    #[arg(long)]
    metric: Metric,
    /// Ids of the rows, where the index was built with them.
    #[arg(long)]
    ids: Option<PathBuf>,
    /// Threads; all cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Where to write the ids: .npy, i64, −1 where there are fewer than k vectors.
    #[arg(short, long)]
    output: PathBuf,
}

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    report::check_output("--output", &args.output, Some("npy"), &[&args.base, &args.queries])?;
    let base = report::vectors("BASE", &args.base)?;
    let queries = report::queries("QUERIES", &args.queries)?;
    let names = args.ids.as_deref().map(|path| report::row_ids("--ids", path)).transpose()?;
    if let Some(names) = &names
        && names.dim() != (base.n_rows(), 1)
    {
        let (n, shape) = (base.n_rows(), names.dim());
        return Err(CliError::Input(format!("--ids: expected shape ({n}, 1), got {shape:?}")));
    }
    if args.k > base.n_rows() {
        eprintln!("k: {} given, there are {} vectors: the rest is padding (−1)", args.k, base.n_rows());
    }
    let since = Instant::now();
    let bar = report::bar("truth", 1);
    let mut ids = eval::exact(&base, &queries, args.metric, args.k, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if let Some(names) = &names {
        ids.mapv_inplace(|row| match usize::try_from(row) {
            Ok(row) if row as u64 != NO_ID => names[[row, 0]],
            _ => NO_ID,
        });
    }
    io::write_ids(&args.output, ids.view())?;
    let took = since.elapsed();
    if json {
        return report::line(
            &json!({ "n": base.n_rows(), "d": base.dim(), "queries": queries.n_rows(), "k": args.k,
                     "metric": args.metric.to_string(), "truth_s": took.as_secs_f64() })
            .to_string(),
        );
    }
    report::line(&format!(
        "{}: {} exact neighbours of {} queries among {} × {} in {}",
        args.output.display(),
        args.k,
        queries.n_rows(),
        base.n_rows(),
        base.dim(),
        report::duration(took),
    ))
}
