//! The `nearfield` command: build, search and judge indexes of vectors.

#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::todo, clippy::unimplemented, clippy::unreachable)
)]

mod arguments;
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
mod sample;
mod search;
mod truth;
mod tune;

use std::process::ExitCode;

use arguments::{Cli, Command};
use error::CliError;

/// What a program exits with that an interrupt has ended.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let cli = Cli::of(std::env::args_os()).unwrap_or_else(|e| e.exit());
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
            match &e {
                // A driver's words, which may take lines.
                CliError::Device(_) | CliError::DeviceFailed(_) => eprintln!("nearfield: {e}"),
                _ => eprintln!("nearfield: {}", report::plain(&e.to_string())),
            }
            ExitCode::from(e.code())
        }
    }
}
