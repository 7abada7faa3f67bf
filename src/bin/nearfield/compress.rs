//! `nearfield compress`

use std::{path::PathBuf, time::Instant};

use nearfield::{BuildError, Compressor, Index, Metric, TransformSpec, Vectors, io};
use serde_json::json;

use crate::{
    build::{TrainingArgs, limit_threads},
    error::CliError,
    report,
};

/// Compress vectors for any other library.
///
/// A transform is found for the vectors and written beside them if asked to, or read from a file that it was written to (or from an
/// index); queries must go through the same:
///
///   nearfield compress base.npy --lin 96 --metric cosine --save lin.nf -o base96.npy
///   nearfield compress queries.npy --with lin.nf -o queries96.npy
///
/// What comes out is compared as the vectors are, and with ip and cosine it has their lengths (with --pca only if a sample of queries finds more that way).
///
///   --lin S    a linear map trained to keep distances; seconds, and as quick to apply as PCA; the first to try, but with
///              --train-queries --pca finds more
///   --cnt S    a small network trained for the same; minutes. Sizes as in a specification: --cnt "96(tokens=12,heads=4,stages=2)"
///   --pca S    principal axes (uncentred, of products)
///   --srp S    sparse random projection, a baseline
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(group(clap::ArgGroup::new("transform").required(true).args(["lin", "cnt", "pca", "srp", "with"])))]
pub struct Args {
    /// Vectors to compress, one a row.
    base: PathBuf,
    /// Dimensions to keep, by a linear map trained to keep distances.
    #[arg(long, value_name = "S")]
    lin: Option<String>,
    /// Dimensions to keep, by a compression network.
    #[arg(long, value_name = "S")]
    cnt: Option<String>,
    /// Dimensions to keep, by principal axes.
    #[arg(long, value_name = "S")]
    pca: Option<String>,
    /// Dimensions to keep, by a sparse random projection.
    #[arg(long, value_name = "S")]
    srp: Option<String>,
    /// File of a transform found before, or an index that has one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["metric", "train_queries", "seed", "steps", "checkpoint", "save"])]
    with: Option<PathBuf>,
    /// Compressed vectors to write, .npy in f32; an old file is replaced only when the new one is complete.
    #[arg(short, long)]
    output: PathBuf,
    /// File to write the transform to, for queries.
    #[arg(long)]
    save: Option<PathBuf>,
    /// How vectors are compared: ip, cosine or l2, which is meant where none is given.
    #[arg(long)]
    metric: Option<Metric>,
    /// Queries like those to come, where they are of another kind than the vectors.
    #[arg(long)]
    train_queries: Option<PathBuf>,
    #[command(flatten)]
    training: TrainingArgs,
    /// Threads; all cores if not given. The result does not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Seed of every random choice: the same seed and vectors give the same result.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Args {
    /// The transform to find.
    fn transform(&self) -> Result<TransformSpec, CliError> {
        let asked = [("LIN", &self.lin), ("CNT", &self.cnt), ("PCA", &self.pca), ("SRP", &self.srp)];
        let Some((name, s)) = asked.into_iter().find_map(|(name, s)| Some((name, s.as_ref()?))) else {
            return Err(CliError::Usage("expected one of --lin, --cnt, --pca, --srp and --with".to_owned()));
        };
        let argument = name.to_lowercase();
        let text = format!("{name}{s}");
        let parsed = text.parse::<TransformSpec>();
        parsed.map_err(|e| CliError::Usage(format!("--{argument}: {e}")))
    }

    /// Finds the transform, or reads it.
    fn compressor(&self, base: &io::VectorFile) -> Result<Compressor, CliError> {
        if let Some(path) = &self.with {
            return Compressor::open(path).map_err(|e| report::of("--with", e.into()));
        }
        let transform = self.transform()?;
        if self.metric.is_none() {
            eprintln!(
                "note: as distances (l2) matter; --metric ip or --metric cosine for vectors compared by products"
            );
        }
        let training = self.training.of(Some(transform))?;
        let queries = self.train_queries.as_deref();
        let queries = queries.map(|path| report::vectors("--train-queries", path)).transpose()?;
        let spec = format!("{transform},Flat").parse().map_err(BuildError::Spec)?;
        let stages = report::Stages::default();
        let progress = |p| stages.update(p);
        let mut builder = Index::builder(spec)
            .metric(self.metric.unwrap_or(Metric::L2))
            .seed(self.seed)
            .progress(&progress);
        if let Some(training) = training {
            builder = builder.training(training);
        }
        if let Some(queries) = &queries {
            builder = builder.train_queries(queries);
        }
        let found = builder.compressor(base);
        stages.finish();
        Ok(found?)
    }
}

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.threads)?;
    if args.save.is_some() && args.save == args.training.checkpoint {
        return Err(CliError::Usage("--checkpoint: expected another file than --save".to_owned()));
    }
    let mut inputs = vec![args.base.as_path()];
    inputs.extend(args.train_queries.as_deref());
    inputs.extend(args.with.as_deref());
    report::check_output("--output", &args.output, Some("npy"), &inputs)?;
    for (name, path) in [("--save", &args.save), ("--checkpoint", &args.training.checkpoint)] {
        if let Some(path) = path {
            inputs.push(&args.output);
            report::check_output(name, path, None, &inputs)?;
            if path == &args.output {
                return Err(CliError::Usage(format!("{name}: {} is --output", path.display())));
            }
            inputs.push(path);
        }
    }
    // With a finished transform, BASE may be a single query.
    let open = if args.with.is_some() { report::queries } else { report::vectors };
    let base = open("BASE", &args.base)?;
    if base.n_rows() == 0 {
        return Err(CliError::Input("BASE: expected at least one row, got none".to_owned()));
    }
    let since = Instant::now();
    let compressor = args.compressor(&base)?;
    let found = since.elapsed();
    if let Some(path) = &args.save {
        compressor.save(path)?;
    }
    let since = Instant::now();
    let (n, d, s) = (base.n_rows(), base.dim(), compressor.compressed_dim());
    if d != compressor.dim() {
        let expected = compressor.dim();
        return Err(CliError::Input(format!("BASE: expected {expected} dimensions, as --with has, got {d}")));
    }
    let bar = report::bar("compress", n as u64);
    io::write_vectors(&args.output, (n, s), |first, rows| {
        compressor.compress_rows(&base, first, rows).map_err(BuildError::Vectors)?;
        bar.set_position((first + rows.len() / s) as u64);
        Ok::<_, CliError>(())
    })?;
    bar.finish_and_clear();
    let took = since.elapsed();
    let rate = n as f64 / took.as_secs_f64();
    let (spec, metric) = (compressor.spec(), compressor.metric());
    if json {
        return report::line(
            &json!({
                "transform": spec.to_string(), "metric": metric.to_string(), "n": n, "d": d, "s": s,
                "train_s": args.with.is_none().then_some(found.as_secs_f64()), "compress_s": took.as_secs_f64(),
                "rate": rate, "training": compressor.training(),
            })
            .to_string(),
        );
    }
    report::line(&format!(
        "{}: {n} × {d} to {s} by {spec} ({metric}), {rate:.0} vectors/s{}",
        args.output.display(),
        if args.with.is_some() { String::new() } else { format!(", found in {}", report::duration(found)) }
    ))?;
    if let (Some(training), None) = (compressor.training(), &args.with) {
        report::line(&format!("  {training}"))?;
    }
    if args.save.is_none() && args.with.is_none() {
        eprintln!("note: queries must go through the same transform, which --save FILE keeps");
    }
    Ok(())
}
