//! `nearfield search`

use std::path::PathBuf;

use nearfield::{Hits, NO_ID, SearchParams, Vectors, io};
use serde_json::json;

use crate::{build::limit_threads, devices::DeviceArgs, error::CliError, report};

/// Find the nearest neighbours of queries.
#[derive(clap::Args)]
pub struct Args {
    /// Index file.
    index: PathBuf,
    /// Query vectors, one a row; a one-dimensional array is one query.
    queries: PathBuf,
    /// Neighbours a query.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Lists read a query: more find more and take longer. If neither this nor --n-rerank is given: one in 32, at least 8 and as many as
    /// hold k vectors, or more where the index was tuned (as `build` does) and recall 0.95 needs more.
    #[arg(long)]
    n_probe: Option<usize>,
    /// Candidates scored exactly: more find more and take longer. If not given 5·k, at least 50, or more likewise.
    #[arg(long)]
    n_rerank: Option<usize>,
    /// Recall to reach, as 0.95, in the place of --n-probe and --n-rerank: the fastest that reached it in `nearfield tune`.
    #[arg(long, conflicts_with_all = ["n_probe", "n_rerank"])]
    recall: Option<f64>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Read the index into memory (huge pages) instead of mapping it: slower to open, faster to search.
    #[arg(long)]
    load: bool,
    /// Threads; all cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print where the time went, on stderr: on the CPU stage by stage, on a GPU kernel by kernel.
    #[arg(long)]
    profile: bool,
    /// Write the ids to this .npy file (i64, −1 where there is no neighbour) instead of stdout.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Write the scores to this .npy file (f32).
    #[arg(long)]
    scores: Option<PathBuf>,
}

/// Queries searched between two steps of the progress bar: several of a GPU's chunks, which overlap.
const STEP: usize = 16_384;

/// Some rows of a set of vectors.
struct Window<'a, V> {
    vectors: &'a V,
    start: usize,
    n_rows: usize,
}

impl<V: Vectors> Vectors for Window<'_, V> {
    fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn dim(&self) -> usize {
        self.vectors.dim()
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        self.vectors.read(self.start + row, out);
    }
}

/// Says how many of the queries are zero, which score 0 with every point under cosine.
fn say_zero_queries(queries: &impl Vectors) {
    let mut query = vec![0.0; queries.dim()];
    let is_zero = |&row: &usize| {
        queries.read(row, &mut query);
        query.iter().all(|&v| v == 0.0)
    };
    let n_zero = (0..queries.n_rows()).filter(is_zero).count();
    if n_zero > 0 {
        let n = queries.n_rows();
        eprintln!("note: {n_zero} of {n} queries are zero: under cosine their score is 0 for every vector");
    }
}

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    for (argument, path) in [("--output", &args.output), ("--scores", &args.scores)] {
        if let Some(path) = path {
            report::check_output(argument, path, Some("npy"), &[&args.index, &args.queries])?;
        }
    }
    if args.output.is_some() && args.output == args.scores {
        return Err(CliError::Usage("--output, --scores: expected two files, got one for both".to_owned()));
    }
    let (index, searcher) = report::searcher(&args.index, &args.device, args.load)?;
    let queries = report::queries("QUERIES", &args.queries)?;
    let mut params = SearchParams::new(args.k);
    params.n_probe = args.n_probe;
    params.n_rerank = args.n_rerank;
    params.threads = if args.threads == Some(1) { 1 } else { 0 };
    params.recall = args.recall;
    let (choice, effort) = (searcher.choose(params)?, searcher.effort(params)?);
    if args.n_probe.is_none() || args.n_rerank.is_none() {
        let about = match &choice {
            Some(choice) => format!(
                "tuned: recall {:.4} or more for k = {} with {} on {}",
                choice.recall, choice.k, choice.source, choice.device
            ),
            None if params.n_probe.or(params.n_rerank).is_some() => "one of them given".to_owned(),
            None => format!("not tuned for k = {}: `nearfield tune` says which recall that is", args.k),
        };
        eprintln!("effort: n_probe {}, n_rerank {} ({about})", effort.n_probe, effort.n_rerank);
    }
    report::say_clamped(&index, params, effort);
    let n = queries.n_rows();
    if n == 0 {
        // The library's own words for it.
        searcher.search_vectors(&queries, params)?;
    }
    let mut ids = Vec::new();
    let mut scores = Vec::new();
    if args.output.is_some() || args.scores.is_some() {
        let places = n.saturating_mul(args.k);
        if ids.try_reserve_exact(places).is_err() || scores.try_reserve_exact(places).is_err() {
            return Err(CliError::Input(format!(
                "k: expected a result that fits in memory, got {n} queries of {} neighbours",
                args.k
            )));
        }
    }
    let mut missing = 0;
    let mut profile = nearfield::Profile::default();
    let since = std::time::Instant::now();
    let bar = report::bar("search", n as u64);
    for start in (0..n).step_by(STEP) {
        let window = Window { vectors: &queries, start, n_rows: STEP.min(n - start) };
        let hits = if args.profile {
            let (hits, times) = searcher.profile(&window, params).map_err(|e| named(e, start))?;
            profile.add(&times);
            hits
        } else {
            searcher.search_vectors(&window, params).map_err(|e| named(e, start))?
        };
        missing += hits.ids.iter().filter(|&&id| id == NO_ID).count();
        if args.output.is_some() || args.scores.is_some() {
            ids.extend(hits.ids.iter().copied());
            scores.extend(hits.scores.iter().copied());
        }
        if args.output.is_none() {
            bar.suspend(|| print(&hits, start, json))?;
        }
        bar.inc(window.n_rows as u64);
    }
    bar.finish_and_clear();
    if index.metric().normalises() {
        say_zero_queries(&queries);
    }
    if args.profile {
        report::profile(&searcher, &profile);
    }
    // Beyond the last point there is nothing to find.
    let missing = missing - n * args.k.saturating_sub(index.len());
    if missing > 0 {
        let places = n * args.k.min(index.len());
        eprintln!(
            "k: {missing} of {places} places are empty, for the lists read hold fewer points; raise --n-probe"
        );
    }
    let shape = (n, args.k);
    if let Some(path) = &args.output {
        let ids = ndarray::Array2::from_shape_vec(shape, ids).map_err(|e| CliError::Input(e.to_string()))?;
        io::write_ids(path, ids.view())?;
    }
    if let Some(path) = &args.scores {
        let scores =
            ndarray::Array2::from_shape_vec(shape, scores).map_err(|e| CliError::Input(e.to_string()))?;
        io::write_scores(path, scores.view())?;
    }
    let Some(path) = &args.output else { return Ok(()) };
    let took = since.elapsed();
    if json {
        return report::line(
            &json!({
                "queries": n, "k": args.k, "device": searcher.device().name, "search_s": took.as_secs_f64(),
                "n_probe": effort.n_probe, "n_rerank": effort.n_rerank,
                "recall": choice.as_ref().map(|choice| choice.recall),
                "tuned_with": choice.as_ref().map(|choice| choice.source),
                "peak_bytes": report::peak_memory(),
            })
            .to_string(),
        );
    }
    let (shown, k) = (path.display(), args.k);
    let (took, peak) = (report::duration(took), report::up_to_memory());
    report::line(&format!("{shown}: {k} neighbours of {n} queries in {took}{peak}"))
}

/// A search error whose row counts from the file's first query.
fn named(e: nearfield::SearchError, start: usize) -> CliError {
    use nearfield::{SearchError, VectorError};
    CliError::from(match e {
        SearchError::Queries(VectorError::NotFinite { what, row, column, value }) => {
            SearchError::Queries(VectorError::NotFinite { what, row: row + start, column, value })
        }
        other => other,
    })
}

fn print(hits: &Hits, start: usize, json: bool) -> Result<(), CliError> {
    for (i, (ids, scores)) in hits.ids.outer_iter().zip(hits.scores.outer_iter()).enumerate() {
        let query = start + i;
        let found = ids.iter().zip(scores).filter(|(id, _)| **id != NO_ID);
        if json {
            let (ids, scores): (Vec<u64>, Vec<f32>) = found.map(|(&id, &score)| (id, score)).unzip();
            report::line(&json!({ "query": query, "ids": ids, "scores": scores }).to_string())?;
        } else {
            let found: Vec<String> = found.map(|(id, score)| format!("{id}:{score:.6}")).collect();
            report::line(&format!("{query}\t{}", found.join(" ")))?;
        }
    }
    Ok(())
}
