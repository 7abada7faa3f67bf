//! `nearfield convert`

use std::path::PathBuf;

use nearfield::io;
use serde_json::json;

use crate::{error::CliError, report};

/// Write vectors or ids in another format.
///
/// Formats go by extension: .npy, .fvecs .bvecs .ivecs, .fbin .u8bin .i8bin .ibin, .safetensors, and with their features
/// .hdf5 .h5, .parquet .arrow .feather .ipc. Of a file that holds several things, one is named behind a colon:
/// glove.hdf5:train, docs.parquet:embedding.
#[derive(clap::Args)]
pub struct Args {
    /// File to read.
    input: PathBuf,
    /// File to write; an old one is replaced only when the new one is complete.
    #[arg(short, long)]
    output: PathBuf,
    /// Type of the values: f32, f16, f64, u8, i8, i16, i32, u32, i64 or u64. What the format holds, or what is read, if not given.
    #[arg(long)]
    dtype: Option<String>,
}

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    report::check_output("--output", &args.output, None, &[&args.input])?;
    let bar = report::bar("convert", 1);
    let (n, width, dtype) = io::convert(&args.input, &args.output, args.dtype.as_deref(), &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if json {
        return report::line(&json!({ "n": n, "d": width, "dtype": dtype }).to_string());
    }
    report::line(&format!("{}: {n} × {width} {dtype}", args.output.display()))
}
