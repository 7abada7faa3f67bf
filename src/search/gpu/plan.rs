//! How a batch is cut for the device: queries into chunks, a chunk's probes into rounds.
//!
//! A chunk's candidates lie in one buffer, `stride` places a query. What a round can add is known before it runs: no
//! more than the largest lists hold. So rounds are cut such that nothing ever overflows, and between rounds each
//! query's candidates are cut back to the best `keep`, whose last key becomes the floor that later candidates
//! must reach. A short first round over the nearest lists makes that floor early: most scores are then never written.

use crate::gpu::{
    GpuError,
    kernel::{Plan, TILE_POINTS},
};

/// Queries in a chunk, at most: more would share little more of each list.
const ROWS_MAX: usize = 4096;
/// Queries in a chunk that candidates leave room for before they are cut into more rounds.
const ROWS_WANTED: usize = 1024;
/// Candidates a query beyond those kept: with more, selecting among them by one workgroup takes longer than rounds.
const STRIDE_MAX: usize = 1 << 16;

/// What an index and a device allow.
pub(super) struct Bounds {
    /// Points of the p largest lists together, `[n_lists + 1]`.
    pub largest: Vec<usize>,
    /// Bytes a query takes in the largest buffer beside the candidates.
    pub row_bytes: usize,
    /// Bytes a pair takes.
    pub slot_bytes: usize,
    /// Bytes of a buffer.
    pub buffer: u64,
    /// Workgroups of a dispatch.
    pub groups: u64,
}

/// Part of a chunk's work: some probes, some points of each list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    pub probe_from: usize,
    pub n_probes: usize,
    /// Points, counted from each list's first.
    pub points: (usize, usize),
}

/// How a batch runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BatchPlan {
    /// Queries a chunk.
    pub rows: usize,
    /// Candidates a query, at most.
    pub stride: usize,
    /// Candidates a query that are kept: positions, of which a point may have several.
    pub keep: usize,
    pub plan: Plan,
    pub rounds: Vec<Round>,
}

impl Bounds {
    /// The plan for `n` queries, `n_probe` lists and `keep` candidates each, with buffers as large as they may be;
    /// results are `k` wide.
    #[cfg(test)]
    fn plan(&self, n: usize, n_probe: usize, keep: usize, k: usize) -> Result<BatchPlan, GpuError> {
        self.plan_within(self.buffer, n, n_probe, keep, k)
    }

    /// The plan for `n` queries, `n_probe` lists and `keep` candidates each, with buffers of at most `buffer` bytes;
    /// results are `k` wide.
    pub fn plan_within(
        &self,
        buffer: u64,
        n: usize,
        n_probe: usize,
        keep: usize,
        k: usize,
    ) -> Result<BatchPlan, GpuError> {
        let n_lists = self.largest.len() - 1;
        let full = self.largest[n_probe];
        let allowed = buffer;
        let buffer = usize::try_from(buffer).unwrap_or(usize::MAX);
        let wanted = n.min(ROWS_WANTED);
        let least = keep + TILE_POINTS;
        let most = (keep * 2 + STRIDE_MAX).min((buffer / 8 / wanted).max(least + STRIDE_MAX / 16));
        // A round after the first has room for at least one tile of points beside those kept.
        let stride = full.max(least).min(most);
        let slots_row = self.slot_bytes.max(8);
        let row_bytes = [stride * 8, n_lists * 8, n_probe * 8, k * 8, keep * 8, slots_row, self.row_bytes];
        let needed = row_bytes.into_iter().max().unwrap_or(1).max(1);
        let lists_tiles = n_lists.div_ceil(64);
        let tiles = self.largest[1.min(n_lists)].div_ceil(TILE_POINTS).max(1);
        let row_groups = (keep.div_ceil(8)).max(lists_tiles).max(tiles).max(1);
        let by_groups = usize::try_from(self.groups).unwrap_or(usize::MAX) / row_groups;
        let rows = n.min(ROWS_MAX).min(buffer / needed).min(by_groups);
        if rows == 0 {
            return Err(GpuError::TooLarge {
                what: format!("one query with n_probe {n_probe}, {keep} candidates and k {k}"),
                needed: needed as u64,
                allowed,
            });
        }
        // Two pairs a list, and grouping saves more than its dispatches cost.
        let pairs = rows * n_probe;
        let plan = if rows > 1 && pairs >= 2 * n_lists { Plan::ClusterMajor } else { Plan::QueryMajor };
        let slots = (buffer / (rows * slots_row)).min(by_groups / rows * row_groups / tiles).max(1);
        let mean = self.largest[n_lists].div_ceil(n_lists).max(1);
        let first = (2 * keep).div_ceil(mean);
        let mut rounds = Vec::new();
        let mut from = 0;
        while from < n_probe {
            let room = if from == 0 { stride } else { stride - keep };
            let mut n_probes = (n_probe - from).min(slots);
            if from == 0 && plan == Plan::ClusterMajor && first * 3 <= n_probe {
                n_probes = n_probes.min(first);
            }
            let fitting = self.largest[..=n_probes].partition_point(|&points| points <= room) - 1;
            if fitting > 0 {
                rounds.push(Round { probe_from: from, n_probes: fitting, points: (0, self.largest[1]) });
                from += fitting;
            } else {
                // Not even one list fits whole. The first piece of all is short, for an early floor.
                let step = (stride - keep) / TILE_POINTS * TILE_POINTS;
                let mut start = 0;
                while start < self.largest[1] {
                    let short = (8 * keep).next_multiple_of(TILE_POINTS).max(16 * TILE_POINTS);
                    let step = if rounds.is_empty() { step.min(short) } else { step };
                    let end = (start + step).min(self.largest[1]);
                    rounds.push(Round { probe_from: from, n_probes: 1, points: (start, end) });
                    start = end;
                }
                from += 1;
            }
        }
        Ok(BatchPlan { rows, stride, keep, plan, rounds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(sizes: &[usize], buffer: u64) -> Bounds {
        let mut largest = vec![0];
        let mut sorted = sizes.to_vec();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        for size in sorted {
            largest.push(largest[largest.len() - 1] + size);
        }
        Bounds { largest, row_bytes: 4096, slot_bytes: 200, buffer, groups: 1 << 32 }
    }

    /// Every (probe, point) once, and never more candidates than places.
    fn check(bounds: &Bounds, n: usize, n_probe: usize, keep: usize) -> BatchPlan {
        let plan = bounds.plan(n, n_probe, keep, keep).unwrap();
        let mut probes = vec![0; n_probe];
        for (i, round) in plan.rounds.iter().enumerate() {
            let points = round.points.1 - round.points.0;
            assert!(points > 0 || bounds.largest[1] == 0, "{plan:?}");
            for p in &mut probes[round.probe_from..round.probe_from + round.n_probes] {
                assert_eq!(*p, round.points.0, "rounds of a probe follow each other");
                *p = round.points.1;
            }
            let added = bounds.largest[round.n_probes].min(round.n_probes * points);
            let held = if i == 0 { 0 } else { keep };
            assert!(held + added <= plan.stride, "{plan:?}");
        }
        assert!(probes.iter().all(|&p| p == bounds.largest[1]), "{plan:?}");
        assert!((plan.rows * plan.stride * 8) as u64 <= bounds.buffer);
        plan
    }

    #[test]
    fn plans_cover_everything_and_never_overflow() {
        for sizes in [vec![1], vec![0, 5, 3], vec![300; 64], vec![1_000_000], vec![40_000, 1, 1, 9]] {
            for buffer in [1 << 20, 1 << 27, 1 << 31] {
                let bounds = bounds(&sizes, buffer);
                for n in [1, 2, 100, 10_000] {
                    for keep in [1, 10, 1000] {
                        for n_probe in [1, sizes.len().div_ceil(2), sizes.len()] {
                            check(&bounds, n, n_probe, keep);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn as_many_kept_as_there_are_points_leaves_room_for_later_rounds() {
        check(&Bounds { slot_bytes: 132, ..bounds(&[4; 512], 1 << 27) }, 4096, 512, 2048);
        check(&bounds(&[200, 1, 1, 1, 1, 1, 1, 1, 1, 1], 1 << 27), 10, 3, 3);
        check(&Bounds { slot_bytes: 132, ..bounds(&[10; 60], 1 << 18) }, 60, 60, 600);
        for keep in 1..600 {
            check(&bounds(&[300, 200, 50, 7, 7, 7, 1], 1 << 18), 30, 7, keep);
        }
    }

    #[test]
    fn large_batches_are_cluster_major_with_an_early_floor() {
        let bounds = bounds(&[240; 1024], 1 << 27);
        let plan = check(&bounds, 4096, 32, 100);
        assert_eq!(plan.plan, Plan::ClusterMajor);
        assert_eq!(plan.rounds[0].n_probes, 1);
        assert_eq!(check(&bounds, 1, 32, 100).plan, Plan::QueryMajor);
        assert_eq!(check(&bounds, 1, 32, 100).rounds.len(), 1);
    }

    #[test]
    fn what_cannot_fit_is_an_error() {
        let bounds = bounds(&[1 << 20], 1 << 20);
        assert!(matches!(bounds.plan(1, 1, 1 << 20, 10), Err(GpuError::TooLarge { .. })));
    }
}
