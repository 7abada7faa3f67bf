//! `nearfield build`

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use nearfield::{
    Auto, BuildError, Device, Index, IndexBuilder, IndexSpec, Metric, QuerySource, RowDtype, ScorerSpec,
    StageTime, Training, TransformSpec, Trial, Tuner, Tuning, VectorError, Vectors, auto::NOISE,
    io::VectorFile, tune,
};
use serde_json::json;

use crate::{
    error::CliError,
    report,
    sample::{self, Points, Sample},
};

/// Build an index from a file of vectors
///
/// The specification names the stages, in order:
///
///   [transform,] [IVF<n_lists>[(options)],] scorer [,Refine(dtype)]
///
///   PCA<s>                  reduce to s dimensions
///   PCA<s>x8                the same in int8: faster, and as good unless one dimension is hundreds of times the spread
///   LIN<s>[x8]              by a linear map trained to keep distances: finds more than PCA<s> where few dimensions are kept
///   CNT<s>[(options)]       by a network trained for the same (built with --features neural); options, its sizes:
///     tokens=4, heads=2, stages=1, expansion=2
///   SRP<s>[x8]              by a sparse random projection, a baseline
///   IVF<n_lists>            partition into lists; options, with commas between:
///     soar[=1..7]           copies of each point in further lists (SOAR); 1 unless given
///     lambda=<λ>            the weight of SOAR's penalty; 1 unless given
///     T=<t>                 centroids by the score-aware loss of threshold t
///     router=linear         lists chosen by weights trained on true neighbours: fewer lists for queries of another kind
///     router=cnn            a convolutional network before these weights (built with --features neural; minutes of training); with
///                           it labels (trained on the lists that queries fall into) and width=<channels>, 128 unless given
///   RRR<rank>[x4|x8]        LoRANN: low-rank regression a list, factors of 8 bits unless given
///   PQ<M>x4|x8              product quantisation: M subspaces, codes of 4 or 8 bits
///   APQ<M>x4|x8[(T=<t>)]    ScaNN: the same, trained by the score-aware loss (t is 0.2 unless given)
///   CNN[(width=<w>)]        a convolutional network for each list, for small sets (built with --features neural)
///   SQ8, Flat               a byte a dimension; full vectors
///   Refine(f32|f16|sq8)     stored rows for exact scores; without it scores are approximate
///
/// Numbers left out of transforms, IVF and RRR are chosen from the data. Specifications that do well:
///
///   PCA,IVF,RRR,Refine(f16)                       any vectors, to begin with
///   PCA192x8,IVF1024(soar),RRR64x4,Refine(f16)    embeddings of some hundred dimensions, in batches
///   PCA192x8,IVF2048(soar),APQ64x4,Refine(f16)    the same, one query at a time
///   PCA192x8,IVF2048(soar=3),APQ64x4,Refine(f16)  the same, queries of another kind than the points
///   IVF1024(soar),APQ48x4,Refine(f16)             about 100 dimensions, ip or cosine
///   PCA128x8,IVF256,RRR32,Refine(sq8)             l2, data that are bytes
///   Flat                                          exact
///
/// `auto` builds ten to twenty specifications on half of the vectors (at least 16 384, or all; at most 131 072) and prints what it
/// tried: about a minute for 100 000 vectors on two cores. Of those within 8 % of the fastest at recall 0.95 (k = 10, in batches, on
/// the CPU) it takes the smallest. Timings vary all the same; give the specification printed to have the same again.
///
/// A build ends with a short tuning: exact neighbours of up to a thousand of the vectors, or of --tune-queries, say which effort reaches
/// which recall. `nearfield search` without numbers then finds 0.95 of the true ten, and `--recall` chooses others. Where the index
/// falls short of that, a warning says so and what to change. What all vectors have in common is subtracted, long rows get a scale of
/// their own in bytes, and for ip, where lengths differ, lists are made by distance if that finds more: nothing needs to be set.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    index: IndexArgs,
    /// Index file to write; an old one is replaced only when the new one is complete.
    #[arg(short, long)]
    output: PathBuf,
    /// Queries to tune with, some hundred; the training queries if not given, else rows of BASE that stand in for queries.
    #[arg(long, value_name = "FILE", conflicts_with = "no_tune")]
    tune_queries: Option<PathBuf>,
    /// Leave out the tuning at the end: searches without numbers then take a fixed effort.
    #[arg(long)]
    no_tune: bool,
}

/// What an index is built of.
#[derive(clap::Args)]
pub struct IndexArgs {
    /// Vectors to index, one a row.
    pub base: PathBuf,
    /// What the index is made of, or `auto`: what is fastest on a sample. If not given, PCA,IVF,RRR,Refine(f16); below 32 dimensions
    /// IVF,Flat, and below 1000 vectors Flat; f32 for values that f16 does not hold.
    #[arg(long)]
    pub spec: Option<SpecArg>,
    /// ip (inner product), cosine, or l2 (squared Euclidean distance).
    #[arg(long)]
    pub metric: Metric,
    /// Queries like those to come, where they are of another kind than the vectors.
    #[arg(long)]
    pub train_queries: Option<PathBuf>,
    /// Ids of the rows, whole numbers from 0 to 2⁶³ − 1; row numbers if not given.
    #[arg(long)]
    pub ids: Option<PathBuf>,
    /// Threads; all cores if not given. The index does not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Seed of every random choice: the same seed, specification and vectors give the same file.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// How LIN and CNT are trained.
#[derive(clap::Args)]
pub struct TrainingArgs {
    /// Steps of training: 1000 for LIN and 2000 for CNT if not given. It ends before where rows held out show no progress.
    #[arg(long)]
    steps: Option<usize>,
    /// File that the state of a training is kept in, for LIN and CNT: an interrupted one goes on from there.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
}

impl TrainingArgs {
    /// The training asked for, where the transform is one that is trained.
    pub fn of(&self, transform: Option<TransformSpec>) -> Result<Option<Training>, CliError> {
        if let Some(transform) = transform.filter(|transform| transform.is_trained()) {
            let usual = Training::of(transform);
            let steps = self.steps.unwrap_or(usual.steps);
            if let Some(path) = self.checkpoint.as_deref().filter(|path| path.exists()) {
                eprintln!("note: going on from {}", path.display());
            }
            return Ok(Some(Training { steps, checkpoint: self.checkpoint.clone(), ..usual }));
        }
        let argument = match (self.steps, &self.checkpoint) {
            (None, None) => return Ok(None),
            (Some(_), _) => "--steps",
            (None, Some(_)) => "--checkpoint",
        };
        let got = transform.map_or("no transform".to_owned(), |transform| transform.to_string());
        Err(CliError::Usage(format!("{argument}: only LIN and CNT are trained in steps, got {got}")))
    }
}

/// A specification, or the wish for one.
#[derive(Clone, Copy)]
pub enum SpecArg {
    Auto,
    Given(IndexSpec),
}

impl FromStr for SpecArg {
    type Err = nearfield::SpecError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s == "auto" { Ok(Self::Auto) } else { s.parse().map(Self::Given) }
    }
}

/// The files of [`IndexArgs`], opened.
pub struct Inputs {
    pub base: VectorFile,
    queries: Option<VectorFile>,
    ids: Option<Vec<u64>>,
}

impl Inputs {
    /// Bytes of the values in all files, which are mapped, or read where their format wants it.
    pub fn n_bytes(&self) -> usize {
        let queries = self.queries.as_ref().map_or(0, VectorFile::n_bytes);
        self.base.n_bytes() + queries + self.ids.as_ref().map_or(0, |ids| 8 * ids.len())
    }
}

impl IndexArgs {
    /// Opens the files.
    pub fn open(&self) -> Result<Inputs, CliError> {
        let base = report::vectors("BASE", &self.base)?;
        let queries = self.train_queries.as_deref();
        let queries = queries.map(|path| report::vectors("--train-queries", path)).transpose()?;
        let ids = self.ids.as_deref().map(|path| report::row_ids("--ids", path)).transpose()?;
        if let Some(ids) = &ids
            && ids.ncols() != 1
        {
            let shape = ids.dim();
            return Err(CliError::Input(format!("--ids: expected one id a row, got shape {shape:?}")));
        }
        let ids = ids.map(|ids| ids.into_raw_vec_and_offset().0);
        Ok(Inputs { base, queries, ids })
    }

    /// The files that are read.
    pub fn paths(&self) -> Vec<&Path> {
        let mut paths = vec![self.base.as_path()];
        paths.extend(self.train_queries.as_deref());
        paths.extend(self.ids.as_deref());
        paths
    }

    /// A builder of an index of the files.
    pub fn builder<'a>(&self, spec: IndexSpec, inputs: &'a Inputs) -> Result<IndexBuilder<'a>, CliError> {
        let mut builder = Index::builder(spec).metric(self.metric).seed(self.seed);
        if let Some(training) = self.training.of(spec.transform)? {
            builder = builder.training(training);
        }
        if let Some(queries) = &inputs.queries {
            builder = builder.train_queries(queries);
        }
        if let Some(ids) = &inputs.ids {
            builder = builder.ids(ids);
        }
        Ok(builder)
    }

    /// Builds or plans by a specification; with rows in f32 where none was given and f16 does not hold the vectors.
    pub fn with_rows<T>(
        &self,
        spec: IndexSpec,
        mut act: impl FnMut(IndexSpec) -> Result<Result<T, BuildError>, CliError>,
    ) -> Result<T, CliError> {
        match act(spec)? {
            Err(BuildError::Vectors(VectorError::HalfRange { .. } | VectorError::HalfUnderflow { .. }))
                if self.spec.is_none() =>
            {
                Ok(act(IndexSpec { refine: Some(RowDtype::F32), ..spec })??)
            }
            done => Ok(done?),
        }
    }

    /// The specification given, or the one that is fastest on a sample, or one that suits any vectors.
    pub fn spec(&self, inputs: &Inputs) -> Result<IndexSpec, CliError> {
        let Some(spec) = self.spec else {
            return Ok(IndexSpec::suited(inputs.base.n_rows(), inputs.base.dim()).map_err(BuildError::from)?);
        };
        if let SpecArg::Auto = spec {
            // No specification that is tried has a transform to train.
            self.training.of(None)?;
        }
        let train_queries = inputs.queries.as_ref().map(|file| file as &dyn Vectors);
        let auto = Auto { train_queries, seed: self.seed, ..Auto::new(self.metric) };
        spec.of(&auto, &inputs.base)
    }
}

impl SpecArg {
    /// The specification given, or the one that is fastest on a sample; says on stderr what was tried.
    pub fn of(self, auto: &Auto<'_>, base: &VectorFile) -> Result<IndexSpec, CliError> {
        if let Self::Given(spec) = self {
            return Ok(spec);
        }
        let (k, n) = (auto.k, base.n_rows());
        let mut tried = 0;
        let bar = report::spinner("auto");
        let mut print = |trial: &Trial| {
            bar.suspend(|| {
                if tried == 0 {
                    eprintln!(
                        "auto: {} of {n} vectors, {} queries, k = {k}, on the CPU",
                        trial.n_sampled, trial.n_queries
                    );
                    eprintln!("{:>8} {:>10} {:>9} {:>8}  spec", "recall", "queries/s", "B/vector", "build");
                }
                let (build, bytes) = (trial.build_seconds, trial.bytes_per_vector);
                let (recall, qps, spec) = (trial.recall, trial.qps, trial.spec);
                eprintln!("{recall:>8.4} {qps:>10.0} {bytes:>9.0} {build:>6.1} s  {spec}");
            });
            tried += 1;
            bar.set_message(format!("auto: {tried} specifications tried"));
            true
        };
        let trials = auto.run(base, &mut print);
        bar.finish_and_clear();
        let trials = trials?;
        let chosen = &trials[0];
        let how = if chosen.recall < auto.recall {
            format!("none reaches recall {}, this one comes nearest", auto.recall)
        } else {
            format!(
                "the smallest of those within {:.0} % of the fastest at recall {}",
                100.0 * (NOISE - 1.0),
                auto.recall
            )
        };
        eprintln!("auto: {}: {how}", chosen.spec);
        Ok(chosen.spec)
    }
}

/// Limits the number of threads that work on this process's batches.
pub fn limit_threads(threads: Option<u16>) -> Result<(), CliError> {
    match threads {
        None => Ok(()),
        Some(threads) => rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
            .map_err(|e| CliError::Io(format!("threads: {e}"))),
    }
}

/// Neighbours that the tuning at the end of a build is for.
const TUNED_K: usize = 10;

/// Recall that it looks up to, and the time that it takes: [`TUNE_MAX`], and [`TUNE_ENOUGH`] once searches without numbers are served.
const TUNE_UP_TO: f64 = 0.99;
const TUNE_ENOUGH: Duration = Duration::from_secs(3);
const TUNE_MAX: Duration = Duration::from_secs(10);

/// Products of exact search that it may take: about two seconds on two cores. From this follows the number of queries.
const TUNE_PRODUCTS: usize = 60_000_000_000;
const TUNE_QUERIES: [usize; 2] = [100, 1000];

/// Candidates that show what an index is able to, whatever it takes.
const MANY: usize = 1000;

/// Share of the lists, one in so many, beyond which a search without numbers reads too many.
const LISTS_SHARE: usize = 4;

/// Measures some efforts, and says where the index falls short.
fn tune_briefly(
    index: &Index,
    inputs: &Inputs,
    queries: Option<&VectorFile>,
    seed: u64,
) -> Result<Tuning, CliError> {
    let searcher = index.searcher(Device::cpu())?;
    let id_of = |row: usize| inputs.ids.as_ref().map_or(row as u64, |ids| ids[row]);
    let points = Points { vectors: &inputs.base, id_of: &id_of, metric: index.metric() };
    let [least, most] = TUNE_QUERIES;
    let n = (TUNE_PRODUCTS / (index.len() * index.dim())).clamp(least, most);
    let trained = inputs.queries.as_ref();
    let asked = queries.map(|file| (file, QuerySource::Given));
    let sample = match asked.or(trained.map(|file| (file, QuerySource::Training))) {
        Some((file, source)) => Sample::of_queries(file, source, &points, TUNED_K, (n, seed))?,
        None => Sample::of_points(&points, TUNED_K, (n, seed))?,
    };
    let view = sample.queries();
    let base = inputs.ids.is_none().then_some(&inputs.base as &dyn Vectors);
    let recall = sample.recall(index, &view, TUNED_K, base)?;
    let tuner = Tuner { enough: TUNE_UP_TO, ..sample.tuner(index, &searcher, &recall, TUNED_K) };
    let since = Instant::now();
    let mut tuning = sample::run(&tuner, |point| {
        let is_served = point.recall >= tune::USUAL;
        since.elapsed() < if is_served { TUNE_ENOUGH } else { TUNE_MAX }
    })?;
    let best = tuning.points.last().map_or(0.0, |point| point.recall);
    let reads = tuning.cheapest(tune::USUAL).map(|point| point.n_probe);
    let n_lists = index.n_lists();
    if reads.is_none_or(|n_probe| n_lists >= 32 && n_probe > n_lists / LISTS_SHARE) {
        let most = tuner.measure(n_lists, MANY.min(index.len()))?;
        let all = most.recall;
        tuning = tuning.with(most);
        if all < tune::USUAL {
            eprintln!(
                "warning: recall is {all:.3} with all {n_lists} lists and {MANY} candidates: {}",
                finer(index.spec())
            );
        } else {
            let reached = reads.map_or(format!("recall {best:.3} is what tuning reached"), |n_probe| {
                format!("recall {} takes {n_probe} of {n_lists} lists", tune::USUAL)
            });
            eprintln!(
                "warning: {reached}, all lists reach {all:.3}: copies in further lists (soar=2) and queries like those to come \
                 (--train-queries) help where neighbours are far apart; `nearfield tune` takes its time"
            );
        }
    }
    Ok(tuning)
}

/// What to change where all lists and many candidates are not enough.
fn finer(spec: IndexSpec) -> &'static str {
    match (spec.refine, spec.scorer) {
        (None, ScorerSpec::Flat) => "a transform of more dimensions keeps more",
        (None, _) => "scores are approximate without stored rows; add Refine(f16)",
        (Some(RowDtype::Sq8), _) => {
            "rows in bytes are coarse for these vectors; use Refine(f16) or Refine(f32)"
        }
        (Some(RowDtype::F16), ScorerSpec::Flat) => {
            "rows in f16 are coarse for these vectors; use Refine(f32)"
        }
        (_, ScorerSpec::Rrr { .. }) => {
            "scores are coarse for these vectors; use a higher rank, 8 bits, or a PCA of more dimensions"
        }
        (_, ScorerSpec::Pq { .. }) => {
            "codes are coarse for these vectors; use more subspaces, a PCA ahead of them, or RRR"
        }
        (_, _) => "scores are coarse for these vectors; use RRR or Flat, or a transform of more dimensions",
    }
}

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    let Args { index: args, output, tune_queries, no_tune } = args;
    limit_threads(args.threads)?;
    let mut inputs = args.paths();
    inputs.extend(tune_queries.as_deref());
    report::check_output("--output", output, None, &inputs)?;
    if let Some(path) = &args.training.checkpoint {
        let mut others = args.paths();
        others.push(output);
        report::check_output("--checkpoint", path, None, &others)?;
        if path == output {
            return Err(CliError::Usage(format!("--checkpoint: {} is --output", path.display())));
        }
    }
    let inputs = args.open()?;
    let tune_queries =
        tune_queries.as_deref().map(|path| report::queries("--tune-queries", path)).transpose()?;
    if let Some(queries) = &tune_queries
        && (queries.dim() != inputs.base.dim() || queries.n_rows() == 0)
    {
        let (expected, n, got) = (inputs.base.dim(), queries.n_rows(), queries.dim());
        return Err(CliError::Input(format!(
            "--tune-queries: expected one row or more of {expected} values, got {n} of {got}"
        )));
    }
    let spec = args.spec(&inputs)?;
    let mut since = Instant::now();
    let (mut index, mut times) = args.with_rows(spec, |spec| {
        since = Instant::now();
        let stages = report::Stages::default();
        let progress = |p| stages.update(p);
        let built = args.builder(spec, &inputs)?.progress(&progress).build_timed(&inputs.base);
        stages.finish();
        Ok(built)
    })?;
    let mut total = since.elapsed();
    if index.n_zero_rows() > 0 {
        let (n_zero, n) = (index.n_zero_rows(), index.len());
        eprintln!("note: {n_zero} of {n} vectors are zero: under cosine their score is 0 for every query");
    }
    let mut tuned = None;
    if !no_tune && index.len() > 2 * TUNED_K {
        let tuning = Instant::now();
        let brief = tune_briefly(&index, &inputs, tune_queries.as_ref(), args.seed)?;
        index = index.with_tuning(brief.clone());
        tuned = Some((brief, tuning.elapsed()));
    }
    let saving = Instant::now();
    index.save(output)?;
    times.push(StageTime { stage: "save", seconds: saving.elapsed().as_secs_f64() });
    total += saving.elapsed();
    let n_bytes = std::fs::metadata(output)?.len();
    if json {
        let stages: serde_json::Map<String, serde_json::Value> =
            times.iter().map(|time| (time.stage.to_owned(), json!(time.seconds))).collect();
        return report::line(
            &json!({
                "spec": index.spec().to_string(), "metric": index.metric().to_string(), "n": index.len(),
                "d": index.dim(), "build_s": total.as_secs_f64(), "index_bytes": n_bytes,
                "stages": stages, "peak_bytes": report::peak_memory(),
                "tune_s": tuned.as_ref().map(|(_, took)| took.as_secs_f64()),
                "tuned": tuned.as_ref().map(|(tuning, _)| sample::summary(tuning, tune::USUAL)),
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{}: {} ({}) over {} × {} {} in {}, {}",
        output.display(),
        index.spec(),
        index.metric(),
        inputs.base.n_rows(),
        inputs.base.dim(),
        inputs.base.dtype(),
        report::duration(total),
        report::bytes(usize::try_from(n_bytes).unwrap_or(usize::MAX)),
    ))?;
    report::line(&format!("  {}{}", report::stages(&times), report::up_to_memory()))?;
    if let Some((tuning, took)) = &tuned {
        let (n, source) = (tuning.n_queries, tuning.source);
        let says = sample::says(tuning, tune::USUAL).unwrap_or_else(|| {
            format!(
                "recall {:.4} is the best it found",
                tuning.points.last().map_or(0.0, |point| point.recall)
            )
        });
        report::line(&format!("  tuned in {} with {n} {source}: {says}", report::duration(*took)))?;
    }
    ["training", "partition", "routing", "networks"]
        .iter()
        .filter_map(|key| index.metadata(key))
        .try_for_each(|found| report::line(&format!("  {found}")))
}
