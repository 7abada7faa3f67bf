//! `nearfield devices`

use nearfield::Simd;
use serde_json::json;

use crate::{error::CliError, report};

pub fn run(json: bool) -> Result<(), CliError> {
    let best = Simd::detect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if json {
        let cpu: Vec<_> = Simd::available()
            .iter()
            .rev()
            .map(|simd| json!({ "device": format!("cpu:{}", simd.name()), "chosen": *simd == best }))
            .collect();
        return report::line(&json!({ "cores": cores, "devices": cpu, "gpu": null }).to_string());
    }
    report::line(&format!("CPU, {cores} cores; instruction sets with kernels here:"))?;
    for simd in Simd::available().into_iter().rev() {
        let note = if simd == best { "  chosen by auto and cpu" } else { "" };
        report::line(&format!("  cpu:{:<14}{note}", simd.name()))?;
    }
    report::line("reference         plain code that says what every device means; slow")?;
    report::line("GPU               none: this version searches on the CPU only")
}
