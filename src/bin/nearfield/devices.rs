//! `nearfield devices`, and the arguments that choose one.

use nearfield::{Device, Simd};
use serde_json::json;

use crate::{error::CliError, report};

/// Where to search.
#[derive(clap::Args, Clone)]
pub struct DeviceArgs {
    /// auto (a hardware GPU, else the CPU), cpu, cpu:NAME, gpu, gpu:NAME (words of the adapter's name; software only so)
    /// or reference; see `nearfield devices`.
    #[arg(long, default_value = "auto")]
    pub device: String,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// How much of a GPU to use.
#[derive(clap::Args, Clone)]
pub struct GpuArgs {
    /// GPU memory, as 512MiB or 4GiB, at least 8MiB: half for the index, which streams through slowly where that does
    /// not hold it, half for the searches.
    #[cfg(feature = "gpu")]
    #[arg(long, value_parser = bytes)]
    gpu_memory: Option<u64>,
    /// Highest capability tier to use: floor, subgroups or subgroups-f16.
    #[cfg(feature = "gpu")]
    #[arg(long)]
    gpu_tier: Option<nearfield::Tier>,
}

impl DeviceArgs {
    /// The device asked for.
    pub fn device(&self) -> Result<Device, CliError> {
        self.gpu.device(&self.device)
    }
}

impl GpuArgs {
    /// The device of a name; a GPU as these arguments have it.
    pub fn device(&self, name: &str) -> Result<Device, CliError> {
        match name.parse()? {
            #[cfg(feature = "gpu")]
            Device::Gpu(options) => Ok(Device::Gpu(nearfield::GpuOptions {
                memory: self.gpu_memory,
                tier: self.gpu_tier,
                ..options
            })),
            #[cfg(feature = "gpu")]
            Device::Auto if self.gpu_memory.is_some() || self.gpu_tier.is_some() => Err(CliError::Usage(
                "--gpu-memory, --gpu-tier: expected --device gpu or gpu:NAME, got auto".to_owned(),
            )),
            device => Ok(device),
        }
    }
}

/// `512MiB` and the like.
#[cfg(feature = "gpu")]
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    let given = digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|&n| n > 0);
    given.ok_or_else(|| format!("expected whole numbers of B, KiB, MiB or GiB, as in 512MiB, got `{text}`"))
}

pub fn run(json: bool) -> Result<(), CliError> {
    let best = Simd::detect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if json {
        let cpu: Vec<_> = Simd::available()
            .iter()
            .rev()
            .map(|simd| json!({ "device": format!("cpu:{}", simd.name()), "best": *simd == best }))
            .collect();
        return report::line(&json!({ "cores": cores, "devices": cpu, "gpus": gpus_json() }).to_string());
    }
    report::line(&format!("CPU, {cores} cores; instruction sets with kernels here:"))?;
    for simd in Simd::available().into_iter().rev() {
        let note = if simd == best { "  chosen by cpu" } else { "" };
        report::line(&format!("  cpu:{:<14}{note}", simd.name()))?;
    }
    report::line("reference         plain code that says what every device means; slow")?;
    gpus()
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Result<(), CliError> {
    report::line("GPU               none: this build lacks the feature `gpu`; auto chooses the CPU")
}

#[cfg(not(feature = "gpu"))]
fn gpus_json() -> serde_json::Value {
    json!([])
}

#[cfg(feature = "gpu")]
fn gpus() -> Result<(), CliError> {
    let adapters = nearfield::Gpu::adapters();
    if adapters.is_empty() {
        return report::line(
            "GPU               none: no Vulkan, Metal or DX12 driver was found; auto chooses the CPU",
        );
    }
    let chosen = adapters.iter().position(|a| !a.is_software() && a.is_usable());
    for (i, a) in adapters.iter().enumerate() {
        let note = match i {
            _ if Some(i) == chosen => "  chosen by auto and gpu",
            _ if a.is_software() => "  used only when named",
            _ => "",
        };
        report::line(&format!("gpu:{}{note}", a.name))?;
        report::line(&format!("  {}, {}, driver {}", a.kind, a.backend, a.driver))?;
        report::line(&format!(
            "  tier {}; bindings up to {}, buffers up to {}, {} workgroups a dimension, subgroups of {} to {}",
            a.tier,
            report::size(a.max_binding),
            report::size(a.max_buffer),
            a.max_workgroups,
            a.subgroup_size.0,
            a.subgroup_size.1,
        ))?;
        for missing in &a.missing {
            report::line(&format!("  lacks {missing}"))?;
        }
    }
    Ok(())
}

#[cfg(feature = "gpu")]
fn gpus_json() -> serde_json::Value {
    let one = |a: &nearfield::AdapterSummary| {
        json!({
            "device": format!("gpu:{}", a.name), "kind": a.kind, "backend": a.backend, "driver": a.driver,
            "tier": a.tier.to_string(), "max_binding": a.max_binding, "max_buffer": a.max_buffer,
            "max_workgroups": a.max_workgroups, "subgroup_size": [a.subgroup_size.0, a.subgroup_size.1],
            "missing": a.missing,
        })
    };
    nearfield::Gpu::adapters().iter().map(one).collect()
}
