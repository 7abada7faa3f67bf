//! What the command line may say.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{bench, build, compress, convert, devices, eval, info, plan, plot, search, truth, tune};

/// Approximate nearest neighbours, fast on any machine.
///
/// An index is built once from a file of vectors and then answers: which k vectors are nearest to this one?
///
///   nearfield build base.npy -o base.nf --spec "PCA,IVF,RRR,Refine(f16)" --metric cosine
///   nearfield search base.nf queries.npy -k 10
///
/// Vector files: .npy, .fvecs .bvecs .ivecs, .fbin .u8bin .i8bin .ibin, .safetensors; .hdf5, .parquet and .arrow where it was
/// installed with --features hdf5,arrow. A part of a file is named behind a colon: docs.parquet:embedding.
/// Exit codes: 0 ok, 2 usage, 3 bad input, 4 device, 5 input/output.
#[derive(Parser)]
#[command(version, max_term_width = 100, verbatim_doc_comment)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Print JSON on stdout: one object, or one a line. Progress and messages stay on stderr.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    Build(build::Args),
    Plan(plan::Args),
    Search(search::Args),
    Truth(truth::Args),
    Eval(eval::Args),
    Tune(tune::Args),
    Plot(plot::Args),
    Bench(bench::Args),
    Convert(convert::Args),
    Compress(compress::Args),
    /// Show what an index consists of.
    Info(info::Args),
    /// Check an index file against its checksums.
    Verify(info::Args),
    /// List the devices that can search.
    Devices,
    /// Build and search an index of WordNet glosses that comes with the program.
    Demo(devices::DeviceArgs),
}

impl Cli {
    /// Arguments, the program's name first.
    pub fn of(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        // `--n-probe -3` is a wrong number, not an unknown option.
        let takes_numbers = |command: clap::Command| {
            command.mut_args(|argument| match argument.get_action().takes_values() {
                true => argument.allow_negative_numbers(true),
                false => argument,
            })
        };
        let matches = Self::command().mut_subcommands(takes_numbers).try_get_matches_from(arguments)?;
        Self::from_arg_matches(&matches)
    }
}
