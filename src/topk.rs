//! Bounded selection, and the one order in which neighbours stand.
//!
//! Neighbours are ordered by internal score (smaller is better, [`f32::total_cmp`] with −0 taken as
//! +0), then by lower id. Every backend follows this order, so ties are resolved alike everywhere.
//!
//! [`Candidates`] keeps the best `keep` of a long stream without sorting it: kernels append whatever
//! is not worse than the running threshold; when the buffer is full it is narrowed to little more than `keep`, and the
//! threshold with it. With a buffer of `2·keep` each survivor costs O(1) amortised.

use std::cmp::Ordering;

use crate::simd::Simd;

/// The id that stands where there is no neighbour.
pub const NO_ID: u64 = u64::MAX;

/// Free places a kernel may count on: at most four blocks of 32 points are appended at a time.
pub(crate) const APPEND: usize = 128;

/// Room beyond `keep` below which a buffer would be narrowed too often for its threshold to pay.
const SLACK_MIN: usize = 240;

/// A float's bits as an integer of the same order, −0 and +0 alike.
pub(crate) fn order_key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits }
}

/// The score of a key.
pub(crate) fn key_score(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}

/// The order of neighbours: score, then lower id.
pub(crate) fn compare(a: (f32, u64), b: (f32, u64)) -> Ordering {
    order_key(a.0).cmp(&order_key(b.0)).then(a.1.cmp(&b.1))
}

/// The best `keep` of the (score, position) pairs offered so far, and perhaps some more.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    scores: Vec<f32>,
    positions: Vec<u32>,
    len: usize,
    keep: usize,
    /// Scores above this can no longer be among the best.
    threshold: f32,
    packed: Vec<u64>,
    places: Vec<u32>,
    simd: Option<Simd>,
}

/// Free places behind the candidates, and what may enter them.
pub(crate) struct Tail<'a> {
    /// Scores above this are not wanted.
    pub threshold: f32,
    pub scores: &'a mut [f32],
    pub positions: &'a mut [u32],
    /// Places filled.
    pub written: usize,
}

impl Tail<'_> {
    /// Whether [`APPEND`] more have room.
    pub fn has_room(&self) -> bool {
        self.written + APPEND <= self.scores.len()
    }

    /// Takes one more, whatever its score.
    pub fn put(&mut self, score: f32, position: u32) {
        self.scores[self.written] = score;
        self.positions[self.written] = position;
        self.written += 1;
    }
}

impl Candidates {
    /// Places for candidates of which `keep` matter.
    fn capacity(keep: usize) -> usize {
        keep + keep.max(SLACK_MIN) + APPEND
    }

    /// Bytes of a buffer for `keep`, and of the table that merging copies takes; many ties take half as much again.
    pub fn n_bytes(keep: usize, merges: bool) -> usize {
        8 * Self::capacity(keep) + if merges { 12 * keep } else { 0 }
    }

    /// Empties the buffer and sets how many candidates matter.
    pub fn reset(&mut self, simd: Simd, keep: usize) {
        self.simd = Some(simd);
        let capacity = Self::capacity(keep);
        if self.scores.len() < capacity {
            self.scores.resize(capacity, 0.0);
            self.positions.resize(capacity, 0);
        }
        self.len = 0;
        self.keep = keep;
        self.threshold = if keep == 0 { f32::NEG_INFINITY } else { f32::INFINITY };
    }

    /// Whether fewer than [`APPEND`] places are free.
    fn is_full(&self) -> bool {
        self.len + APPEND > Self::capacity(self.keep)
    }

    /// Where a kernel may write, with room for at least [`APPEND`].
    fn tail(&mut self, id_of: &impl Fn(u32) -> u64) -> Tail<'_> {
        self.make_room(id_of);
        let tail = self.len..Self::capacity(self.keep);
        let (scores, positions) = (&mut self.scores[tail.clone()], &mut self.positions[tail]);
        Tail { threshold: self.threshold, scores, positions, written: 0 }
    }

    /// Offers one candidate.
    pub fn push(&mut self, score: f32, position: u32, id_of: &impl Fn(u32) -> u64) {
        if score <= self.threshold {
            self.make_room(id_of);
            if score > self.threshold {
                return;
            }
            self.scores[self.len] = score;
            self.positions[self.len] = position;
            self.len += 1;
        }
    }

    /// Makes room for [`APPEND`] more.
    fn make_room(&mut self, id_of: &impl Fn(u32) -> u64) {
        if self.is_full() {
            self.narrow(self.keep + self.keep / 2);
            if self.is_full() {
                // So many scores are equal.
                self.cut(id_of);
            }
        }
    }

    /// Leaves the best `keep`, those that tie with the last of them, and of others no more than `most` in all.
    fn narrow(&mut self, most: usize) {
        if self.keep == 0 {
            self.len = 0;
        }
        if let (true, Some(simd)) = (self.len > self.keep, self.simd) {
            let held = (&mut self.scores[..self.len], &mut self.positions[..self.len]);
            (self.len, self.threshold) = simd.narrow(held.0, held.1, self.keep, most);
        }
    }

    /// Cuts the buffer back to the best `keep`; `id_of` gives the id at a position, looked up only between equal scores.
    pub fn cut(&mut self, id_of: &impl Fn(u32) -> u64) {
        self.narrow(self.keep);
        if self.len <= self.keep {
            return;
        }
        // More tie for the last places than there are places: those of lower id get them.
        let last = order_key(self.threshold);
        self.pack();
        self.packed.retain(|&packed| (packed >> 32) as u32 == last);
        let free = self.keep - (self.len - self.packed.len());
        self.packed.sort_unstable_by(by_id(id_of));
        let mut n = 0;
        for i in 0..self.len {
            if order_key(self.scores[i]) != last {
                (self.scores[n], self.positions[n]) = (self.scores[i], self.positions[i]);
                n += 1;
            }
        }
        for (i, &packed) in self.packed[..free].iter().enumerate() {
            (self.scores[n + i], self.positions[n + i]) = (self.threshold, low(packed));
        }
        self.len = self.keep;
    }

    /// The positions held and their scores, best first.
    pub fn sort_into(&mut self, id_of: &impl Fn(u32) -> u64, out: &mut Vec<(u32, f32)>) {
        self.pack();
        self.packed.sort_unstable_by(by_id(id_of));
        out.clear();
        out.extend(self.packed.iter().map(|&packed| (low(packed), key_score((packed >> 32) as u32))));
    }

    /// From positions to points: each point stays once, with the best of its scores, and of those the best `keep`.
    /// `copies`: positions a point has at most; there are enough points if `keep·copies` positions were kept.
    pub fn merge(&mut self, keep: usize, point_of: impl Fn(u32) -> u32, id_of: &impl Fn(u32) -> u64) {
        const FREE: u32 = u32::MAX;
        // Open addressing, at most half full: the place of each point's entry by its hash.
        let lg_places = (2 * self.len).next_power_of_two().max(2).ilog2();
        let places = 1_usize << lg_places;
        self.places.clear();
        self.places.resize(places, FREE);
        // Apart from the table, so that these loads from anywhere do not wait for each other.
        for position in &mut self.positions[..self.len] {
            *position = point_of(*position);
        }
        let mut n = 0;
        for i in 0..self.len {
            let (score, point) = (self.scores[i], self.positions[i]);
            // Fibonacci hashing: the top bits of a product with 2³²/φ.
            let mut place = (point.wrapping_mul(0x9e37_79b9) >> (32 - lg_places)) as usize;
            loop {
                let held = self.places[place];
                if held == FREE {
                    self.places[place] = u32::try_from(n).unwrap_or(FREE);
                    self.positions[n] = point;
                    self.scores[n] = score;
                    n += 1;
                    break;
                }
                if self.positions[held as usize] == point {
                    let best = &mut self.scores[held as usize];
                    *best = best.min(score);
                    break;
                }
                place = (place + 1) & (places - 1);
            }
        }
        self.len = n;
        self.keep = keep;
        self.cut(id_of);
    }

    fn pack(&mut self) {
        self.packed.clear();
        let pairs = self.scores[..self.len].iter().zip(&self.positions);
        self.packed.extend(pairs.map(|(&s, &p)| u64::from(order_key(s)) << 32 | u64::from(p)));
    }

    /// The positions held, in no order; call [`Candidates::cut`] first for exactly the best.
    pub fn positions(&self) -> &[u32] {
        &self.positions[..self.len]
    }

    /// The scores held, beside [`Candidates::positions`].
    pub fn scores(&self) -> &[f32] {
        &self.scores[..self.len]
    }
}

/// Offers `n` points to each of several: `scan(seen, tails)` goes on from point `seen` until a tail has no room for
/// [`APPEND`] more and returns how far it came; nothing ends it.
pub(crate) fn fill<const N: usize>(
    mut kept: [&mut Candidates; N],
    n: usize,
    id_of: &impl Fn(u32) -> u64,
    scan: impl Fn(usize, &mut [Tail<'_>; N]) -> Option<usize>,
) {
    let mut seen = 0;
    while seen < n {
        let mut tails = kept.each_mut().map(|kept| kept.tail(id_of));
        let Some(reached) = scan(seen, &mut tails) else { return };
        seen = reached;
        let written = tails.map(|tail| tail.written);
        for (kept, written) in kept.iter_mut().zip(written) {
            kept.len += written;
        }
    }
}

/// The order of packed candidates: score, then lower id.
fn by_id(id_of: &impl Fn(u32) -> u64) -> impl FnMut(&u64, &u64) -> Ordering {
    |a, b| (a >> 32).cmp(&(b >> 32)).then_with(|| id_of(low(*a)).cmp(&id_of(low(*b))))
}

/// The position in the low half of a packed candidate.
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low(packed: u64) -> u32 {
    packed as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_the_best_of_a_stream(
            scores in proptest::collection::vec(-8_i32..8, 0..2000),
            keep in 0_usize..300,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(|s| s as f32 / 4.0).collect();
            let id_of = |p: u32| u64::from(5000 - p);
            let mut kept = Candidates::default();
            kept.reset(Simd::detect(), keep);
            let half = scores.len() / 2;
            for (i, &s) in scores[..half].iter().enumerate() {
                kept.push(s, u32::try_from(i).unwrap(), &id_of);
            }
            fill([&mut kept], scores.len() - half, &id_of, |seen, [tail]| {
                let mut at = half + seen;
                while at < scores.len() && tail.has_room() {
                    if scores[at] <= tail.threshold {
                        tail.put(scores[at], u32::try_from(at).unwrap());
                    }
                    at += 1;
                }
                Some(at - half)
            });
            if keep > 0 { kept.cut(&id_of); }
            let mut got: Vec<(f32, u64)> =
                kept.positions().iter().zip(kept.scores()).map(|(&p, &s)| (s, id_of(p))).collect();
            got.sort_by(|a, b| compare(*a, *b));
            let mut want: Vec<(f32, u64)> =
                scores.iter().enumerate().map(|(i, &s)| (s, id_of(u32::try_from(i).unwrap()))).collect();
            want.sort_by(|a, b| compare(*a, *b));
            want.truncate(keep);
            prop_assert_eq!(got, want);
        }

        #[test]
        fn merging_keeps_the_best_of_each_point(
            scores in proptest::collection::vec(-8_i32..8, 0..600),
            copies in 1_u32..4,
            keep in 1_usize..100,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(|s| s as f32 / 4.0).collect();
            let n_points = u32::try_from(scores.len()).unwrap().div_ceil(copies).max(1);
            let point_of = |position: u32| position % n_points;
            let id_of = |point: u32| u64::from(9000 - point);
            let mut kept = Candidates::default();
            kept.reset(Simd::detect(), keep * copies as usize);
            for (i, &s) in scores.iter().enumerate() {
                kept.push(s, u32::try_from(i).unwrap(), &|position| id_of(point_of(position)));
            }
            kept.cut(&|position| id_of(point_of(position)));
            kept.merge(keep, point_of, &id_of);
            let mut got: Vec<(f32, u64)> =
                kept.positions().iter().zip(kept.scores()).map(|(&p, &s)| (s, id_of(p))).collect();
            got.sort_by(|a, b| compare(*a, *b));
            let mut best = std::collections::BTreeMap::new();
            for (i, &s) in scores.iter().enumerate() {
                let held = best.entry(id_of(point_of(u32::try_from(i).unwrap()))).or_insert(s);
                *held = held.min(s);
            }
            let mut want: Vec<(f32, u64)> = best.into_iter().map(|(id, s)| (s, id)).collect();
            want.sort_by(|a, b| compare(*a, *b));
            want.truncate(keep);
            prop_assert_eq!(got, want);
        }

        #[test]
        fn keys_follow_total_order(a in any::<f32>(), b in any::<f32>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(order_key(a).cmp(&order_key(b)), (a + 0.0).total_cmp(&(b + 0.0)));
            prop_assert_eq!(key_score(order_key(a)), a);
        }
    }
}
