//! `nearfield info` and `nearfield verify`

use std::{path::PathBuf, time::Instant};

use nearfield::{Compressor, Index, OpenError, tune};
use serde_json::json;

use crate::{error::CliError, report, sample};

/// An index file, or one of `nearfield compress --save`.
#[derive(clap::Args)]
pub struct Args {
    /// Index file, or a transform's.
    index: PathBuf,
}

/// What the file holds.
enum Opened {
    Index(Box<Index>),
    Transform(Compressor),
}

impl Args {
    fn open(&self) -> Result<Opened, CliError> {
        let opened = match Index::open(&self.index) {
            // Transforms by themselves have no specification.
            Err(OpenError::Metadata { key: "spec", got: None, .. }) => {
                Compressor::open(&self.index).map(Opened::Transform)
            }
            index => index.map(Box::new).map(Opened::Index),
        };
        report::named(&self.index, opened)
    }
}

fn show_transform(transform: &Compressor, json: bool) -> Result<(), CliError> {
    let (spec, metric) = (transform.spec().to_string(), transform.metric().to_string());
    let (d, s) = (transform.dim(), transform.compressed_dim());
    if json {
        let training = transform.training();
        return report::line(
            &json!({ "transform": spec, "metric": metric, "d": d, "s": s, "training": training }).to_string(),
        );
    }
    report::line(&format!("a transform by itself, {spec} ({metric}), {d} to {s} dimensions"))?;
    transform.training().map_or(Ok(()), |training| report::line(&format!("trained  {training}")))
}

pub fn show(args: &Args, json: bool) -> Result<(), CliError> {
    let index = match args.open()? {
        Opened::Index(index) => index,
        Opened::Transform(transform) => return show_transform(&transform, json),
    };
    let mut sizes = index.list_sizes();
    sizes.sort_unstable();
    let (least, middle, most) = (sizes[0], sizes[sizes.len() / 2], sizes[sizes.len() - 1]);
    let tensors = index.tensors();
    if json {
        let tensors: Vec<_> = tensors
            .iter()
            .map(|t| json!({ "name": t.name, "dtype": t.dtype, "shape": t.shape, "bytes": t.bytes }))
            .collect();
        return report::line(
            &json!({
                "spec": index.spec().to_string(), "metric": index.metric().to_string(), "n": index.len(),
                "d": index.dim(), "seed": index.seed(), "builder": index.metadata("builder"),
                "training": index.metadata("training"), "routing": index.metadata("routing"),
                "networks": index.metadata("networks"), "partition": index.metadata("partition"),
                "tuned": index.tunings().iter().map(|t| sample::summary(t, tune::USUAL)).collect::<Vec<_>>(),
                "index_bytes": index.n_bytes(), "lists_a_point": index.n_copies(),
                "copy_bytes": index.copy_bytes(), "n_lists": index.n_lists(),
                "list_sizes": { "min": least, "median": middle, "max": most }, "tensors": tensors,
            })
            .to_string(),
        );
    }
    report::line(&format!("spec     {}", index.spec()))?;
    report::line(&format!("metric   {}", index.metric()))?;
    report::line(&format!("points   {} × {}", index.len(), index.dim()))?;
    report::line(&format!("lists    {} of {least} to {most} points, median {middle}", index.n_lists()))?;
    if index.n_copies() > 1 {
        let (further, bytes) = (index.n_copies() - 1, index.copy_bytes());
        let a_point = bytes as f64 / index.len() as f64;
        report::line(&format!(
            "copies   {further} of each point, {} each ({a_point:.1} B a point)",
            report::bytes(bytes)
        ))?;
    }
    report::line(&format!("seed     {}", index.seed()))?;
    for tuning in index.tunings() {
        let best = tuning.points.last().map_or(0.0, |point| point.recall);
        let says = sample::says(tuning, tune::USUAL).unwrap_or_else(|| format!("recall {best:.4} at most"));
        let (k, n, source, device) =
            (tuning.k, tuning.n_queries, tuning.source, report::plain(&tuning.device));
        report::line(&format!("tuned    k = {k}, {n} {source}, {device}: {says}"))?;
    }
    let found =
        [("training", "trained"), ("partition", "lists by"), ("routing", "routed"), ("networks", "networks")];
    for (key, label) in found {
        if let Some(found) = index.metadata(key) {
            report::line(&format!("{label:<8} {}", report::plain(found)))?;
        }
    }
    report::line(&format!("builder  {}", report::plain(index.metadata("builder").unwrap_or("unknown"))))?;
    report::line(&format!("size     {}", report::bytes(index.n_bytes())))?;
    report::line("")?;
    report::line(&format!(
        "{:<18} {:>5} {:>18} {:>12} {:>10}",
        "tensor", "type", "shape", "size", "a point"
    ))?;
    for t in tensors {
        let shape: Vec<String> = t.shape.iter().map(ToString::to_string).collect();
        report::line(&format!(
            "{:<18} {:>5} {:>18} {:>12} {:>8.1} B",
            report::plain(&t.name),
            t.dtype,
            shape.join(" × "),
            report::bytes(t.bytes),
            t.bytes as f64 / index.len() as f64
        ))?;
    }
    Ok(())
}

pub fn verify(args: &Args, json: bool) -> Result<(), CliError> {
    let since = Instant::now();
    let n = match args.open()? {
        Opened::Index(index) => {
            report::named(&args.index, index.verify())?;
            index.tensors().len()
        }
        // Opening has compared them.
        Opened::Transform(transform) => transform.n_tensors(),
    };
    let took = since.elapsed();
    if json {
        return report::line(
            &json!({ "ok": true, "tensors": n, "verify_s": took.as_secs_f64() }).to_string(),
        );
    }
    report::line(&format!("{}: {n} tensors as saved, {}", args.index.display(), report::duration(took)))
}
