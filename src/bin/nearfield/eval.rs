//! `nearfield eval`

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use ndarray::{Array2, ArrayView2, s};
use nearfield::{Effort, Hits, Index, SearchParams, Searcher, Vectors, eval::Recall, io::VectorFile};
use serde_json::{Value, json};

use crate::{
    build::{SpecArg, limit_threads},
    devices::DeviceArgs,
    error::CliError,
    plot, report,
};

/// Measure recall and speed over a range of efforts.
///
/// Every combination of --n-probe and --n-rerank is searched once to warm up and then again until --seconds
/// have passed; the median run counts. Recall is the share of the k true neighbours found (recall@k); it
/// counts each id once, and what ties with the k-th true neighbour. `1@k` (`recall_1` in JSON) is the share of
/// the queries whose nearest neighbour is among the k found; JSON has `recall_1_at` for smaller numbers too.
///
/// With --hdf5 a file of ann-benchmarks or VIBE is all it takes: its vectors are indexed as --spec says, its queries searched,
/// and its neighbours are the truth.
#[derive(clap::Args)]
pub struct Args {
    /// Index file.
    #[arg(required_unless_present = "hdf5")]
    index: Option<PathBuf>,
    /// Query vectors, one a row; a one-dimensional array is one query.
    #[arg(required_unless_present = "hdf5")]
    queries: Option<PathBuf>,
    /// Exact neighbours by query, best first (see `nearfield truth`).
    #[arg(long, required_unless_present = "hdf5")]
    truth: Option<PathBuf>,
    /// The vectors the index was built from: near-ties then count by exact score. Not needed where the
    /// index stores rows in f32.
    #[arg(long)]
    base: Option<PathBuf>,
    /// A file of ann-benchmarks or VIBE, with `train`, `test`, `neighbors` and the attribute `distance`.
    #[arg(long, conflicts_with_all = ["index", "queries", "truth", "base"], requires = "spec")]
    hdf5: Option<PathBuf>,
    /// What to index the vectors of --hdf5 as, or `auto` (see `nearfield build --help`).
    #[arg(long, requires = "hdf5")]
    spec: Option<SpecArg>,
    /// Neighbours a query.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Lists read a query, one or several: 4,8,16.
    #[arg(long, value_delimiter = ',')]
    n_probe: Vec<usize>,
    /// Candidates scored exactly, one or several: 50,100.
    #[arg(long, value_delimiter = ',')]
    n_rerank: Vec<usize>,
    /// Recalls to reach, one or several, as 0.9,0.95, in the place of --n-probe and --n-rerank: what `nearfield tune` found.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["n_probe", "n_rerank", "hdf5"])]
    recall: Vec<f64>,
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
    /// Draw recall and speed to this .svg file, too.
    #[arg(long)]
    plot: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0 to 3600".to_owned()),
    }
}

/// Queries a call.
#[derive(Clone, Copy)]
pub enum Batch {
    All,
    Of(usize),
}

impl Batch {
    /// Queries a call, of `n` in all.
    pub fn size(self, n: usize) -> usize {
        match self {
            Self::All => n,
            Self::Of(size) => size.min(n),
        }
    }
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
    if let Some(path) = &args.plot {
        let inputs = [&args.index, &args.queries, &args.truth, &args.base, &args.hdf5];
        let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
        report::check_output("--plot", path, Some("svg"), &inputs)?;
    }
    let Inputs { index, searcher, file, truth, base } = Inputs::open(args)?;
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
    let view = queries.view();
    let mut recall = Recall::new(&index, &view, truth.view(), args.k)?;
    if let Some(base) = &base {
        recall = recall.with_base(base)?;
    }
    report::doubt_truth(&recall, index.metric());
    let n = queries.nrows();
    let batch = args.batch.size(n);
    // A single query runs on the calling thread.
    let threads = if batch == 1 { 1 } else { rayon::current_num_threads() };
    let mut rows = Vec::new();
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
    for mut params in efforts(args) {
        params.threads = if threads == 1 { 1 } else { 0 };
        let effort = searcher.effort(params)?;
        report::say_clamped(&index, params, effort);
        let measured = measure(&searcher, queries.view(), batch, params, args.seconds)?;
        let ids = measured.hits.ids.view();
        let depths = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].into_iter().filter(|&n| n < args.k);
        let nearest: Vec<(usize, f64)> =
            depths.chain([args.k]).map(|n| (n, recall.of_nearest(ids.slice(s![.., ..n])))).collect();
        let row = Row { k: args.k, batch, threads, effort, recall: recall.of(ids), nearest, measured };
        if json {
            report::line(&row.json(&index, &searcher).to_string())?;
        } else {
            report::line(&row.text())?;
        }
        rows.push(row.json(&index, &searcher));
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
    if let Some(path) = &args.plot {
        let curves = plot::curves(&rows, plot::Axes::Speed);
        plot::draw(path, &curves, plot::Axes::Speed, args.k as u64, "", None)?;
        eprintln!("plot: {}", path.display());
    }
    Ok(())
}

/// The efforts asked for: recalls, or every n_probe with every n_rerank.
fn efforts(args: &Args) -> Vec<SearchParams> {
    let params = SearchParams::new(args.k);
    if !args.recall.is_empty() {
        return args.recall.iter().map(|&recall| params.recall(recall)).collect();
    }
    let options = |given: &[usize]| -> Vec<Option<usize>> {
        if given.is_empty() { vec![None] } else { given.iter().copied().map(Some).collect() }
    };
    let rerank = options(&args.n_rerank);
    let probe = options(&args.n_probe).into_iter();
    probe
        .flat_map(|n_probe| rerank.iter().map(move |&n_rerank| SearchParams { n_probe, n_rerank, ..params }))
        .collect()
}

/// What is measured: an index, queries and what they should find.
struct Inputs {
    index: Index,
    searcher: Searcher,
    file: VectorFile,
    truth: Array2<u64>,
    base: Option<VectorFile>,
}

impl Inputs {
    fn open(args: &Args) -> Result<Self, CliError> {
        #[cfg(feature = "hdf5")]
        if let (Some(path), Some(spec)) = (&args.hdf5, args.spec) {
            let part = |name: &str| {
                let mut part = path.clone().into_os_string();
                part.push(format!(":{name}"));
                PathBuf::from(part)
            };
            let metric = nearfield::io::hdf5_metric(path)?;
            let base = report::vectors("--hdf5", &part("train"))?;
            let file = report::queries("--hdf5", &part("test"))?;
            let truth = report::ids("--hdf5", &part("neighbors"))?;
            let auto = nearfield::Auto { k: args.k, ..nearfield::Auto::new(metric) };
            let spec = spec.of(&auto, &base)?;
            let stages = report::Stages::default();
            let progress = |p| stages.update(p);
            let built = Index::builder(spec).metric(metric).progress(&progress).build(&base);
            stages.finish();
            let index = built?;
            let searcher = index.searcher(args.device.device()?)?;
            eprintln!("device: {}", searcher.device());
            return Ok(Self { index, searcher, file, truth, base: Some(base) });
        }
        let (Some(index), Some(queries), Some(truth)) = (&args.index, &args.queries, &args.truth) else {
            return Err(CliError::Input(
                "--hdf5: this build lacks the feature `hdf5`: cargo install with --features hdf5".to_owned(),
            ));
        };
        let (index, searcher) = report::searcher(index, &args.device, args.load)?;
        let file = report::queries("QUERIES", queries)?;
        let truth = report::ids("--truth", truth)?;
        let base = args.base.as_deref().map(|path| report::vectors("--base", path)).transpose()?;
        Ok(Self { index, searcher, file, truth, base })
    }
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

/// A row of the table.
struct Row {
    k: usize,
    batch: usize,
    threads: usize,
    effort: Effort,
    recall: f64,
    /// Share of the queries whose nearest is among the first so many.
    nearest: Vec<(usize, f64)>,
    measured: Measured,
}

impl Row {
    fn qps(&self) -> f64 {
        self.measured.hits.ids.nrows() as f64 / self.measured.seconds
    }

    fn recall_1(&self) -> f64 {
        self.nearest.last().map_or(0.0, |(_, share)| *share)
    }

    fn json(&self, index: &Index, searcher: &Searcher) -> Value {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let by_depth: serde_json::Map<String, Value> =
            self.nearest.iter().map(|(n, share)| (n.to_string(), json!(share))).collect();
        json!({
            "spec": index.spec().to_string(), "metric": index.metric().to_string(),
            "device": searcher.device().name, "k": self.k, "n_probe": self.effort.n_probe,
            "n_rerank": self.effort.n_rerank, "batch": self.batch, "threads": self.threads,
            "recall": self.recall, "recall_1": self.recall_1(), "recall_1_at": by_depth, "qps": self.qps(),
            "p50_ms": ms(self.measured.p50), "p99_ms": ms(self.measured.p99), "index_bytes": index.n_bytes(),
        })
    }

    fn text(&self) -> String {
        format!(
            "{:>8} {:>9} {:>8.4} {:>8.4} {:>10.0} {:>10} {:>10}",
            self.effort.n_probe,
            self.effort.n_rerank,
            self.recall,
            self.recall_1(),
            self.qps(),
            report::duration(self.measured.p50),
            report::duration(self.measured.p99)
        )
    }
}
