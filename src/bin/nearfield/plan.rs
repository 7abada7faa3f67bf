//! `nearfield plan`

use std::time::Duration;

use nearfield::{Plan, SearchParams};
use serde_json::json;

use crate::{
    build::{IndexArgs, limit_threads},
    error::CliError,
    report,
};

/// Say what an index would take, without building it.
///
/// The file's size and the memory follow from the specification; the program itself takes some 10 MB more. The time is
/// measured: samples of an eighth of the vectors (at least 16 384, at most 65 536) are built, and their seconds scaled to
/// all vectors, stage by stage; saving and the tuning at the end of a build come on top. Expect the numbers within a quarter of what then happens.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    index: IndexArgs,
    /// Neighbours a query, in searches.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Lists read a query; the default of `nearfield search` if not given.
    #[arg(long)]
    n_probe: Option<usize>,
    /// Candidates scored exactly; the default of `nearfield search` if not given.
    #[arg(long)]
    n_rerank: Option<usize>,
    /// Queries searched together.
    #[arg(long, default_value_t = 1000)]
    batch: usize,
}

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    limit_threads(args.index.threads)?;
    for (name, value) in [
        ("-k", Some(args.k)),
        ("--n-probe", args.n_probe),
        ("--n-rerank", args.n_rerank),
        ("--batch", Some(args.batch)),
    ] {
        if value == Some(0) {
            return Err(CliError::Usage(format!("{name}: expected at least 1, got 0")));
        }
    }
    let inputs = args.index.open()?;
    let spec = args.index.spec(&inputs)?;
    let plan = args.index.with_rows(spec, |spec| {
        let stages = report::Stages::default();
        let progress = |p| stages.update(p);
        let planned = args.index.builder(spec, &inputs)?.progress(&progress).plan(&inputs.base);
        stages.finish();
        Ok(planned)
    })?;
    let params = SearchParams { n_probe: args.n_probe, n_rerank: args.n_rerank, ..SearchParams::new(args.k) };
    let on_cpu = plan.cpu_bytes(args.batch, params);
    let on_gpu = on_gpu(&plan, args.batch, params);
    let input_bytes = inputs.n_bytes();
    if json {
        let stages: serde_json::Map<String, serde_json::Value> =
            plan.stages.iter().map(|time| (time.stage.to_owned(), json!(time.seconds))).collect();
        return report::line(
            &json!({
                "spec": plan.spec.to_string(), "metric": plan.metric.to_string(), "n": plan.n, "d": plan.dim,
                "index_bytes": plan.n_bytes, "build_s": plan.build_seconds(), "stages": stages,
                "sample_rows": plan.n_sampled, "threads": rayon::current_num_threads(),
                "build_bytes": plan.build_bytes, "input_bytes": input_bytes,
                "batch": args.batch, "search_cpu_bytes": on_cpu, "search_gpu_bytes": on_gpu,
            })
            .to_string(),
        );
    }
    let threads = rayon::current_num_threads();
    report::line(&format!(
        "{} ({}) over {} × {} {}",
        plan.spec,
        plan.metric,
        plan.n,
        plan.dim,
        inputs.base.dtype()
    ))?;
    report::line(&format!(
        "file           {:>10}   {:.0} bytes a vector",
        report::bytes(plan.n_bytes),
        plan.n_bytes as f64 / plan.n as f64
    ))?;
    report::line(&format!(
        "build          {:>10}   {threads} threads, measured on {} vectors; saving on top: {}",
        report::duration(Duration::from_secs_f64(plan.build_seconds())),
        plan.n_sampled,
        report::stages(&plan.stages)
    ))?;
    report::line(&format!(
        "  memory       {:>10}   beside the program and the files it reads, {}",
        report::bytes(plan.build_bytes),
        report::bytes(input_bytes)
    ))?;
    let shown = |bytes: Option<u64>| {
        bytes.map_or("too large".to_owned(), |bytes| {
            report::bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
        })
    };
    report::line(&format!(
        "search, CPU    {:>10}   index and {} queries together, k = {}, {threads} threads",
        shown(on_cpu.map(|bytes| bytes as u64)),
        args.batch,
        args.k
    ))?;
    if cfg!(feature = "gpu") {
        report::line(&format!("search, GPU    {:>10}   of the device, for the same", shown(on_gpu)))?;
    }
    Ok(())
}

#[cfg(feature = "gpu")]
fn on_gpu(plan: &Plan, batch: usize, params: SearchParams) -> Option<u64> {
    plan.gpu_bytes(batch, params)
}

#[cfg(not(feature = "gpu"))]
fn on_gpu(_plan: &Plan, _batch: usize, _params: SearchParams) -> Option<u64> {
    None
}
