//! What a chunk of queries makes the device do, as data: dispatches, clears, copies; then submitted at once.
//!
//! Parameters of all dispatches lie in one buffer, written once a submission. When profiled, each dispatch is a pass
//! of its own between two timestamps.

use bytemuck::Pod;

use super::{Buffer, Gpu, GpuError, device::Submission, kernel::Kernel};
pub(crate) use crate::profile::Cost;
use crate::profile::Profile;

/// How many workgroups run.
pub(crate) enum Grid {
    /// As many as given.
    Groups(u64),
    /// As many as a buffer says.
    Indirect(Buffer),
}

enum Command {
    Clear(Buffer, u64),
    Dispatch {
        kernel: Kernel,
        params_at: usize,
        params_len: usize,
        bindings: Vec<Buffer>,
        grid: Grid,
        cost: Cost,
    },
    Copy {
        from: Buffer,
        to: Buffer,
        bytes: u64,
    },
}

/// Commands, in order.
pub(crate) struct Recording {
    gpu: Gpu,
    params: Vec<u8>,
    commands: Vec<Command>,
}

/// Dispatches that one query set times: WebGPU allows 4 096 timestamps.
const TIMED_MAX: usize = 2048;

impl Recording {
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), params: Vec::new(), commands: Vec::new() }
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Operations recorded and not submitted.
    pub fn ops(&self) -> f64 {
        let ops = |command: &Command| match command {
            Command::Dispatch { cost, .. } => cost.ops,
            _ => 0.0,
        };
        self.commands.iter().map(ops).sum()
    }

    /// Fills the first `bytes` of a buffer with zeros.
    pub fn clear(&mut self, buffer: &Buffer, bytes: u64) {
        self.commands.push(Command::Clear(buffer.clone(), bytes.next_multiple_of(4)));
    }

    /// Copies the first `bytes` of a buffer.
    pub fn copy(&mut self, from: &Buffer, to: &Buffer, bytes: u64) {
        self.commands.push(Command::Copy { from: from.clone(), to: to.clone(), bytes });
    }

    /// Runs a kernel.
    pub fn dispatch(
        &mut self,
        kernel: Kernel,
        params: &impl Pod,
        bindings: &[&Buffer],
        grid: Grid,
        cost: Cost,
    ) {
        debug_assert_eq!(kernel.bindings().len(), bindings.len(), "{kernel}");
        let bytes = bytemuck::bytes_of(params);
        let params_at = self.params.len();
        self.params.extend_from_slice(bytes);
        self.params.resize(self.params.len().next_multiple_of(self.gpu.params_align()), 0);
        let bindings = bindings.iter().map(|&buffer| buffer.clone()).collect();
        self.commands.push(Command::Dispatch {
            kernel,
            params_at,
            params_len: bytes.len(),
            bindings,
            grid,
            cost,
        });
    }

    /// Submits everything recorded and forgets it. `params`: where parameters go, made larger if need be.
    pub fn submit(
        &mut self,
        params: &mut Option<Buffer>,
        profile: Option<&mut Profile>,
    ) -> Result<Submission, GpuError> {
        let n_bytes = self.params.len() as u64;
        let params = match params.as_ref().filter(|buffer| buffer.size() >= n_bytes) {
            Some(buffer) => buffer.clone(),
            None => {
                let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
                let size = n_bytes.next_power_of_two().max(1 << 13);
                params.insert(self.gpu.create("params", size, usage)?).clone()
            }
        };
        let mut pipelines = Vec::with_capacity(self.commands.len());
        for command in &self.commands {
            if let Command::Dispatch { kernel, .. } = command {
                pipelines.push(self.gpu.pipeline(*kernel)?);
            }
        }
        let timed: Vec<(Kernel, Cost)> = self
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::Dispatch { kernel, cost, .. } => Some((*kernel, *cost)),
                _ => None,
            })
            .collect();
        let timer = match &profile {
            Some(_) if self.gpu.has_timestamps() && !timed.is_empty() => {
                Some(Timer::new(&self.gpu, timed.len())?)
            }
            _ => None,
        };
        let gpu = self.gpu.clone();
        let submission = gpu.scoped("submission", || {
            if n_bytes > 0 {
                gpu.queue().write_buffer(&params, 0, &self.params);
            }
            let mut encoder =
                gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("chunk") });
            self.encode(&mut encoder, &pipelines, &params, timer.as_ref());
            if let Some(timer) = &timer {
                timer.resolve(&mut encoder);
            }
            gpu.queue().submit([encoder.finish()])
        })?;
        self.commands.clear();
        self.params.clear();
        if let (Some(profile), Some(timer)) = (profile, timer) {
            for ((kernel, cost), seconds) in timed.iter().zip(timer.seconds(&gpu)?) {
                let time = profile.kernels.entry(kernel.to_string()).or_default();
                time.dispatches += 1;
                time.seconds += seconds;
                time.bytes += cost.bytes;
                time.ops += cost.ops;
                time.is_float = kernel.is_float();
            }
        }
        Ok(submission)
    }

    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        pipelines: &[std::sync::Arc<super::device::Pipeline>],
        params: &Buffer,
        timer: Option<&Timer>,
    ) {
        let mut pipelines = pipelines.iter();
        let mut commands = self.commands.iter().peekable();
        let mut n_dispatches = 0;
        while let Some(command) = commands.peek() {
            match command {
                Command::Clear(buffer, bytes) => encoder.clear_buffer(buffer, 0, Some(*bytes)),
                Command::Copy { from, to, bytes } => encoder.copy_buffer_to_buffer(from, 0, to, 0, *bytes),
                Command::Dispatch { kernel, .. } => {
                    let mut compute = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some(kernel.name()),
                        timestamp_writes: timer.map(|timer| timer.writes(n_dispatches)),
                    });
                    while let Some(Command::Dispatch {
                        kernel, params_at, params_len, bindings, grid, ..
                    }) = commands.peek()
                    {
                        let Some(pipeline) = pipelines.next() else { break };
                        let mut entries = vec![wgpu::BindGroupEntry {
                            binding: 0,
                            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                                buffer: params,
                                offset: *params_at as u64,
                                size: wgpu::BufferSize::new(*params_len as u64),
                            }),
                        }];
                        entries.extend((1..).zip(bindings).map(|(binding, buffer)| wgpu::BindGroupEntry {
                            binding,
                            resource: buffer.as_entire_binding(),
                        }));
                        let group = self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                            label: Some(kernel.name()),
                            layout: &pipeline.layout,
                            entries: &entries,
                        });
                        compute.set_pipeline(&pipeline.pipeline);
                        compute.set_bind_group(0, &group, &[]);
                        match grid {
                            Grid::Groups(groups) => {
                                let (x, y) = split(*groups, self.gpu.grid_width());
                                compute.dispatch_workgroups(x, y, 1);
                            }
                            Grid::Indirect(buffer) => compute.dispatch_workgroups_indirect(buffer, 0),
                        }
                        n_dispatches += 1;
                        commands.next();
                        if timer.is_some() {
                            break;
                        }
                    }
                    continue;
                }
            }
            commands.next();
        }
    }
}

/// A grid of at least `groups` workgroups, rows of `width`.
fn split(groups: u64, width: u32) -> (u32, u32) {
    let x = groups.min(u64::from(width));
    let y = groups.div_ceil(u64::from(width));
    (u32::try_from(x).unwrap_or(u32::MAX), u32::try_from(y).unwrap_or(u32::MAX))
}

/// Pairs of timestamps, in as many sets as it takes.
struct Timer(Vec<TimerSet>);

struct TimerSet {
    set: wgpu::QuerySet,
    resolved: Buffer,
    read: Buffer,
    count: u32,
}

impl Timer {
    fn new(gpu: &Gpu, n_dispatches: usize) -> Result<Self, GpuError> {
        use wgpu::BufferUsages as Usages;
        let sets = (0..n_dispatches).step_by(TIMED_MAX).map(|first| {
            let count = 2 * super::layout::narrow((n_dispatches - first).min(TIMED_MAX));
            let bytes = u64::from(count) * 8;
            Ok(TimerSet {
                set: gpu.scoped("timestamps", || {
                    gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                        label: Some("timestamps"),
                        ty: wgpu::QueryType::Timestamp,
                        count,
                    })
                })?,
                resolved: gpu.create("timestamps", bytes, Usages::QUERY_RESOLVE | Usages::COPY_SRC)?,
                read: gpu.create("timestamps", bytes, Usages::MAP_READ | Usages::COPY_DST)?,
                count,
            })
        });
        Ok(Self(sets.collect::<Result<_, GpuError>>()?))
    }

    fn writes(&self, dispatch: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        let first = 2 * super::layout::narrow(dispatch % TIMED_MAX);
        wgpu::ComputePassTimestampWrites {
            query_set: &self.0[dispatch / TIMED_MAX].set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        for set in &self.0 {
            encoder.resolve_query_set(&set.set, 0..set.count, &set.resolved, 0);
            encoder.copy_buffer_to_buffer(&set.resolved, 0, &set.read, 0, Some(set.resolved.size()));
        }
    }

    /// Seconds of each dispatch.
    fn seconds(&self, gpu: &Gpu) -> Result<Vec<f64>, GpuError> {
        let period = f64::from(gpu.queue().get_timestamp_period()) * 1e-9;
        let mut seconds = Vec::new();
        for set in &self.0 {
            let ticks: Vec<u64> = read_back(gpu, &set.read, set.count as usize)?;
            seconds.extend(ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period));
        }
        Ok(seconds)
    }
}

/// Waits for all that was submitted and copies the first `n` values of a mappable buffer.
pub(crate) fn read_back<T: Pod>(gpu: &Gpu, buffer: &Buffer, n: usize) -> Result<Vec<T>, GpuError> {
    start_read_back::<T>(buffer, n);
    finish_read_back(gpu, buffer, n, None)
}

/// Asks for a buffer's first `n` values to be mapped once the device is done with them.
pub(crate) fn start_read_back<T: Pod>(buffer: &Buffer, n: usize) {
    // Failures show when the range is taken.
    buffer.map_async(wgpu::MapMode::Read, 0..(n * size_of::<T>()) as u64, |_| ());
}

/// Waits for what [`start_read_back`] asked for.
pub(crate) fn finish_read_back<T: Pod>(
    gpu: &Gpu,
    buffer: &Buffer,
    n: usize,
    submission: Option<Submission>,
) -> Result<Vec<T>, GpuError> {
    gpu.wait("results", submission)?;
    let failed = |reason: String| GpuError::Failed { what: "results".to_owned(), reason };
    let mapped =
        buffer.get_mapped_range(0..(n * size_of::<T>()) as u64).map_err(|e| failed(e.to_string()))?;
    let out = bytemuck::pod_collect_to_vec(&mapped);
    drop(mapped);
    buffer.unmap();
    Ok(out)
}
