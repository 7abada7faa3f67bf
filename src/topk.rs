//! Bounded selection, and the one order in which neighbours stand.
//!
//! Neighbours are ordered by internal score (smaller is better, [`f32::total_cmp`] with −0 taken as
//! +0), then by lower id. Every backend follows this order, so ties are resolved alike everywhere.
//!
//! [`Candidates`] keeps the best `keep` of a long stream without sorting it: kernels append whatever
//! is not worse than the running threshold; when the buffer is full a quickselect cuts it back to
//! `keep` and tightens the threshold. With a buffer of `2·keep` each survivor costs O(1) amortised.

use std::cmp::Ordering;

/// The id that stands where there is no neighbour.
pub const NO_ID: u64 = u64::MAX;

/// Free places a kernel may count on: at most four blocks of 32 points are appended at a time.
pub(crate) const APPEND: usize = 128;

/// Room beyond `keep` below which a buffer would be cut too often for its threshold to pay:
/// a cut costs about 1 µs per 256 entries.
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
}

impl Candidates {
    /// Empties the buffer and sets how many candidates matter.
    pub fn reset(&mut self, keep: usize) {
        let capacity = keep + keep.max(SLACK_MIN) + APPEND;
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
        self.len + APPEND > self.keep + self.keep.max(SLACK_MIN) + APPEND
    }

    /// Fills the tail from `n` points: `scan(seen, threshold, scores, positions)` goes on from point `seen` until it
    /// has no room for [`APPEND`] more, and returns how far it came and how many it wrote; nothing ends it.
    pub fn fill(
        &mut self,
        n: usize,
        id_of: &impl Fn(u32) -> u64,
        scan: impl Fn(usize, f32, &mut [f32], &mut [u32]) -> Option<(usize, usize)>,
    ) {
        let mut seen = 0;
        while seen < n {
            if self.is_full() {
                self.cut(id_of);
            }
            let end = self.keep + self.keep.max(SLACK_MIN) + APPEND;
            let tail = self.len..end;
            let (scores, positions) = (&mut self.scores[tail.clone()], &mut self.positions[tail]);
            let Some((reached, written)) = scan(seen, self.threshold, scores, positions) else { return };
            seen = reached;
            self.len += written;
        }
    }

    /// Offers one candidate; `id_of` gives the id at a position, looked up only between equal scores.
    pub fn push(&mut self, score: f32, position: u32, id_of: &impl Fn(u32) -> u64) {
        if score <= self.threshold {
            if self.is_full() {
                self.cut(id_of);
                if score > self.threshold {
                    return;
                }
            }
            self.scores[self.len] = score;
            self.positions[self.len] = position;
            self.len += 1;
        }
    }

    /// Cuts the buffer back to the best `keep` and tightens the threshold.
    pub fn cut(&mut self, id_of: &impl Fn(u32) -> u64) {
        if self.len <= self.keep {
            return;
        }
        self.pack();
        let by_id =
            |a: &u64, b: &u64| (a >> 32).cmp(&(b >> 32)).then_with(|| id_of(low(*a)).cmp(&id_of(low(*b))));
        self.packed.select_nth_unstable_by(self.keep - 1, by_id);
        for (i, &packed) in self.packed[..self.keep].iter().enumerate() {
            self.scores[i] = key_score((packed >> 32) as u32);
            self.positions[i] = low(packed);
        }
        self.len = self.keep;
        self.threshold = self.scores[self.keep - 1];
    }

    /// The positions held and their scores, by score and then by position.
    pub fn sort_into(&mut self, out: &mut Vec<(u32, f32)>) {
        self.pack();
        self.packed.sort_unstable();
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
        let mut n = 0;
        for i in 0..self.len {
            let (score, point) = (self.scores[i], point_of(self.positions[i]));
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
            kept.reset(keep);
            let half = scores.len() / 2;
            for (i, &s) in scores[..half].iter().enumerate() {
                kept.push(s, u32::try_from(i).unwrap(), &id_of);
            }
            kept.fill(scores.len() - half, &id_of, |seen, threshold, out, positions| {
                let (mut at, mut written) = (half + seen, 0);
                while at < scores.len() && written + APPEND <= out.len() {
                    if scores[at] <= threshold {
                        (out[written], positions[written]) = (scores[at], u32::try_from(at).unwrap());
                        written += 1;
                    }
                    at += 1;
                }
                Some((at - half, written))
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
            kept.reset(keep * copies as usize);
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
