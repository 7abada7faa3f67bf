//! What a device can do at most, measured: the limits that a profile holds its kernels against.

use super::{
    Gpu, GpuError,
    kernel::{Kernel, Probe},
    layout::SelectParams,
    recording::{Cost, Grid, Recording},
};
use crate::profile::{Profile, Roof};

/// Bytes copied on hardware, beyond its caches, and in software, where it only has to be long enough.
const COPIED: [u64; 2] = [512 << 20, 64 << 20];
/// Workgroups of the arithmetic probes: enough to fill any device.
const GROUPS: u32 = 1 << 12;
/// Length of their chains: 2¹² · 256 · 2¹¹ · 8 steps are 17 G multiply-adds, half a millisecond at 70 T operations a second;
/// in software a hundredth of it.
const CHAIN: [u32; 2] = [1 << 11, 1 << 5];

impl Gpu {
    /// Measures memory and arithmetic, in well under a second on hardware.
    ///
    /// # Errors
    /// [`GpuError::NoTimestamps`] where the device has no clock, else what failed.
    pub fn roof(&self) -> Result<Roof, GpuError> {
        if !self.has_timestamps() {
            return Err(GpuError::NoTimestamps { adapter: self.adapter().name.clone() });
        }
        let kind = usize::from(self.adapter().is_software());
        let bounded = self.memory().map_or(u64::MAX, |memory| memory / 4);
        let copied = COPIED[kind].min(self.max_binding()).min(bounded) & !4095;
        let chain = CHAIN[kind];
        let (source, target) = (self.buffer("probe", copied)?, self.buffer("probe", copied)?);
        let width = self.grid_width();
        let quads = u32::try_from(copied / 16).unwrap_or(u32::MAX);
        let groups = GROUPS.min(width);
        let ops = f64::from(groups) * 256.0 * f64::from(chain) * 8.0;
        let (mut best, mut params) = ([0.0_f64; 3], None);
        // The first run compiles and warms up, the best of the others counts.
        for _ in 0..4 {
            let mut profile = Profile::default();
            let mut recording = Recording::new(self);
            let copy = SelectParams { grid_width: width, n_rows: quads, stride: 0, keep: 0 };
            let cost = Cost { bytes: 2.0 * copied as f64, ops: 0.0 };
            let grid = Grid::Groups(copied.div_ceil(4096));
            recording.dispatch(Kernel::Probe(Probe::Copy), &copy, &[&source, &target], grid, cost);
            let chain = SelectParams { grid_width: width, n_rows: 0, stride: 0, keep: chain };
            for (probe, ops) in [(Probe::Dot4, 8.0 * ops), (Probe::Fma, 2.0 * ops)] {
                let grid = Grid::Groups(u64::from(groups));
                recording.dispatch(Kernel::Probe(probe), &chain, &[&target], grid, Cost { bytes: 0.0, ops });
            }
            recording.submit(&mut params, Some(&mut profile))?;
            for (best, probe) in best.iter_mut().zip([Probe::Copy, Probe::Dot4, Probe::Fma]) {
                if let Some(time) = profile.kernels.get(Kernel::Probe(probe).name())
                    && time.seconds > 0.0
                {
                    *best = best.max((time.bytes + time.ops) / time.seconds);
                }
            }
        }
        Ok(Roof { bytes: best[0], int8_ops: best[1], f32_ops: best[2] })
    }
}
