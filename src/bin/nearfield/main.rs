//! The `nearfield` command: build, search and judge indexes of vectors.

mod bench;
mod build;
mod compress;
mod convert;
mod demo;
mod devices;
mod embedded;
mod error;
mod eval;
mod info;
mod plan;
mod plot;
mod report;
mod search;
mod truth;
mod tune;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use error::CliError;

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
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print JSON on stdout: one object, or one a line. Progress and messages stay on stderr.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
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

/// What a program exits with that an interrupt has ended.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    // `--n-probe -3` is a wrong number, not an unknown option.
    let takes_numbers =
        |command: clap::Command| command.mut_args(|argument| argument.allow_negative_numbers(true));
    let matches = Cli::command().mut_subcommands(takes_numbers).get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    // An interrupt leaves no half file. Where no handler can be set, the system's own ends the process as well.
    let _ = ctrlc::set_handler(|| {
        nearfield::discard_unfinished(|| {
            eprintln!("nearfield: interrupted");
            std::process::exit(INTERRUPTED);
        })
    });
    let json = cli.json;
    let done = match cli.command {
        Command::Build(args) => build::run(&args, json),
        Command::Plan(args) => plan::run(&args, json),
        Command::Search(args) => search::run(&args, json),
        Command::Truth(args) => truth::run(&args, json),
        Command::Eval(args) => eval::run(&args, json),
        Command::Plot(args) => plot::run(&args, json),
        Command::Tune(args) => tune::run(&args, json),
        Command::Convert(args) => convert::run(&args, json),
        Command::Compress(args) => compress::run(&args, json),
        Command::Bench(args) => bench::run(&args, json),
        Command::Info(args) => info::show(&args, json),
        Command::Verify(args) => info::verify(&args, json),
        Command::Devices => devices::run(json),
        Command::Demo(args) => demo::run(&args, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough: `nearfield search … | head`.
        Err(CliError::Closed) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("nearfield: {e}");
            ExitCode::from(e.code())
        }
    }
}
