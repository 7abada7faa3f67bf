//! Training the networks, one list at a time.
//!
//! A list's queries are those that have it among their nearest lists; what they are to find is their nearest point in it, by the
//! vectors as they are given. Points that are asked for themselves do not count as their own nearest. The paper's training stays at
//! chance where a list has thousands of points: with one example for each and a softmax over all of them, accuracy does not move
//! within the three epochs that it waits for. Here vectors begin as the points (`mod.rs`), so that accuracy is high from the
//! start and what is learned is what the start gets wrong.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, PoisonError},
};

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::{BATCH_MAX, CnnShape, HELD_OUT, NETWORKS, POINTS, QUERIES};
use crate::{
    metric::Metric,
    train::{
        ReadRows,
        classes::{self, Classes, Examples, Front, NONE, Schedule},
        conv::{ConvNetwork, deviation},
        generator,
        grouped::Grouped,
        kmeans::squared_norm,
        linalg,
    },
};

/// Queries that meet all points of a list together.
const MET: usize = 256;

/// Queries in a step, at least.
const BATCH_MIN: usize = 16;

/// Share of queries held out whose nearest point comes first from which on there is nothing to learn.
const KNOWN: f64 = 0.999;

/// Places among which the nearest point counts as found.
const PLACES: usize = 5;

/// What networks are trained on.
pub(crate) struct Input<'a> {
    pub metric: Metric,
    pub seed: u64,
    /// `[n_lists, s]`.
    pub centroids: &'a [f32],
    /// Points as scorers see them, by list.
    pub points: Grouped<'a>,
    /// Training queries likewise.
    pub queries: Grouped<'a>,
    /// Both as they are given.
    pub given_points: &'a dyn ReadRows,
    pub given_queries: &'a dyn ReadRows,
    /// The queries are the points.
    pub are_points: bool,
}

/// How networks were trained.
#[derive(Default)]
pub(crate) struct Outcome {
    n_lists: usize,
    n_better: usize,
    /// Queries held out, and of how many the nearest point was among the first [`PLACES`]: at the start, as kept.
    n_held: usize,
    found: [usize; 2],
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |n: usize| n as f64 / self.n_held.max(1) as f64;
        write!(
            f,
            "{} lists, in {} a network better than the start on queries held out; for {:.4} of these the nearest point is among the \
             first {PLACES}, {:.4} at the start",
            self.n_lists,
            self.n_better,
            share(self.found[1]),
            share(self.found[0])
        )
    }
}

/// A list's part of the tensors.
struct Part<'a> {
    weights: &'a mut [u8],
    biases: &'a mut [u8],
    points: &'a mut [u8],
}

/// Trains all lists and fills in the tensors; `step` is called once a list, `goes_on` says whether to.
pub(crate) fn write(
    shape: CnnShape,
    input: &Input<'_>,
    parts: &mut BTreeMap<&'static str, &mut [u8]>,
    step: impl Fn() + Sync,
    goes_on: impl Fn() -> bool + Sync,
) -> Outcome {
    let outcome = Mutex::new(Outcome::default());
    let [weights, biases] = NETWORKS.map(|name| parts.remove(name));
    let (Some(weights), Some(biases), Some(mut points)) = (weights, biases, parts.remove(POINTS)) else {
        return Outcome::default();
    };
    let n_lists = input.points.members.offsets.len() - 1;
    let (of_weights, of_biases) = (weights.len() / n_lists, biases.len() / n_lists);
    let networks = weights.chunks_exact_mut(of_weights).zip(biases.chunks_exact_mut(of_biases));
    let mut lists = Vec::with_capacity(n_lists);
    for (list, (weights, biases)) in networks.enumerate() {
        let (part, rest) = points.split_at_mut(shape.run_bytes(input.points.members.of(list).len()));
        lists.push(Part { weights, biases, points: part });
        points = rest;
    }
    lists.into_par_iter().enumerate().for_each(|(list, part)| {
        if goes_on() {
            let found = train(shape, input, list, part, &goes_on);
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.n_lists += 1;
            outcome.n_better += found.n_better;
            outcome.n_held += found.n_held;
            outcome.found.iter_mut().zip(found.found).for_each(|(sum, n)| *sum += n);
        }
        step();
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Trains a list.
fn train(
    shape: CnnShape,
    input: &Input<'_>,
    list: usize,
    part: Part<'_>,
    goes_on: &impl Fn() -> bool,
) -> Outcome {
    let s = shape.network.s;
    let mut rng = generator(input.seed, &format!("network {list}"));
    let members = input.points.members.some(list, usize::MAX);
    let mut visitors = input.queries.members.some(list, QUERIES);
    visitors.shuffle(&mut rng);
    let points = input.points.gather(&members, s);
    let mut queries = input.queries.gather(&visitors, s);
    // About the length of a point.
    let unit = deviation(&points) * (s as f32).sqrt();
    queries.iter_mut().for_each(|v| *v /= unit);
    // In units before anything is squared: points may be as small as they like.
    let w: Vec<f32> = points.iter().map(|v| v / unit).collect();
    let bias = |x: &[f32]| if input.metric.is_l2() { squared_norm(x) / 2.0 } else { 0.0 };
    let start = Classes { b: w.chunks_exact(s).map(bias).collect(), w };
    let centre = input.centroids[list * s..(list + 1) * s].iter().map(|v| v / unit).collect();
    let network = ConvNetwork::new(shape.network, deviation(&queries), centre, &mut rng);
    let mut outcome = Outcome::default();
    let mut kept = (start.clone(), network.nothing());
    if members.len() > 1 && visitors.len() > 1 {
        let places: HashMap<usize, u32> = members.iter().copied().zip(0..).collect();
        let own: Vec<u32> = visitors
            .iter()
            .map(|visitor| places.get(visitor).copied().filter(|_| input.are_points).unwrap_or(NONE))
            .collect();
        let labels = nearest(input, &members, &visitors, &own);
        let n_held = (visitors.len() / HELD_OUT).max(1);
        let examples = |rows: std::ops::Range<usize>| Examples {
            queries: Cow::Borrowed(&queries[rows.start * s..rows.end * s]),
            classes: labels[rows.clone()].to_vec(),
            width: 1,
            copies: 1,
            own: own[rows].to_vec(),
        };
        let (examples, held) = (examples(n_held..visitors.len()), examples(0..n_held));
        let schedule = Schedule {
            epochs: 12,
            patience: 3,
            // A sixteenth of those of a list, within bounds.
            batch: (examples.len() / 16).clamp(BATCH_MIN, BATCH_MAX),
            rates: [1e-4, 1e-5],
        };
        let front = || Front::new(&network);
        let among = |ranks: &[usize], places: usize| ranks.iter().filter(|&&rank| rank <= places).count();
        let ranks = held.ranks(&start, None);
        (outcome.n_held, outcome.found) = (n_held, [among(&ranks, PLACES); 2]);
        if (among(&ranks, 1) as f64) < KNOWN * n_held as f64 {
            let steps = |_, _| goes_on();
            let found = classes::train(start, Some(front()), [&examples, &held], &schedule, steps, &mut rng);
            let after = among(&held.ranks(&found.classes, found.front.as_ref()), PLACES);
            if let Some(front) = found.front.filter(|_| found.is_better && after >= outcome.found[0]) {
                (outcome.n_better, outcome.found[1]) = (1, after);
                kept = (found.classes, network.stored(&front.values, unit));
            }
        }
    }
    let (Classes { w, b }, values) = kept;
    part.weights.copy_from_slice(bytemuck::cast_slice(&values.weights));
    part.biases.copy_from_slice(bytemuck::cast_slice(&values.biases));
    let factor = input.metric.product_factor().abs();
    let w: Vec<f32> = w.iter().map(|v| v * unit).collect();
    let vectors = w.chunks_exact(s).zip(&b).map(|(w, b)| (w[0], &w[1..], factor * b * unit * unit));
    shape.points.encode(vectors, part.points);
    outcome
}

/// The place of each visitor's nearest among the members, its own place apart.
fn nearest(input: &Input<'_>, members: &[usize], visitors: &[usize], own: &[u32]) -> Vec<u32> {
    let d = input.given_points.dim();
    // In units, too, or products of small numbers are all zero.
    let mut points = input.given_points.gather(members);
    let mut queries = input.given_queries.gather(visitors);
    let unit = deviation(&points);
    points.iter_mut().chain(&mut queries).for_each(|v| *v /= unit);
    let norms: Vec<f32> = points
        .chunks_exact(d)
        .map(|x| if input.metric.is_l2() { squared_norm(x) / 2.0 } else { 0.0 })
        .collect();
    let best = |(z, own): (&[f32], &u32)| {
        let others =
            z.iter().zip(&norms).map(|(z, norm)| z - norm).zip(0..).filter(|(_, place)| place != own);
        // Of equal ones the first.
        others.reduce(|a, b| if b.0 > a.0 { b } else { a }).map_or(0, |(_, place)| place)
    };
    let points = linalg::rows(&points, members.len(), d);
    let mut labels = Vec::with_capacity(visitors.len());
    for (queries, own) in queries.chunks(MET * d).zip(own.chunks(MET)) {
        let z = linalg::par_product(queries, points.transpose());
        labels.extend(z.chunks_exact(members.len()).zip(own).map(best));
    }
    labels
}
