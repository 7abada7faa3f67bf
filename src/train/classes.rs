//! Training vectors of classes: a query is likeliest in the class of largest `⟨t, w⟩ − b`.
//!
//! Classes are lists, or the points of one list; t is the query, or what a network in front makes of it. Weights w and biases b begin
//! as what a query is compared with anyway. A query whose true neighbours are x₁..x_K sees `p = softmax(a·z)` of its classes' scores
//! z; the loss is the mean of `−ln Σ_{l ∋ x_k} p_l`, the surprise that some class of a neighbour is chosen: with one copy of each
//! point cross-entropy, with several the query may go to whichever class suits. Its gradient is closed form,
//! `∂/∂z_l = a·(p_l − r_l)` with `r_l = mean_k [l ∋ x_k]·p_l / Σ_{l' ∋ x_k} p_l'`. The factor a is what the start's loss is least
//! for.
//!
//! What is kept is what did best on queries held out, the start among it.

use std::borrow::Cow;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    Network,
    adam::{Adam, Moments},
    linalg,
};

/// Classes in a piece of work.
const PIECE: usize = 64;

/// Queries and the classes of their neighbours.
pub(crate) struct Examples<'a> {
    /// `[t, s]`.
    pub queries: Cow<'a, [f32]>,
    /// `[t, K, copies]`.
    pub classes: Vec<u32>,
    /// K·copies.
    pub width: usize,
    pub copies: usize,
    /// Of each query a class that does not count, or [`NONE`]; empty where all count.
    pub own: Vec<u32>,
}

/// No class.
#[cfg(feature = "neural")]
pub(crate) const NONE: u32 = u32::MAX;

/// Weights `[L, s]` and biases `[L]`, in units in which weights have about unit length.
#[derive(Clone)]
pub(crate) struct Classes {
    pub w: Vec<f32>,
    pub b: Vec<f32>,
}

/// A network in front, and its parameters.
#[derive(Clone)]
pub(crate) struct Front<'a> {
    pub network: &'a dyn Network,
    pub values: Vec<Vec<f32>>,
}

/// How long, and how fast.
pub(crate) struct Schedule {
    /// Times that all queries are seen, at most.
    pub epochs: usize,
    /// Epochs without a lower loss on those held out after which training stops.
    pub patience: usize,
    /// Queries in a step.
    pub batch: usize,
    /// AdamW's rate for weights and biases at the start, and for the network's parameters; both fall to nothing.
    pub rates: [f32; 2],
}

/// What training has found.
#[cfg_attr(not(feature = "neural"), allow(dead_code, reason = "networks are trained by that feature only"))]
pub(crate) struct Found<'a> {
    pub classes: Classes,
    pub front: Option<Front<'a>>,
    pub epochs: usize,
    /// Whether it is better than the start on queries held out.
    pub is_better: bool,
}

#[cfg(feature = "neural")]
impl<'a> Front<'a> {
    /// A network as it starts.
    pub fn new(network: &'a dyn Network) -> Self {
        Self { network, values: network.parameters().into_iter().map(|p| p.values).collect() }
    }
}

impl Examples<'_> {
    /// The number of queries.
    pub fn len(&self) -> usize {
        self.classes.len() / self.width
    }

    /// Dimensions of queries.
    fn dim(&self) -> usize {
        self.queries.len() / self.len()
    }

    /// The classes that hold a query's neighbours.
    fn of(&self, row: usize) -> &[u32] {
        &self.classes[row * self.width..(row + 1) * self.width]
    }

    /// Scores of all classes for queries `rows`, which meet them as `t`: `[m, L]`.
    fn scores(&self, classes: &Classes, t: &[f32], rows: &[usize]) -> Vec<f32> {
        let (n_classes, s) = (classes.b.len(), self.dim());
        let mut z = linalg::par_product(t, linalg::rows(&classes.w, n_classes, s).transpose());
        z.par_chunks_exact_mut(n_classes).zip(rows).for_each(|(z, &row)| {
            z.iter_mut().zip(&classes.b).for_each(|(z, b)| *z -= b);
            if let Some(z) = self.own.get(row).and_then(|&own| z.get_mut(own as usize)) {
                *z = f32::NEG_INFINITY;
            }
        });
        z
    }

    /// The numbers of all queries.
    fn rows(&self) -> Vec<usize> {
        (0..self.len()).collect()
    }

    /// The queries as classes meet them.
    fn met(&self, front: Option<&Front<'_>>) -> Cow<'_, [f32]> {
        match front {
            Some(front) => front.network.outputs(&front.values, &self.queries).into(),
            None => Cow::Borrowed(&self.queries),
        }
    }

    /// For each neighbour how many classes rank before the first that holds it, itself counted: ascending.
    pub fn ranks(&self, classes: &Classes, front: Option<&Front<'_>>) -> Vec<usize> {
        let n_classes = classes.b.len();
        let z = self.scores(classes, &self.met(front), &self.rows());
        let mut ranks: Vec<usize> = z
            .par_chunks_exact(n_classes)
            .zip(self.classes.par_chunks_exact(self.width))
            .flat_map_iter(|(z, of)| {
                of.chunks_exact(self.copies).map(|of| {
                    let best = of.iter().fold(f32::NEG_INFINITY, |m, &l| m.max(z[l as usize]));
                    1 + z.iter().filter(|&&v| v > best).count()
                })
            })
            .collect();
        ranks.sort_unstable();
        ranks
    }

    /// The mean loss of queries as classes meet them.
    fn loss(&self, classes: &Classes, met: &[f32], factor: f32) -> f64 {
        let mut z = self.scores(classes, met, &self.rows());
        let losses: Vec<f64> = z
            .par_chunks_exact_mut(classes.b.len())
            .zip(self.classes.par_chunks_exact(self.width))
            .map(|(z, of)| descend(z, of, self.copies, factor))
            .collect();
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    /// The power of two that scores are best multiplied by.
    fn factor(&self, classes: &Classes, met: &[f32]) -> f32 {
        let factors = (0..=10).map(|i| f32::from(1_u16 << i));
        let losses = factors.map(|factor| (self.loss(classes, met, factor), factor));
        losses.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, factor)| factor)
    }
}

/// What a step walks with.
struct Walk {
    factor: f32,
    moments: [Moments; 2],
}

/// Trains classes, and the network in front of them; `report` is told of each step and says whether to go on.
pub(crate) fn train<'a>(
    start: Classes,
    front: Option<Front<'a>>,
    [examples, held]: [&Examples<'_>; 2],
    schedule: &Schedule,
    report: impl Fn(u64, u64) -> bool,
    rng: &mut ChaCha8Rng,
) -> Found<'a> {
    let met = held.met(front.as_ref());
    let factor = held.factor(&start, &met);
    let start_loss = held.loss(&start, &met, factor);
    let mut walk = Walk { factor, moments: [start.w.len(), start.b.len()].map(Moments::zero) };
    let mut front_moments: Vec<Moments> =
        front.iter().flat_map(|front| &front.values).map(|values| Moments::zero(values.len())).collect();
    let (mut classes, mut current) = (start.clone(), front.clone());
    let mut best = (start_loss, start, front);
    let steps = examples.len().div_ceil(schedule.batch);
    let total = (schedule.epochs * steps) as u64;
    let mut order: Vec<usize> = (0..examples.len()).collect();
    let (mut epochs, mut waits, mut goes_on) = (0, 0, true);
    while epochs < schedule.epochs && waits < schedule.patience && goes_on {
        order.shuffle(rng);
        for (i, rows) in order.chunks(schedule.batch).enumerate() {
            let step = epochs * steps + i;
            goes_on = report(step as u64, total);
            if !goes_on {
                break;
            }
            let left = 1.0 - step as f32 / total as f32;
            let [adam, front_adam] = schedule.rates.map(|rate| Adam { rate: rate * left, decay: 0.0, step });
            let x: Vec<f32> = rows
                .iter()
                .flat_map(|row| &examples.queries[row * examples.dim()..(row + 1) * examples.dim()])
                .copied()
                .collect();
            match &mut current {
                None => drop(walk.step(&mut classes, examples, rows, &x, &adam, false)),
                Some(front) => {
                    let mut slope = |t: &[f32]| walk.step(&mut classes, examples, rows, t, &adam, true);
                    let gradients = front.network.gradients(&front.values, &x, &mut slope);
                    for ((values, moments), gradient) in
                        front.values.iter_mut().zip(&mut front_moments).zip(&gradients)
                    {
                        front_adam.step(values, moments.parts(), gradient);
                    }
                }
            }
        }
        if !goes_on {
            break;
        }
        epochs += 1;
        waits += 1;
        let loss = held.loss(&classes, &held.met(current.as_ref()), factor);
        if loss < best.0 {
            (best, waits) = ((loss, classes.clone(), current.clone()), 0);
        }
    }
    report(total, total);
    Found { is_better: best.0 < start_loss, classes: best.1, front: best.2, epochs }
}

impl Walk {
    /// One step of the classes along the gradient of the examples `rows`, which meet them as `t`; returns the gradient by `t`, if it
    /// is asked for.
    fn step(
        &mut self,
        classes: &mut Classes,
        examples: &Examples<'_>,
        rows: &[usize],
        t: &[f32],
        adam: &Adam,
        wants_slope: bool,
    ) -> Vec<f32> {
        let n_classes = classes.b.len();
        let s = t.len() / rows.len();
        let mut z = examples.scores(classes, t, rows);
        let share = self.factor / rows.len() as f32;
        z.par_chunks_exact_mut(n_classes).zip(rows).for_each(|(z, &row)| {
            descend(z, examples.of(row), examples.copies, self.factor);
            z.iter_mut().for_each(|v| *v *= share);
        });
        let slope = if wants_slope {
            linalg::par_product(&z, linalg::rows(&classes.w, n_classes, s))
        } else {
            Vec::new()
        };
        let slopes = linalg::rows(&z, rows.len(), n_classes);
        let t = linalg::rows(t, rows.len(), s);
        let [of_w, of_b] = self.moments.each_mut().map(Moments::parts);
        let [firsts, seconds] = of_w;
        let pieces = classes.w.par_chunks_mut(PIECE * s).zip(firsts.par_chunks_mut(PIECE * s));
        pieces.zip(seconds.par_chunks_mut(PIECE * s)).enumerate().for_each(
            |(piece, ((w, firsts), seconds))| {
                let mut gradient = vec![0.0; w.len()];
                let some = slopes.subcols(piece * PIECE, w.len() / s);
                linalg::product(some.transpose(), t, &mut gradient);
                adam.step(w, [firsts, seconds], &gradient);
            },
        );
        let gradient: Vec<f32> = (0..n_classes).map(|l| -slopes.col(l).iter().sum::<f32>()).collect();
        adam.step(&mut classes.b, of_b, &gradient);
        slope
    }
}

/// Turns scores `z` into `p − r`; returns the loss.
fn descend(z: &mut [f32], of: &[u32], copies: usize, factor: f32) -> f64 {
    let most = z.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let mut sum = 0.0;
    for v in z.iter_mut() {
        *v = (factor * (*v - most)).exp();
        sum += *v;
    }
    z.iter_mut().for_each(|v| *v /= sum);
    let n_neighbours = (of.len() / copies) as f32;
    let mut loss = 0.0;
    let mut parts = Vec::with_capacity(of.len());
    for of in of.chunks_exact(copies) {
        let chance = of.iter().map(|&l| z[l as usize]).sum::<f32>().max(f32::MIN_POSITIVE);
        loss -= f64::from(chance.ln());
        parts.extend(of.iter().map(|&l| (l as usize, z[l as usize] / (chance * n_neighbours))));
    }
    for (class, part) in parts {
        z[class] -= part;
    }
    loss / f64::from(n_neighbours)
}
