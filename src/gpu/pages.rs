//! The parts of an index on the device: all resident where they fit, else some make room for others.
//!
//! Searches go through the pages in the same order again and again, so the one used last is the one needed last: it
//! makes room, and what was there first stays. The least recently used would be thrown out just before its turn.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::{Buffer, Gpu, GpuError};
use crate::{
    format::{ALIGN, TensorBytes},
    lists::Lists,
};

/// Bytes uploaded at a time: bounds the driver's copy of what is on its way.
const PIECE: usize = 32 << 20;

/// A page of a [`Pages`].
pub(crate) type PageId = usize;

/// Some lists' part of a tensor.
pub(crate) struct ListPage {
    /// Positions in its lists.
    pub positions: Range<usize>,
    pub id: PageId,
    /// Its lists, from the first on and before the second.
    pub list_from: usize,
    pub list_to: usize,
    /// Where its first run begins in the tensor, in cache lines.
    pub run_from: usize,
}

/// All pages of an index.
pub(crate) struct Pages {
    gpu: Gpu,
    budget: Option<u64>,
    total: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages: Vec<Page>,
    used: u64,
    clock: u64,
}

struct Page {
    label: &'static str,
    source: TensorBytes,
    buffer: Option<Buffer>,
    used_at: u64,
}

impl Pages {
    /// No pages yet; together they will take at most `budget` bytes of the device.
    pub fn new(gpu: &Gpu, budget: Option<u64>) -> Self {
        Self { gpu: gpu.clone(), budget, total: 0, state: Mutex::default() }
    }

    /// Adds a page, uploaded when it is first asked for.
    pub fn add(&mut self, label: &'static str, source: TensorBytes) -> PageId {
        self.total += source.len() as u64;
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.pages.push(Page { label, source, buffer: None, used_at: 0 });
        state.pages.len() - 1
    }

    /// Splits a tensor of one run a list into pages of at most `page_bytes`, whole lists each. `starts`: where each
    /// list's run begins, and where the last one ends.
    pub fn add_lists(
        &mut self,
        label: &'static str,
        bytes: &TensorBytes,
        starts: &[usize],
        lists: &Lists,
        page_bytes: u64,
    ) -> Result<Vec<ListPage>, GpuError> {
        let most = usize::try_from(page_bytes).unwrap_or(usize::MAX);
        let mut out = Vec::new();
        let mut from = 0;
        while from < lists.len() {
            let mut to = from + 1;
            while to < lists.len() && starts[to + 1] - starts[from] <= most {
                to += 1;
            }
            let needed = starts[to] - starts[from];
            if needed > most {
                return Err(GpuError::TooLarge {
                    what: format!("list {from} in {label}"),
                    needed: needed as u64,
                    allowed: page_bytes,
                });
            }
            out.push(ListPage {
                positions: lists.range(from).start..lists.range(to - 1).end,
                id: self.add(label, bytes.part(starts[from]..starts[to])),
                list_from: from,
                list_to: to,
                run_from: starts[from] / ALIGN,
            });
            from = to;
        }
        Ok(out)
    }

    /// Bytes of all pages.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that pages may take together, if there is a bound.
    pub fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// Whether pages come and go.
    pub fn stream(&self) -> bool {
        self.budget.is_some_and(|budget| self.total > budget)
    }

    /// Uploads everything, unless it would not fit.
    pub fn fill(&self) -> Result<(), GpuError> {
        if self.stream() {
            return Ok(());
        }
        let n = self.state.lock().unwrap_or_else(PoisonError::into_inner).pages.len();
        (0..n).try_for_each(|id| self.get(id, &mut || Ok(())).map(drop))
    }

    /// The buffer of a page. `flush`: submits and waits for what may still use the pages that make room.
    pub fn get(
        &self,
        id: PageId,
        flush: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<Buffer, GpuError> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.clock += 1;
        state.pages[id].used_at = state.clock;
        if let Some(buffer) = &state.pages[id].buffer {
            return Ok(buffer.clone());
        }
        let size = state.pages[id].source.len() as u64;
        if let Some(budget) = self.budget
            && state.used + size > budget
        {
            flush()?;
            while state.used + size > budget {
                let held = state.pages.iter_mut().filter(|page| page.buffer.is_some());
                let Some(page) = held.max_by_key(|page| page.used_at) else { break };
                page.buffer = None;
                state.used -= page.source.len() as u64;
            }
        }
        let page = &mut state.pages[id];
        let buffer = upload(&self.gpu, page.label, &page.source)?;
        page.buffer = Some(buffer.clone());
        state.used += size;
        Ok(buffer)
    }
}

/// A buffer with these bytes, padded with zeros to whole words.
pub(crate) fn upload(gpu: &Gpu, label: &'static str, bytes: &[u8]) -> Result<Buffer, GpuError> {
    let buffer = gpu.buffer(label, bytes.len() as u64)?;
    let whole = bytes.len() / 4 * 4;
    for (i, piece) in bytes[..whole].chunks(PIECE).enumerate() {
        gpu.scoped(label, || {
            gpu.queue().write_buffer(&buffer, (i * PIECE) as u64, piece);
            gpu.queue().submit([])
        })?;
        if bytes.len() > PIECE {
            gpu.wait(label, None)?;
        }
    }
    if whole < bytes.len() {
        let mut word = [0; 4];
        word[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
        gpu.scoped(label, || gpu.queue().write_buffer(&buffer, whole as u64, &word))?;
    }
    Ok(buffer)
}
