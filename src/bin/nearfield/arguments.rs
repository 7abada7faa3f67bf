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
/// Values are f32, f16, f64, u8, i8, i16 or i32, ids i32, i64, u32 or u64. Pipes are read too: <(zcat base.npy.gz), /dev/stdin.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_command_is_sound() {
        Cli::command().debug_assert();
    }

    /// What command lines are made of; the rest is any text.
    fn words() -> Vec<String> {
        let mut root = Cli::command();
        root.build();
        let commands: Vec<&clap::Command> = std::iter::once(&root).chain(root.get_subcommands()).collect();
        let names = commands.iter().map(|command| command.get_name().to_owned());
        let options = commands.iter().flat_map(|command| command.get_arguments());
        let options = options.filter_map(|option| option.get_long()).map(|long| format!("--{long}"));
        let values =
            ["-3", "0", "7", "1e9", "all", "gpu:0", "cosine", "IVF4,Flat", "a.npy", "--", "-", "=", ""];
        names.chain(options).chain(values.map(str::to_owned)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn any_words_are_parsed_or_refused(
            places in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>()), 0..10),
            text in "\\PC{0,12}"
        ) {
            let words = words();
            let known = places.iter().map(|(at, is_known)| if *is_known { at.get(&words) } else { &text });
            let _ = Cli::of(std::iter::once("nearfield").chain(known.map(String::as_str)).map(OsString::from));
        }
    }
}
