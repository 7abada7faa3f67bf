//! The command line: arguments, one a line, parsed and never run.
#![no_main]
#![allow(dead_code, reason = "commands are parsed, not run")]

use std::ffi::OsString;

#[path = "../../src/bin/nearfield/arguments.rs"]
mod arguments;
#[path = "../../src/bin/nearfield/bench.rs"]
mod bench;
#[path = "../../src/bin/nearfield/build.rs"]
mod build;
#[path = "../../src/bin/nearfield/compress.rs"]
mod compress;
#[path = "../../src/bin/nearfield/convert.rs"]
mod convert;
#[path = "../../src/bin/nearfield/demo.rs"]
mod demo;
#[path = "../../src/bin/nearfield/devices.rs"]
mod devices;
#[path = "../../src/bin/nearfield/embedded.rs"]
mod embedded;
#[path = "../../src/bin/nearfield/error.rs"]
mod error;
#[path = "../../src/bin/nearfield/eval.rs"]
mod eval;
#[path = "../../src/bin/nearfield/info.rs"]
mod info;
#[path = "../../src/bin/nearfield/plan.rs"]
mod plan;
#[path = "../../src/bin/nearfield/plot.rs"]
mod plot;
#[path = "../../src/bin/nearfield/report.rs"]
mod report;
#[path = "../../src/bin/nearfield/sample.rs"]
mod sample;
#[path = "../../src/bin/nearfield/search.rs"]
mod search;
#[path = "../../src/bin/nearfield/truth.rs"]
mod truth;
#[path = "../../src/bin/nearfield/tune.rs"]
mod tune;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = arguments::Cli::of(["nearfield"].into_iter().chain(text.lines()).map(OsString::from));
});
