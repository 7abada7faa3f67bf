//! An opened device: its kernels, its buffers, and what it reports when something goes wrong.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    AdapterSummary, GpuError, GpuOptions, Tier,
    adapter::{MEMORY_MIN, adapters, below_floor, instance},
    kernel::{Access, Kernel},
};

/// A storage buffer on the device.
pub(crate) type Buffer = wgpu::Buffer;

/// What was submitted at once.
pub(crate) type Submission = wgpu::SubmissionIndex;

/// Bytes of a binding, at most, whatever the device allows.
const BINDING_MAX: u64 = (1 << 31) - 256;

/// An opened GPU: cheap to clone, shared by searchers and threads. Kernels are compiled when first used.
#[derive(Clone)]
pub struct Gpu(Arc<Shared>);

struct Shared {
    device: wgpu::Device,
    queue: wgpu::Queue,
    summary: AdapterSummary,
    options: GpuOptions,
    tier: Tier,
    limits: wgpu::Limits,
    has_timestamps: bool,
    pipelines: Mutex<HashMap<Kernel, Arc<Pipeline>>>,
    lost: Arc<Mutex<Option<String>>>,
    failed: Arc<Mutex<Option<String>>>,
}

/// A kernel ready to run.
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl Gpu {
    /// The adapters of this machine, best first.
    #[must_use]
    pub fn adapters() -> Vec<AdapterSummary> {
        pollster::block_on(adapters(&instance())).into_iter().map(|(_, summary)| summary).collect()
    }

    /// Opens a GPU.
    ///
    /// # Errors
    /// [`GpuError`] says what there is instead, what the adapter lacks, or why its driver refused.
    pub fn open(options: &GpuOptions) -> Result<Self, GpuError> {
        pollster::block_on(Self::open_async(options))
    }

    /// [`Gpu::open`] without blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn open_async(options: &GpuOptions) -> Result<Self, GpuError> {
        if let Some(memory) = options.memory
            && memory < MEMORY_MIN
        {
            return Err(GpuError::Budget { least: MEMORY_MIN, given: memory });
        }
        let all = adapters(&instance()).await;
        let found = all.iter().map(|(_, s)| s.name.clone()).collect();
        // An adapter of exactly this name before one whose name and back end hold all its words.
        let chosen = match &options.name {
            Some(name) => all
                .iter()
                .position(|(_, s)| s.name.eq_ignore_ascii_case(name))
                .or_else(|| all.iter().position(|(_, s)| s.matches(name))),
            None => all.iter().position(|(_, s)| !s.is_software() && s.is_usable()),
        };
        let Some((adapter, summary)) = chosen.and_then(|i| all.into_iter().nth(i)) else {
            return Err(GpuError::NotFound { wanted: options.name.clone(), found });
        };
        let limits = adapter.limits();
        let name = summary.name.clone();
        if let Some((limit, expected, got)) = below_floor(&limits) {
            return Err(GpuError::BelowFloor { adapter: name, limit, expected, got });
        }
        let tier = options.tier.unwrap_or(summary.tier);
        if tier > summary.tier {
            return Err(GpuError::Tier { adapter: name, wanted: tier, has: summary.tier });
        }
        let mut required = wgpu::Limits::default();
        if tier > Tier::Floor || options.tier.is_none() {
            required.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size;
            required.max_buffer_size = limits.max_buffer_size;
        }
        if let Some(most) = options.max_binding {
            // A page holds at least a list: less than 64 KiB serves no index.
            let most = most.max(1 << 16) & !255;
            required.max_storage_buffer_binding_size = required.max_storage_buffer_binding_size.min(most);
        }
        if let Some(most) = options.max_workgroups {
            required.max_compute_workgroups_per_dimension =
                required.max_compute_workgroups_per_dimension.min(most.max(16));
        }
        // The floor is asked for as such: without any optional feature.
        let is_bare = options.tier == Some(Tier::Floor);
        let has_timestamps = !is_bare && adapter.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let mut features = tier.features();
        features.set(wgpu::Features::TIMESTAMP_QUERY, has_timestamps);
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("nearfield"),
                required_features: features,
                required_limits: required.clone(),
                experimental_features: wgpu::ExperimentalFeatures::disabled(),
                memory_hints: wgpu::MemoryHints::Performance,
                trace: wgpu::Trace::Off,
            })
            .await
            .map_err(|e| GpuError::Refused { adapter: name, reason: e.to_string() })?;
        let (lost, failed) =
            (Arc::<Mutex<Option<String>>>::default(), Arc::<Mutex<Option<String>>>::default());
        let note = lost.clone();
        device.set_device_lost_callback(move |reason, text| {
            let text = if text.is_empty() { format!("{reason:?}") } else { text };
            *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        });
        let note = failed.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
        }));
        Ok(Self(Arc::new(Shared {
            device,
            queue,
            summary,
            options: options.clone(),
            tier,
            limits: required,
            has_timestamps,
            pipelines: Mutex::default(),
            lost,
            failed,
        })))
    }

    /// The adapter.
    #[must_use]
    pub fn adapter(&self) -> &AdapterSummary {
        &self.0.summary
    }

    /// The tier in use.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.0.tier
    }

    /// Bytes of memory held on the device by all its searchers, where the back end can tell.
    #[must_use]
    pub fn allocated(&self) -> Option<u64> {
        self.0.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// Gives the device up, as if it had been unplugged: searches then end with [`GpuError::Lost`].
    pub fn destroy(&self) {
        self.0.device.destroy();
        self.lose("it was destroyed".to_owned());
    }

    /// Notes that the device is gone, for the first reason known.
    fn lose(&self, reason: String) -> GpuError {
        let mut lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner);
        GpuError::Lost { reason: lost.get_or_insert(reason).clone() }
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Bytes of device memory to stay within.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.0.options.memory
    }

    pub(crate) fn has_timestamps(&self) -> bool {
        self.0.has_timestamps
    }

    /// Largest binding in bytes.
    pub(crate) fn max_binding(&self) -> u64 {
        // Kernels count words, halves and bytes in 32 bits.
        self.0.limits.max_storage_buffer_binding_size.min(self.0.limits.max_buffer_size).min(BINDING_MAX)
            & !255
    }

    /// Most workgroups a dimension.
    pub(crate) fn grid_width(&self) -> u32 {
        self.0.limits.max_compute_workgroups_per_dimension
    }

    /// Distance of parameters in a buffer.
    pub(crate) fn params_align(&self) -> usize {
        self.0.limits.min_uniform_buffer_offset_alignment as usize
    }

    /// An error if the device is lost or has reported a failure nobody waited for.
    pub(crate) fn check(&self, what: &str) -> Result<(), GpuError> {
        if let Some(reason) = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(GpuError::Lost { reason });
        }
        if let Some(reason) = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(GpuError::Failed { what: what.to_owned(), reason });
        }
        Ok(())
    }

    /// Runs `act` and turns what the device reports meanwhile into an error.
    pub(crate) fn scoped<T>(&self, what: &str, act: impl FnOnce() -> T) -> Result<T, GpuError> {
        self.check(what)?;
        let internal = self.0.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.0.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = self.0.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let done = act();
        let errors = [memory.pop(), validation.pop(), internal.pop()].map(Box::pin).map(pollster::block_on);
        if let Some(error) = errors.into_iter().flatten().next() {
            // A lost device makes everything else fail as well.
            self.check(what)?;
            return Err(match error {
                wgpu::Error::OutOfMemory { .. } => GpuError::OutOfMemory { what: what.to_owned() },
                other => GpuError::Failed { what: what.to_owned(), reason: other.to_string() },
            });
        }
        Ok(done)
    }

    /// A storage buffer of `n_bytes`, at least 16.
    pub(crate) fn buffer(&self, label: &str, n_bytes: u64) -> Result<Buffer, GpuError> {
        let size = n_bytes.next_multiple_of(16).max(16);
        if size > self.max_binding() {
            return Err(GpuError::TooLarge {
                what: label.to_owned(),
                needed: size,
                allowed: self.max_binding(),
            });
        }
        use wgpu::BufferUsages as Usages;
        self.create(label, size, Usages::STORAGE | Usages::COPY_SRC | Usages::COPY_DST)
    }

    /// A buffer for the grid of an indirect dispatch.
    pub(crate) fn grid_buffer(&self) -> Result<Buffer, GpuError> {
        use wgpu::BufferUsages as Usages;
        self.create("grid", 16, Usages::STORAGE | Usages::INDIRECT | Usages::COPY_SRC | Usages::COPY_DST)
    }

    pub(crate) fn create(
        &self,
        label: &str,
        size: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Buffer, GpuError> {
        self.scoped(label, || {
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }

    /// Waits until a submission, or all there are, is done.
    pub(crate) fn wait(&self, what: &str, submission: Option<Submission>) -> Result<(), GpuError> {
        let poll =
            || self.0.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        // wgpu panics where the driver reports a lost device, or no memory, from waiting.
        let Ok(polled) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)) else {
            let reason = format!("the driver failed while {what} were awaited");
            return Err(self.lose(reason));
        };
        self.check(what)?;
        polled.map(drop).map_err(|e| GpuError::Failed { what: what.to_owned(), reason: e.to_string() })
    }

    /// The kernel, compiled.
    pub(crate) fn pipeline(&self, kernel: Kernel) -> Result<Arc<Pipeline>, GpuError> {
        let mut pipelines = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let compiled = Arc::new(self.compiled(kernel, self.0.tier)?);
        pipelines.insert(kernel, compiled.clone());
        Ok(compiled)
    }

    /// The kernel of a tier, or the driver's reason to refuse it.
    pub(crate) fn compiled(&self, kernel: Kernel, tier: Tier) -> Result<Pipeline, GpuError> {
        self.scoped(kernel.name(), || self.compile(kernel, tier)).map_err(|e| match e {
            GpuError::Failed { reason, .. } => GpuError::Shader { kernel: kernel.to_string(), reason },
            other => other,
        })
    }

    fn compile(&self, kernel: Kernel, tier: Tier) -> Pipeline {
        let device = &self.0.device;
        let label = Some(kernel.name());
        // Every loop of every kernel runs to a parameter, a count held in a buffer or a constant, so none needs the
        // counter that would end an endless one; indices stay checked.
        let checks = wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..Default::default() };
        let source = wgpu::ShaderSource::Wgsl(kernel.source(tier).into());
        let descriptor = wgpu::ShaderModuleDescriptor { label, source };
        // SAFETY: bounds are checked, and loops end as said above.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let entry = |binding: u32, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        for (binding, access) in (1..).zip(kernel.bindings()) {
            entries.push(entry(
                binding,
                wgpu::BufferBindingType::Storage { read_only: *access == Access::Read },
            ));
        }
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.name()),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes what it reads of workgroup memory.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("adapter", &self.0.summary.name)
            .field("tier", &self.0.tier)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gpu {}
