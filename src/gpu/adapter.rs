//! Adapters of this machine, and tiers.
//!
//! | tier | needs | gains |
//! |---|---|---|
//! | `floor` | WebGPU's default limits, no feature | everything works |
//! | `subgroups` | subgroup operations | prefix sums of selection and grouping in registers |
//! | `subgroups-f16` | and the f16 type | halves read without unpacking |
//!
//! Limits are apart from tiers: above the floor tier a device is opened with the adapter's buffer sizes, so that an
//! index lies in few pages. [`GpuOptions`] asks for less of either, which is how every tier is tested on one machine.

use std::fmt;

/// What a device's kernels may use beyond the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// WebGPU's default limits and no optional feature.
    Floor,
    /// Subgroup operations, and the adapter's own limits.
    Subgroups,
    /// Subgroup operations and the f16 type.
    SubgroupsF16,
}

impl Tier {
    /// All, lowest first.
    pub const ALL: [Self; 3] = [Self::Floor, Self::Subgroups, Self::SubgroupsF16];

    pub(super) fn features(self) -> wgpu::Features {
        match self {
            Self::Floor => wgpu::Features::empty(),
            Self::Subgroups => wgpu::Features::SUBGROUP,
            Self::SubgroupsF16 => wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16,
        }
    }

    fn of(features: wgpu::Features) -> Self {
        let has = |tier: &&Self| features.contains(tier.features());
        Self::ALL.iter().rev().find(has).copied().unwrap_or(Self::Floor)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floor => "floor",
            Self::Subgroups => "subgroups",
            Self::SubgroupsF16 => "subgroups-f16",
        })
    }
}

impl std::str::FromStr for Tier {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.to_string() == s)
            .ok_or_else(|| format!("expected floor, subgroups or subgroups-f16, got `{s}`"))
    }
}

/// Which GPU to open, and how much of it to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// The adapter's name, or words of it and of its back end, as `3080 vulkan`, in any case; the best hardware
    /// adapter if not given. Software adapters are used only when named.
    pub name: Option<String>,
    /// Highest tier to use.
    pub tier: Option<Tier>,
    /// Bytes of device memory for an index and its searches, at least 8 MiB: half for the index, which streams through
    /// where it does not fit, half for the searches, which then run one at a time. No bound if not given.
    pub memory: Option<u64>,
    /// Largest binding to use, in bytes, at least 64 KiB: an index in larger tensors is split into pages.
    pub max_binding: Option<u64>,
    /// Most workgroups a dimension, at least 16.
    pub max_workgroups: Option<u32>,
}

/// The least memory budget: below it scratch for one query of a large index would not fit.
pub(super) const MEMORY_MIN: u64 = 8 << 20;

/// An adapter of this machine, as `nearfield devices` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterSummary {
    /// Its name.
    pub name: String,
    /// Vulkan, Metal or Dx12.
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Best tier.
    pub tier: Tier,
    /// Largest storage binding, in bytes.
    pub max_binding: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Most workgroups a dimension.
    pub max_workgroups: u32,
    /// Least and greatest subgroup size.
    pub subgroup_size: (u32, u32),
    /// What is missing, and what that costs.
    pub missing: Vec<String>,
    has_floor: bool,
}

impl AdapterSummary {
    fn new(adapter: &wgpu::Adapter) -> Self {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        let mut missing = Vec::new();
        if let Some((limit, expected, got)) = below_floor(&limits) {
            missing.push(format!("{limit} {got} of {expected}: cannot be used"));
        }
        if !features.contains(wgpu::Features::SUBGROUP) {
            missing.push("subgroups: selection sums in workgroup memory".to_owned());
        } else if !features.contains(wgpu::Features::SHADER_F16) {
            missing.push("f16: halves are unpacked from words".to_owned());
        }
        if !features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            missing.push("timestamps: no profile by kernel".to_owned());
        }
        Self {
            name: info.name,
            backend: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            tier: Tier::of(features),
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            subgroup_size: (info.subgroup_min_size, info.subgroup_max_size),
            missing,
            has_floor: below_floor(&limits).is_none(),
        }
    }

    /// Whether it computes on the CPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }

    /// Whether it has what every kernel needs.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.has_floor
    }

    /// Whether every word of `name` is in its name or its back end.
    pub(super) fn matches(&self, name: &str) -> bool {
        let own = format!("{} {}", self.name, self.backend).to_lowercase();
        let mut words = name.split_whitespace().peekable();
        // A bare number would be found in some version by accident.
        let is_number = name.trim().parse::<u32>().is_ok();
        !is_number && words.peek().is_some() && words.all(|word| own.contains(&word.to_lowercase()))
    }

    fn rank(&self) -> usize {
        ["discrete", "integrated", "virtual", "other", "software"]
            .iter()
            .position(|kind| *kind == self.kind)
            .unwrap_or_default()
    }
}

/// Limits that kernels rely on.
pub(super) fn below_floor(limits: &wgpu::Limits) -> Option<(&'static str, u64, u64)> {
    let floor = wgpu::Limits::default();
    let pairs: [(&'static str, u64, u64); 5] = [
        (
            "max_storage_buffers_per_shader_stage",
            u64::from(floor.max_storage_buffers_per_shader_stage),
            u64::from(limits.max_storage_buffers_per_shader_stage),
        ),
        (
            "max_compute_workgroup_storage_size",
            u64::from(floor.max_compute_workgroup_storage_size),
            u64::from(limits.max_compute_workgroup_storage_size),
        ),
        (
            "max_compute_invocations_per_workgroup",
            u64::from(floor.max_compute_invocations_per_workgroup),
            u64::from(limits.max_compute_invocations_per_workgroup),
        ),
        (
            "max_storage_buffer_binding_size",
            floor.max_storage_buffer_binding_size,
            limits.max_storage_buffer_binding_size,
        ),
        (
            "max_compute_workgroups_per_dimension",
            u64::from(floor.max_compute_workgroups_per_dimension),
            u64::from(limits.max_compute_workgroups_per_dimension),
        ),
    ];
    pairs.into_iter().find(|(_, expected, got)| got < expected)
}

pub(super) fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

pub(super) async fn adapters(instance: &wgpu::Instance) -> Vec<(wgpu::Adapter, AdapterSummary)> {
    let found = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    let mut found: Vec<_> = found
        .into_iter()
        .map(|adapter| (AdapterSummary::new(&adapter), adapter))
        .map(|(s, a)| (a, s))
        .collect();
    found.sort_by_key(|(_, summary)| summary.rank());
    found
}
