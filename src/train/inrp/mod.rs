//! Training maps that keep distances: the INRP loss and what walks down it.
//!
//! The loss over all pairs of a batch is the mean of `w·|‖f(x) − f(y)‖ − ‖x − y‖|`, `w = clamp(−ln(‖x − y‖/b), 0.01, 2)`, b the
//! mean distance of a pair: near pairs weigh most, since searches end among them. Its gradient by the outputs `f(x)` is closed form
//! (`pairs.rs`), so whatever is trained only has to bring it back to its own parameters ([`Network`]).
//!
//! Networks start as principal axes; training can only improve on them, because what is kept is what did best on rows held out, the
//! start among it.
//!
//! Source: Zhang, Tang, Hu, Wang, "Connecting Compression Spaces with Transformer for Approximate Nearest Neighbor Search",
//! ECCV 2022 (first called CNT), section 3.3.

mod checkpoint;
mod pairs;

use std::{fmt, path::PathBuf};

use rand::RngExt;
use rayon::prelude::*;

use self::checkpoint::{Checkpoint, State};
pub use checkpoint::CheckpointError;
pub(crate) use pairs::Pairs;

use super::{Network, ReadRows, adam::Adam, generator, sample};
use crate::{network::MOST, spec::TransformSpec};

/// Rows in a batch, at most: their pairs take 4·batch² bytes.
const BATCH_MAX: usize = 16_384;

/// Rows held out of training, at most.
const HELD_OUT: usize = 1000;

/// How `LIN` and `CNT` are trained.
///
/// ```
/// let training = nearfield::Training { steps: 300, ..Default::default() };
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Steps, each on one batch.
    pub steps: usize,
    /// Rows in a batch, 2 to 16 384; the loss is over all pairs of them.
    pub batch: usize,
    /// AdamW's rate for attention, projections and perceptrons.
    pub rate: f32,
    /// AdamW's rate for the direct path, which starts as principal axes; no weight decay there.
    pub direct_rate: f32,
    /// AdamW's weight decay.
    pub weight_decay: f32,
    /// Steps over which rates rise.
    pub warm_up: usize,
    /// Power of the polynomial that rates fall by.
    pub power: f32,
    /// Share of itself that the moving average of parameters keeps at a step.
    pub averaging: f32,
    /// Share of the steps after which the average begins.
    pub averaged_from: f32,
    /// Steps from one evaluation on rows held out to the next. The parameters or their average, whichever does best in any, are kept.
    pub evaluate_every: usize,
    /// Evaluations without a better one after which training stops.
    pub patience: usize,
    /// A file that the state is written to at each evaluation, and that training goes on from where it is there.
    pub checkpoint: Option<PathBuf>,
}

impl Training {
    /// What suits a transform: networks want twice the steps of linear maps.
    #[must_use]
    pub fn of(transform: TransformSpec) -> Self {
        let usual = Self::default();
        match transform {
            TransformSpec::Cnt { .. } => {
                Self { steps: 2 * usual.steps, evaluate_every: 2 * usual.evaluate_every, ..usual }
            }
            TransformSpec::Linear { .. } => usual,
        }
    }
}

/// A training that cannot be: an argument, what was expected of it and what was given.
pub(crate) type Unfit = (&'static str, String, String);

impl Training {
    /// Checks every number.
    pub(crate) fn validate(&self) -> Result<(), Unfit> {
        let unfit =
            |name, expected: &str, got: &dyn fmt::Display| Err((name, expected.to_owned(), got.to_string()));
        if !(2..=BATCH_MAX).contains(&self.batch) {
            return unfit("batch", &format!("2 to {BATCH_MAX} rows"), &self.batch);
        }
        let rates =
            [("rate", self.rate), ("direct_rate", self.direct_rate), ("weight_decay", self.weight_decay)];
        let powers = [("power", self.power)];
        for (name, value) in rates.into_iter().chain(powers) {
            if !(0.0..=10.0).contains(&value) {
                return unfit(name, "a number from 0 to 10", &value);
            }
        }
        for (name, value) in [("averaging", self.averaging), ("averaged_from", self.averaged_from)] {
            if !(0.0..=1.0).contains(&value) {
                return unfit(name, "a share from 0 to 1", &value);
            }
        }
        for (name, value) in [("evaluate_every", self.evaluate_every), ("patience", self.patience)] {
            if value == 0 {
                return unfit(name, "at least 1", &value);
            }
        }
        Ok(())
    }
}

impl Default for Training {
    /// What suits `LIN`.
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 512,
            rate: 1e-3,
            direct_rate: 3e-3,
            weight_decay: 0.01,
            warm_up: 50,
            power: 0.9,
            averaging: 0.98,
            averaged_from: 0.3,
            evaluate_every: 50,
            patience: 10,
            checkpoint: None,
        }
    }
}

/// Rows as networks see them.
pub(crate) struct Standard {
    /// What rows have in common, `[d]`; zero where lengths matter.
    pub centre: Vec<f32>,
    /// Deviation of all values from it.
    pub deviation: f32,
}

impl Standard {
    /// The standard of `rows`, `[n, d]`, around their mean or around zero.
    #[allow(clippy::cast_possible_truncation, reason = "sums are rounded once, to f32")]
    pub fn of(rows: &[f32], d: usize, is_centred: bool) -> Self {
        let n = (rows.len() / d) as f64;
        let mut centre = vec![0.0; d];
        if is_centred {
            for row in rows.chunks_exact(d) {
                centre.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
            }
        }
        let centre: Vec<f32> = centre.into_iter().map(|sum| (sum / n) as f32).collect();
        let squares: f64 = rows
            .chunks_exact(d)
            .flat_map(|row| row.iter().zip(&centre))
            .map(|(v, c)| (f64::from(*v) - f64::from(*c)).powi(2))
            .sum();
        let deviation = (squares / (n * d as f64)).sqrt() as f32;
        Self { centre, deviation: if deviation > f32::MIN_POSITIVE { deviation } else { 1.0 } }
    }

    /// Brings rows to it, values to ±[`MOST`] at most.
    pub fn apply(&self, rows: &mut [f32]) {
        let factor = 1.0 / self.deviation;
        rows.par_chunks_exact_mut(self.centre.len()).for_each(|row| {
            row.iter_mut().zip(&self.centre).for_each(|(v, centre)| {
                *v = ((*v - centre) * factor).clamp(-MOST, MOST);
            });
        });
    }
}

/// What a network is trained on, and how.
pub(crate) struct Task<'a> {
    pub points: &'a dyn ReadRows,
    /// Queries of another kind than the points: half of each batch, and only their pairs with points count.
    pub queries: Option<&'a dyn ReadRows>,
    pub standard: &'a Standard,
    /// Mean distance of two rows, by that standard.
    pub mean_distance: f32,
    /// Outputs are scaled to the length of inputs.
    pub keeps_length: bool,
    pub seed: u64,
    pub training: &'a Training,
    /// What else decides the result, so that a checkpoint of another training is refused.
    pub identity: String,
    /// Told of each step; `false` stops.
    pub report: &'a dyn Fn(u64, u64) -> bool,
}

impl Task<'_> {
    fn rows(&self, points: &[usize], queries: &[usize]) -> Vec<f32> {
        let mut rows = self.points.gather(points);
        if let Some(source) = self.queries {
            rows.extend(source.gather(queries));
        }
        self.standard.apply(&mut rows);
        rows
    }

    /// Rows in a batch.
    fn batch_rows(&self) -> usize {
        self.training.batch
    }

    /// Points in a batch.
    fn batch_points(&self) -> usize {
        let batch = self.batch_rows();
        if self.queries.is_some() { batch - batch / 2 } else { batch }
    }

    /// Rows of a step's batch: any but those held out, unless all are.
    fn batch(&self, step: usize, held: &Held) -> Vec<f32> {
        let mut rng = generator(self.seed, &format!("batch {step}"));
        let mut draw = |source: &dyn ReadRows, held: &[usize], amount: usize| -> Vec<usize> {
            let n = source.n_rows();
            std::iter::repeat_with(|| rng.random_range(0..n))
                .filter(|row| held.len() == n || held.binary_search(row).is_err())
                .take(amount)
                .collect()
        };
        let n_points = self.batch_points();
        let points = draw(self.points, &held.points, n_points);
        let queries = self.queries.map(|source| draw(source, &held.queries, self.batch_rows() - n_points));
        self.rows(&points, &queries.unwrap_or_default())
    }

    /// The factor on rates at a step.
    fn schedule(&self, step: usize) -> f32 {
        let Training { steps, warm_up, power, .. } = *self.training;
        let rise = ((step + 1) as f32 / warm_up.max(1) as f32).min(1.0);
        rise * (1.0 - step as f32 / steps as f32).powf(power)
    }
}

/// Rows held out, ascending.
struct Held {
    points: Vec<usize>,
    queries: Vec<usize>,
}

impl Held {
    fn new(task: &Task<'_>) -> Self {
        let mut rng = generator(task.seed, "held out");
        let mut of = |source: &dyn ReadRows| {
            let n = source.n_rows();
            // Of very few rows all are in both parts: there is nothing to overfit to that is not wanted.
            sample(&mut rng, n, if n < 64 { n } else { (n / 8).min(HELD_OUT) })
        };
        Self { points: of(task.points), queries: task.queries.map(of).unwrap_or_default() }
    }
}

/// What training has found.
pub(crate) struct Outcome {
    /// Parameters as they did best.
    pub values: Vec<Vec<f32>>,
    steps: usize,
    /// The loss on rows held out, at the start and at best.
    losses: [f64; 2],
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [start, best] = self.losses;
        write!(f, "{} steps, loss on rows held out from {start:.6} to {best:.6}", self.steps)?;
        if best < start { Ok(()) } else { f.write_str(": nothing better than principal axes was found") }
    }
}

/// Trains a network.
///
/// The result depends on the seed alone, not on the number of threads nor on interruptions that a checkpoint mends.
pub(crate) fn train(network: &dyn Network, task: &Task<'_>) -> Result<Outcome, CheckpointError> {
    let training = task.training;
    let held = Held::new(task);
    let held_rows = task.rows(&held.points, &held.queries);
    let d = task.standard.centre.len();
    let held_pairs = Pairs::new(&held_rows, d, held.points.len(), task.mean_distance, task.keeps_length);
    let evaluate = |values: &[Vec<f32>]| held_pairs.loss(&network.outputs(values, &held_rows), None);

    let parameters = network.parameters();
    let is_direct: Vec<bool> = parameters.iter().map(|p| p.is_direct).collect();
    let start: Vec<Vec<f32>> = parameters.into_iter().map(|p| p.values).collect();
    let checkpoint = training.checkpoint.as_ref().map(|path| Checkpoint::new(path, task, &start, &held_rows));
    let found = checkpoint.as_ref().map(|checkpoint| checkpoint.read(&start)).transpose()?.flatten();
    let mut state = found.unwrap_or_else(|| State::new(start, evaluate));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the steps")]
    let averaged_from = (training.averaged_from * training.steps as f32) as usize;
    let total = training.steps as u64;
    while state.step < training.steps && state.waits < training.patience {
        if !(task.report)(state.step as u64, total) {
            break;
        }
        let x = task.batch(state.step, &held);
        let pairs = Pairs::new(&x, d, task.batch_points(), task.mean_distance, task.keeps_length);
        let gradients = network.gradients(&state.values, &x, &mut |y| {
            let mut gradient = vec![0.0; y.len()];
            pairs.loss(y, Some(&mut gradient));
            gradient
        });
        let schedule = task.schedule(state.step);
        for (i, gradient) in gradients.iter().enumerate() {
            let (rate, decay) = if is_direct[i] {
                (training.direct_rate, 0.0)
            } else {
                (training.rate, training.weight_decay)
            };
            let adam = Adam { rate: rate * schedule, decay, step: state.step };
            adam.step(&mut state.values[i], state.moments[i].parts(), gradient);
        }
        state.step += 1;
        state.average(training.averaging, averaged_from);
        if state.step.is_multiple_of(training.evaluate_every) || state.step == training.steps {
            state.judge(evaluate);
            if let Some(checkpoint) = &checkpoint {
                checkpoint.write(&state)?;
            }
        }
    }
    if state.step == training.steps {
        (task.report)(total, total);
    }
    Ok(Outcome { values: state.best, steps: state.step, losses: [state.start_loss, state.best_loss] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{stage::transform::linear::train::LinearNetwork, train::normal};

    struct Made(Vec<f32>, usize);

    impl ReadRows for Made {
        fn n_rows(&self) -> usize {
            self.0.len() / self.1
        }

        fn dim(&self) -> usize {
            self.1
        }

        fn gather(&self, rows: &[usize]) -> Vec<f32> {
            rows.iter().flat_map(|row| self.0[row * self.1..(row + 1) * self.1].to_vec()).collect()
        }
    }

    /// Rows whose coordinates shrink, so that principal axes are the first ones.
    fn made(n: usize, d: usize) -> Made {
        let mut rng = generator(3, "test");
        Made((0..n * d).map(|i| normal(&mut rng) / (1 + i % d) as f32).collect(), d)
    }

    fn trained(
        points: &Made,
        training: &Training,
        report: &dyn Fn(u64, u64) -> bool,
    ) -> Result<Vec<f32>, CheckpointError> {
        let (d, s) = (points.1, points.1 / 4);
        let standard = Standard::of(&points.0, d, true);
        let network = LinearNetwork {
            start: (0..d * s).map(|i| if i / s == i % s { 1.0 } else { 0.0 }).collect(),
            d,
            s,
        };
        let identity = "test".to_owned();
        let task = Task {
            points,
            queries: None,
            standard: &standard,
            mean_distance: (2.0 * d as f32).sqrt(),
            keeps_length: false,
            seed: 1,
            training,
            identity,
            report,
        };
        Ok(train(&network, &task)?.values.remove(0))
    }

    fn loss(points: &Made, w: &[f32]) -> f64 {
        let d = points.1;
        let mut rows = points.0[..500 * d].to_vec();
        Standard::of(&points.0, d, true).apply(&mut rows);
        let y = LinearNetwork { start: Vec::new(), d, s: d / 4 }.outputs(&[w.to_vec()], &rows);
        Pairs::new(&rows, d, 500, (2.0 * d as f32).sqrt(), false).loss(&y, None)
    }

    #[test]
    fn training_lowers_the_loss() {
        let points = made(2000, 16);
        let none = Training { steps: 0, ..Default::default() };
        let some = Training { steps: 200, batch: 128, ..Default::default() };
        let [start, end] = [none, some].map(|t| loss(&points, &trained(&points, &t, &|_, _| true).unwrap()));
        assert!(end < 0.8 * start, "{start} to {end}");
    }

    #[test]
    fn few_rows_and_equal_rows_are_trained_on_without_harm() {
        for points in [made(1, 16), made(2, 16), Made(vec![3.0; 160], 16), Made(vec![0.0; 160], 16)] {
            let training = Training { steps: 5, batch: 64, ..Default::default() };
            let w = trained(&points, &training, &|_, _| true).unwrap();
            assert!(w.iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn an_interrupted_training_goes_on_to_the_same_end() {
        let points = made(1000, 16);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("training.safetensors");
        let mut training = Training { steps: 60, batch: 64, evaluate_every: 3, ..Default::default() };
        let whole = trained(&points, &training, &|_, _| true).unwrap();
        training.checkpoint = Some(path.clone());
        trained(&points, &training, &|step, _| step < 35).unwrap();
        let steps = std::cell::RefCell::new(Vec::new());
        let again = trained(&points, &training, &|step, _| {
            steps.borrow_mut().push(step);
            true
        });
        assert_eq!(steps.borrow()[0], 33, "the last evaluation before step 35");
        assert_eq!(again.unwrap(), whole);

        let others = made(1001, 16);
        let refused = trained(&others, &training, &|_, _| true).unwrap_err();
        assert!(matches!(refused, CheckpointError::Other { .. }), "{refused}");
        std::fs::write(&path, b"nonsense").unwrap();
        let refused = trained(&points, &training, &|_, _| true).unwrap_err();
        assert!(matches!(refused, CheckpointError::Foreign { .. }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"nonsense", "nothing is lost");
    }
}
