//! `nearfield build`

use std::{path::PathBuf, time::Instant};

use nearfield::{Index, IndexSpec, Metric, Vectors, io};
use serde_json::json;

use crate::{error::CliError, report};

/// Build an index from a file of vectors
///
/// The specification names the stages, in order:
///
///   [PCA<s>[x8],] [IVF<n_lists>[(options)],] scorer [,Refine(dtype)]
///
///   PCA<s>                  reduce to s dimensions
///   PCA<s>x8                the same in int8: faster, and as good unless one dimension is hundreds of times the spread
///   IVF<n_lists>            partition into lists; options, with commas between:
///     soar[=1..7]           copies of each point in further lists (SOAR); 1 unless given
///     lambda=<λ>            the weight of SOAR's penalty; 1 unless given
///     T=<t>                 centroids by the score-aware loss of threshold t
///   RRR<rank>[x4|x8]        LoRANN: low-rank regression a list, factors of 8 bits unless given
///   PQ<M>x4|x8              product quantisation: M subspaces, codes of 4 or 8 bits
///   APQ<M>x4|x8[(T=<t>)]    ScaNN: the same, trained by the score-aware loss (t is 0.2 unless given)
///   SQ8, Flat               a byte a dimension; full vectors
///   Refine(f32|f16|sq8)     stored rows for exact scores; without it scores are approximate
///
/// Numbers left out of PCA (PCAx8), IVF and RRR are chosen from the data. Specifications that do well:
///
///   PCA,IVF,RRR,Refine(f16)                       any vectors, to begin with
///   PCA192x8,IVF1024(soar),RRR64x4,Refine(f16)    embeddings of some hundred dimensions, in batches
///   PCA192x8,IVF2048(soar),APQ64x4,Refine(f16)    the same, one query at a time
///   PCA192x8,IVF2048(soar=3),APQ64x4,Refine(f16)  the same, queries of another kind than the points
///   IVF1024(soar),APQ48x4,Refine(f16)             about 100 dimensions, ip or cosine
///   PCA128x8,IVF256,RRR32,Refine(sq8)             l2, data that are bytes
///   Flat                                          exact
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Vectors to index, one a row.
    base: PathBuf,
    /// Index file to write; an old one is replaced only when the new one is complete.
    #[arg(short, long)]
    output: PathBuf,
    /// What the index is made of.
    #[arg(long, default_value = "PCA,IVF,RRR,Refine(f16)")]
    spec: IndexSpec,
    /// ip (inner product), cosine, or l2 (squared Euclidean distance).
    #[arg(long)]
    metric: Metric,
    /// Queries like those to come, where they are of another kind than the vectors.
    #[arg(long)]
    train_queries: Option<PathBuf>,
    /// Ids of the rows; row numbers if not given.
    #[arg(long)]
    ids: Option<PathBuf>,
    /// Threads; all cores if not given. The result does not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Seed of every random choice: the same seed and vectors give the same file.
    #[arg(long, default_value_t = 0)]
    seed: u64,
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

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    let mut inputs = vec![args.base.as_path()];
    inputs.extend(args.train_queries.as_deref());
    inputs.extend(args.ids.as_deref());
    report::check_output("--output", &args.output, None, &inputs)?;
    let base = report::vectors("BASE", &args.base)?;
    let queries = args.train_queries.as_deref().map(|p| report::vectors("--train-queries", p)).transpose()?;
    let ids = args.ids.as_deref().map(io::read_ids).transpose()?;
    if let Some(ids) = &ids
        && ids.ncols() != 1
    {
        let shape = ids.dim();
        return Err(CliError::Input(format!("--ids: expected one id a row, got shape {shape:?}")));
    }
    let ids = ids.map(|ids| ids.into_raw_vec_and_offset().0);

    let since = Instant::now();
    let stages = report::Stages::new();
    let progress = |p| stages.update(p);
    let mut builder = Index::builder(args.spec).metric(args.metric).seed(args.seed).progress(&progress);
    if let Some(queries) = &queries {
        builder = builder.train_queries(queries);
    }
    if let Some(ids) = &ids {
        builder = builder.ids(ids);
    }
    let built = builder.build(&base);
    let mut seconds = stages.finish();
    let index = built?;
    let saving = Instant::now();
    index.save(&args.output)?;
    seconds.push(("save", saving.elapsed().as_secs_f64()));
    let total = since.elapsed();
    if json {
        let stages: serde_json::Map<String, serde_json::Value> =
            seconds.iter().map(|(name, s)| ((*name).to_owned(), json!(s))).collect();
        return report::line(
            &json!({
                "spec": index.spec().to_string(), "metric": index.metric().to_string(), "n": index.len(),
                "d": index.dim(), "build_s": total.as_secs_f64(), "index_bytes": index.n_bytes(),
                "stages": stages,
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{}: {} ({}) over {} × {} {} in {}, {}",
        args.output.display(),
        index.spec(),
        index.metric(),
        base.n_rows(),
        base.dim(),
        base.dtype(),
        report::duration(total),
        report::bytes(index.n_bytes()),
    ))?;
    let parts: Vec<String> = seconds.iter().map(|(name, s)| format!("{name} {s:.1} s")).collect();
    report::line(&format!("  {}", parts.join(", ")))
}
