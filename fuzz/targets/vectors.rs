#![no_main]
#[path = "../src/vectors.rs"]
mod target;

use std::sync::Once;

static QUIET: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Panics of the readers of columns are errors of ours; the fuzzer's own hook would end the process before they are. Those that
    // nobody catches still do.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    target::run(data);
});
