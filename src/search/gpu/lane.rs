//! A chunk's scratch on the device, kept from one chunk to the next.

use crate::gpu::{Buffer, Gpu, GpuError};

macro_rules! lane {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Buffers of one chunk in flight; each grows to the largest size asked for.
        #[derive(Default)]
        pub(super) struct Lane {
            $(pub $name: Option<Buffer>,)*
            /// The grid of an indirect dispatch.
            pub grid: Option<Buffer>,
            /// Parameters of all dispatches.
            pub params: Option<Buffer>,
            /// Where results are read back from.
            pub read: Option<Buffer>,
        }

        /// The sizes that a chunk needs, in bytes.
        #[derive(Default)]
        pub(super) struct Sizes {
            $($(#[$doc])* pub $name: usize,)*
        }

        /// The buffers of a lane, all there.
        pub(super) struct Scratch {
            $(pub $name: Buffer,)*
            pub grid: Buffer,
        }

        impl Lane {
            /// How many buffers there are.
            pub const BUFFERS: u64 = [$(stringify!($name),)* "grid", "params", "read"].len() as u64;

            /// Makes every buffer large enough.
            pub fn fit(&mut self, gpu: &Gpu, sizes: &Sizes) -> Result<Scratch, GpuError> {
                let grid = match self.grid.take() {
                    Some(grid) => grid,
                    None => gpu.grid_buffer()?,
                };
                self.grid = Some(grid.clone());
                Ok(Scratch { $($name: grow(gpu, &mut self.$name, stringify!($name), sizes.$name)?,)* grid })
            }
        }
    };
}

lane! {
    /// Queries as given, rows padded to whole quads.
    queries,
    /// Projected queries.
    reduced,
    /// Their codes.
    codes,
    /// Their heads.
    heads,
    /// Candidates: (key, list), then (key, position).
    candidates,
    /// Their counts and floors.
    states,
    /// The lists of each query, in order.
    routed,
    /// Pairs a list.
    pair_counts,
    /// A pair's rank in its list.
    pair_ranks,
    /// First slots and first workgroups by list.
    groups,
    /// Queries by slot.
    slots,
    /// t = qA by slot.
    projected,
    /// Their codes.
    t_codes,
    /// Their heads.
    t_heads,
    /// Results.
    sorted,
}

/// Replaces a buffer that is too small. The new one is larger than needed, so that batches may grow, unless memory is
/// bounded.
fn grow(gpu: &Gpu, held: &mut Option<Buffer>, label: &str, n_bytes: usize) -> Result<Buffer, GpuError> {
    let n_bytes = n_bytes as u64;
    if let Some(buffer) = held
        && buffer.size() >= n_bytes
    {
        return Ok(buffer.clone());
    }
    *held = None;
    let roomy = match gpu.memory() {
        None => n_bytes.next_power_of_two().min(gpu.max_binding()).max(n_bytes),
        Some(_) => n_bytes,
    };
    let buffer = gpu.buffer(label, roomy)?;
    *held = Some(buffer.clone());
    Ok(buffer)
}
