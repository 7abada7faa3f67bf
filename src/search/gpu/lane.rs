//! A chunk's scratch on the device, kept from one chunk to the next.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::gpu::{Buffer, Gpu, GpuError};

/// Scratch of all searches together where no budget is given: beyond it they wait for each other. The device runs one
/// after the other anyway; a few in flight keep it busy.
const SCRATCH_MAX: u64 = 1 << 30;
/// Lanes kept for later searches.
const KEPT: usize = 4;

/// Lanes that no search uses, and how much scratch those in use may take.
pub(super) struct ScratchPool {
    lanes: Mutex<Vec<Lane>>,
    limit: u64,
    /// Memory is bounded: one search at a time, which has the pages to itself.
    is_bounded: bool,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A search's share of the scratch, given back when dropped.
pub(super) struct Share<'a> {
    pool: &'a ScratchPool,
    bytes: u64,
}

impl ScratchPool {
    /// A pool under a budget for the device's memory, if there is one.
    pub fn new(memory: Option<u64>) -> Self {
        Self {
            lanes: Mutex::default(),
            limit: memory.map_or(SCRATCH_MAX, |memory| memory / 2),
            is_bounded: memory.is_some(),
            used: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Waits until a search of `bytes` may go on. One larger than the limit goes alone.
    pub fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = if self.is_bounded { self.limit } else { bytes.min(self.limit) };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used + bytes > self.limit {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Share { pool: self, bytes }
    }

    /// A lane, used before if there is one.
    pub fn lane(&self) -> Lane {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps a lane for later, unless there are enough.
    pub fn give_back(&self, lane: Lane) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() < KEPT {
            lanes.push(lane);
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.pool.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.pool.freed.notify_all();
    }
}

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
            /// Queries on the host, rows padded to whole quads.
            pub host: Vec<f32>,
            /// The same as the stages see them, where rows meet others.
            pub staged_host: Vec<f32>,
            /// What the products of each query have in common.
            pub common: Vec<Option<f32>>,
        }

        /// The sizes that a chunk needs, in bytes.
        #[derive(Default)]
        pub(super) struct Sizes {
            $($(#[$doc])* pub $name: usize,)*
        }

        impl Sizes {
            /// Bytes of a lane.
            pub fn total(&self) -> u64 {
                [$(self.$name,)*].into_iter().sum::<usize>() as u64
            }

            /// Bytes of a lane's buffers as they are made without a budget, where bindings hold at most `most`.
            pub fn roomy(&self, most: u64) -> u64 {
                [$(self.$name,)*].into_iter().map(|n_bytes| roomy(n_bytes as u64, most)).sum()
            }
        }

        /// The buffers of a lane, all there.
        pub(super) struct Scratch {
            $(pub $name: Buffer,)*
            pub grid: Buffer,
        }

        impl Lane {
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
    /// Queries as the stages see them, where rows meet others; rows padded likewise.
    staged,
    /// Codes of queries as given, where the transform wants them.
    query_codes,
    /// Their heads.
    query_heads,
    /// What a network makes of queries: tokens, keys and values, hidden values, what heads see.
    net_wide,
    /// As above.
    net_keys,
    /// As above.
    net_hidden,
    /// As above.
    net_seen,
    /// What layers of convolutional networks make.
    conv_wide,
    /// As above.
    conv_between,
    /// Queries where the router's network moves them.
    moved,
    /// Their codes.
    moved_codes,
    /// Their heads.
    moved_heads,
    /// Projected queries.
    reduced,
    /// Codes of projected queries.
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
    /// Candidates in the order of their points.
    merged,
    /// The least entry of each lookup table.
    table_lows,
    /// Lookup tables.
    table_bytes,
    /// Their heads.
    table_heads,
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
    let size = match gpu.memory() {
        None => roomy(n_bytes, gpu.max_binding()),
        Some(_) => n_bytes,
    };
    let buffer = gpu.buffer(label, size)?;
    *held = Some(buffer.clone());
    Ok(buffer)
}

/// The size of a buffer that has to hold `n_bytes` and may grow: an eighth more, at most.
fn roomy(n_bytes: u64, most: u64) -> u64 {
    let step = (n_bytes.next_power_of_two() / 16).max(256);
    n_bytes.next_multiple_of(step).min(most).max(n_bytes)
}
