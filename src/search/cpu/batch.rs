//! Many queries at once.
//!
//! Pairs of a query and a list that it reads are grouped by list, so that a list comes from memory once for all of its
//! queries, and kernels multiply it with several of them at a time.

use super::{Pipeline, Room, Slot, TOGETHER};
use crate::{
    index::Model,
    profile::Cost,
    search::{Effort, Request, SearchError},
    simd::Simd,
    stage::scorer::Scorer,
    topk::Candidates,
};

/// Queries on their way together, at most.
const BATCH: usize = 1024;

/// Queries on their way together, of however small an index.
const BATCH_MIN: usize = 128;

/// What a query on its way holds and every stage passes over, in bytes, roughly. Together go as many as share the lists'
/// bytes in portions of this size: fewer read lists more often than they must, more push each other out of the cache
/// (60 000 × 784 in 256 lists: 5 to 20 % slower with 1 000 than with 250; 115 659 × 384 in 1 024: the other way around).
const SLOT_BYTES: usize = 16 << 10;

/// Bytes that all queries on their way may hold, on one thread.
const SLOTS_MAX: usize = 64 << 20;

/// Readings of each list, on average, from which grouping by list pays.
const SHARED_MIN: f64 = 2.0;

/// The same where lists come from memory: in their order, each asked for while the one before is scanned. (A million points
/// in 2 048 lists, 2 read by each of 1 000 queries: 22 % more queries, with that 50 % at 4.)
const SHARED_MIN_MEMORY: f64 = 0.25;

/// Memory that searches need, kept from one to the next.
#[derive(Default)]
pub(in crate::search) struct Scratch {
    slots: Vec<Slot>,
    room: Room,
    groups: Groups,
}

/// Searches the queries from row `first` on, as many as `ids` has room for.
pub(in crate::search) fn search(
    model: &Model,
    simd: Simd,
    request: &Request<'_>,
    first: usize,
    ids: &mut [u64],
    scores: &mut [f32],
    scratch: &mut Scratch,
) -> Result<(), SearchError> {
    let (k, n_rerank) = (request.k, request.effort.n_rerank);
    let pipeline = Pipeline { model, simd, n_probe: request.effort.n_probe, n_rerank };
    let slot =
        slot_bytes(model.dim, model.lists.sizes().n_copies, request.effort, model.scorer.query_bytes());
    let at_once = at_once(model.scorer.n_bytes(), slot);
    scratch.room.clock.start(request.clock.is_some());
    for (i, (ids, scores)) in ids.chunks_mut(at_once * k).zip(scores.chunks_mut(at_once * k)).enumerate() {
        let n = ids.len() / k;
        if scratch.slots.len() < n {
            scratch.slots.resize_with(n, Slot::default);
        }
        let slots = &mut scratch.slots[..n];
        for (row, slot) in slots.iter_mut().enumerate() {
            slot.q.resize(model.dim, 0.0);
            request.query(model, first + i * at_once + row, &mut slot.q)?;
            slot.enter(&model.frame);
        }
        match slots {
            [slot] => pipeline.one(slot, &mut scratch.room, ids, scores),
            _ => pipeline.together(slots, &mut scratch.room, &mut scratch.groups, k, ids, scores),
        }
    }
    if let Some(profile) = request.clock {
        scratch.room.clock.empty_into(profile);
    }
    Ok(())
}

/// Queries in a piece of `n` on some threads: equal pieces, as many rounds of the threads as it takes, none larger than what
/// goes through the stages together.
pub(in crate::search) fn piece_rows(n: usize, threads: usize) -> usize {
    n.div_ceil(threads * n.div_ceil(threads * BATCH).max(1)).max(1)
}

/// Bytes that a query on its way holds: candidates; probes, in their slot and in their list's group; the query as given, as
/// scorers see it and in codes; what the scorer prepares of it.
pub(in crate::search) fn slot_bytes(
    dim: usize,
    n_copies: usize,
    effort: Effort,
    query_bytes: usize,
) -> usize {
    let candidates = Candidates::n_bytes(effort.n_rerank * n_copies, n_copies > 1);
    candidates + 16 * effort.n_probe + 10 * dim + query_bytes
}

/// Queries that go together on one thread, for lists of `scorer_bytes` and slots of `slot_bytes`.
pub(in crate::search) fn at_once(scorer_bytes: usize, slot_bytes: usize) -> usize {
    let shares = (scorer_bytes / SLOT_BYTES).clamp(BATCH_MIN, BATCH);
    shares.min(SLOTS_MAX / slot_bytes.max(1)).max(1)
}

/// Readings grouped by list.
#[derive(Default)]
struct Groups {
    /// Where each list's readings begin, and where the last one's end.
    starts: Vec<usize>,
    /// Slot and the router's score of the list.
    readings: Vec<(u32, f32)>,
}

impl Groups {
    /// Groups the slots' probes.
    fn fill(&mut self, slots: &[Slot], n_lists: usize) {
        self.starts.clear();
        self.starts.resize(n_lists + 2, 0);
        // Two places on: counts become ends, then ends become beginnings as readings take their places.
        for &(list, _) in slots.iter().flat_map(|slot| &slot.probes) {
            self.starts[list as usize + 2] += 1;
        }
        for list in 0..n_lists {
            self.starts[list + 2] += self.starts[list + 1];
        }
        self.readings.clear();
        self.readings.resize(self.starts[n_lists + 1], (0, 0.0));
        for (i, slot) in (0..).zip(slots) {
            for &(list, base) in &slot.probes {
                let at = &mut self.starts[list as usize + 1];
                self.readings[*at] = (i, base);
                *at += 1;
            }
        }
    }

    /// The readings of a list.
    fn of(&self, list: usize) -> &[(u32, f32)] {
        &self.readings[self.starts[list]..self.starts[list + 1]]
    }
}

impl Pipeline<'_> {
    /// Searches all slots, stage by stage.
    fn together(
        self,
        slots: &mut [Slot],
        room: &mut Room,
        groups: &mut Groups,
        k: usize,
        ids: &mut [u64],
        scores: &mut [f32],
    ) {
        let (fours, rest) = slots.as_chunks_mut::<TOGETHER>();
        for four in fours.iter_mut() {
            self.project(four.each_mut(), room);
        }
        for slot in rest.iter_mut() {
            self.project([slot], room);
        }
        for slot in slots.iter_mut() {
            self.prepare(slot, room);
        }
        let (fours, rest) = slots.as_chunks_mut::<TOGETHER>();
        for four in fours.iter_mut() {
            self.route(four.each_mut(), room);
        }
        for slot in rest.iter_mut() {
            self.route([slot], room);
        }
        let n_lists = self.model.lists.len();
        let readings = (slots.len() * self.n_probe) as f64 / n_lists as f64;
        let is_shared = readings >= if self.is_cached() { SHARED_MIN } else { SHARED_MIN_MEMORY };
        // Lists in any order set thresholds late: where lookups are slow to keep what passes them, that costs more than
        // reading lists anew (AVX2: a sixth of the time at 67 of 1 024 lists).
        let pays = self.simd.takes_several() || !matches!(self.model.scorer, Scorer::Pq(_));
        if is_shared && pays {
            groups.fill(slots, n_lists);
            self.scan_all(slots, room, groups);
        } else {
            for slot in slots.iter_mut() {
                self.scan_own(slot, room);
            }
        }
        room.clock.stage("score", self.scores_floats(), slots.len(), || self.cost_of_all(slots));
        for slot in slots.iter_mut() {
            self.select(slot, room);
        }
        let found = ids.chunks_mut(k).zip(scores.chunks_mut(k));
        for (i, (ids, scores)) in found.enumerate() {
            if let Some(next) = slots.get(i + 1) {
                self.prefetch_rows(next);
            }
            self.rerank(&slots[i], room, ids, scores);
        }
    }

    /// What it takes to score the lists of all slots, each list read once.
    fn cost_of_all(self, slots: &[Slot]) -> Cost {
        let mut bytes = vec![0.0; self.model.lists.len()];
        let mut ops = 0.0;
        for &(list, _) in slots.iter().flat_map(|slot| &slot.probes) {
            let cost = self.cost_of_list(list as usize);
            bytes[list as usize] = cost.bytes;
            ops += cost.ops;
        }
        Cost { bytes: bytes.into_iter().sum(), ops }
    }

    /// Scans list by list.
    fn scan_all(self, slots: &mut [Slot], room: &mut Room, groups: &Groups) {
        for list in 0..self.model.lists.len() {
            if list + 1 < self.model.lists.len() && !groups.of(list + 1).is_empty() {
                self.prefetch(list + 1, true);
            }
            let (fours, rest) = groups.of(list).as_chunks::<TOGETHER>();
            for readings in fours {
                self.scan_some(list, readings, slots, room);
            }
            let (pairs, rest) = rest.as_chunks::<2>();
            for readings in pairs {
                self.scan_some(list, readings, slots, room);
            }
            for reading in rest {
                self.scan_some(list, &[*reading], slots, room);
            }
        }
    }

    fn scan_some<const N: usize>(
        self,
        list: usize,
        readings: &[(u32, f32); N],
        slots: &mut [Slot],
        room: &mut Room,
    ) {
        let places = readings.map(|(slot, _)| slot as usize);
        #[allow(clippy::unreachable, reason = "a router gives a query each list once")]
        let Ok(slots) = slots.get_disjoint_mut(places) else { unreachable!("a query reads a list once") };
        let mut bases = readings.iter().map(|&(_, base)| base);
        self.scan(list, slots.map(|slot| (slot, bases.next().unwrap_or(0.0))), room);
    }
}
