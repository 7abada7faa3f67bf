//! The state of a training, in memory and in a file.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, View};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Task;
use crate::{format::write_atomically, train::adam::Moments};

/// A checkpoint that cannot be used; what stands in the file is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("checkpoint {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is none of ours, or damaged.
    #[error("checkpoint {}: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is of a training on other vectors or with other settings.
    #[error("checkpoint {}: it is of another training: expected `{expected}`, got `{got}`", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// This training, as far as they differ.
        expected: String,
        /// The file's.
        got: String,
    },
}

/// How far a training is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// Steps done.
    pub step: usize,
    /// Evaluations since the best one.
    pub waits: usize,
    pub start_loss: f64,
    pub best_loss: f64,
    pub best: Vec<Vec<f32>>,
    pub values: Vec<Vec<f32>>,
    pub moments: Vec<Moments>,
    /// Moving average of the values, once it has begun.
    pub averages: Vec<Vec<f32>>,
}

impl State {
    /// Nothing done yet.
    pub fn new(start: Vec<Vec<f32>>, evaluate: impl Fn(&[Vec<f32>]) -> f64) -> Self {
        let start_loss = evaluate(&start);
        Self {
            step: 0,
            waits: 0,
            start_loss,
            best_loss: start_loss,
            best: start.clone(),
            moments: start.iter().map(|values| Moments::zero(values.len())).collect(),
            values: start,
            averages: Vec::new(),
        }
    }

    /// Moves the average after a step.
    pub fn average(&mut self, kept: f32, from: usize) {
        if self.step <= from {
            return;
        }
        if self.averages.is_empty() {
            self.averages.clone_from(&self.values);
        }
        for (average, value) in self.averages.iter_mut().flatten().zip(self.values.iter().flatten()) {
            *average = kept * *average + (1.0 - kept) * value;
        }
    }

    /// Keeps what is best: the values, or their average, which lags behind while rates are high and is better when they are low.
    pub fn judge(&mut self, evaluate: impl Fn(&[Vec<f32>]) -> f64) {
        self.waits += 1;
        for current in [&self.values, &self.averages] {
            if current.is_empty() {
                continue;
            }
            let loss = evaluate(current);
            // A loss that is not a number is no better.
            if loss < self.best_loss {
                (self.best_loss, self.waits) = (loss, 0);
                self.best.clone_from(current);
            }
        }
    }
}

/// A file that states are kept in.
pub(super) struct Checkpoint<'a> {
    path: &'a Path,
    identity: String,
}

/// The metadata entry of [`Checkpoint::identity`].
const IDENTITY: &str = "training";

/// The one of the numbers.
const COUNTERS: &str = "state";

/// The parts of two identities that differ.
fn differing(expected: &str, got: &str) -> (String, String) {
    let parts = |text: &str| text.split([';', ',']).map(|part| part.trim().to_owned()).collect::<Vec<_>>();
    let (expected, got) = (parts(expected), parts(got));
    let only = |a: &[String], b: &[String]| {
        a.iter().filter(|part| !b.contains(part)).cloned().collect::<Vec<_>>().join(", ")
    };
    (only(&expected, &got), only(&got, &expected))
}

/// The one of [`sum_of`] everything.
const SUM: &str = "xxh3";

/// A checksum of tensors and numbers.
fn sum_of(mut tensors: Vec<(&str, &[u8])>, counters: &str) -> String {
    tensors.sort_unstable();
    let mut sum = Xxh3::new();
    sum.update(counters.as_bytes());
    for (name, data) in tensors {
        sum.update(name.as_bytes());
        sum.update(data);
    }
    format!("{:016x}", sum.digest())
}

/// Some values on their way to the file.
struct Values<'a>(&'a [f32], [usize; 1]);

impl<'a> Values<'a> {
    fn new(values: &'a [f32]) -> Self {
        Self(values, [values.len()])
    }
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(bytemuck::cast_slice(self.0))
    }

    fn data_len(&self) -> usize {
        size_of_val(self.0)
    }
}

impl<'a> Checkpoint<'a> {
    /// The file of a training from these values that holds these rows out.
    pub fn new(path: &'a Path, task: &Task<'_>, start: &[Vec<f32>], held_rows: &[f32]) -> Self {
        let training = super::Training { checkpoint: None, ..task.training.clone() };
        let n = task.points.n_rows();
        let sum = |values: &[f32]| xxh3_64(bytemuck::cast_slice(values));
        let (rows, start) = (sum(held_rows), sum(&start.concat()));
        let identity = format!(
            "{}; nearfield {}; seed {}; {n} rows of sum {rows:016x}; start of sum {start:016x}; {training:?}",
            task.identity,
            env!("CARGO_PKG_VERSION"),
            task.seed,
        );
        Self { path, identity }
    }

    /// The state in the file, for parameters of these lengths; nothing where there is no file.
    pub fn read(&self, start: &[Vec<f32>]) -> Result<Option<State>, CheckpointError> {
        let path = self.path.to_owned();
        let bytes = match std::fs::read(self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CheckpointError::Io { path, source }),
        };
        let foreign = |reason: String| CheckpointError::Foreign { path: path.clone(), reason };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let Some(got) = metadata.get(IDENTITY) else {
            return Err(foreign("not a checkpoint of nearfield".to_owned()));
        };
        if *got != self.identity {
            let (expected, got) = differing(&self.identity, got);
            return Err(CheckpointError::Other { path, expected, got });
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| foreign(e.to_string()))?;
        let values = |group: &str| -> Result<Vec<Vec<f32>>, CheckpointError> {
            let read = |(i, like): (usize, &Vec<f32>)| {
                let name = format!("{group}.{i}");
                let tensor = tensors.tensor(&name).map_err(|e| foreign(e.to_string()))?;
                if tensor.dtype() != Dtype::F32 || tensor.data().len() != 4 * like.len() {
                    return Err(foreign(format!("tensor `{name}`: expected {} f32", like.len())));
                }
                let values: Vec<f32> =
                    tensor.data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
                match values.iter().find(|v| !v.is_finite()) {
                    Some(v) => Err(foreign(format!("tensor `{name}`: expected finite values, got {v}"))),
                    None => Ok(values),
                }
            };
            start.iter().enumerate().map(read).collect()
        };
        let data = tensors.names().into_iter().map(|name| Some((name, tensors.tensor(name).ok()?.data())));
        let counters = metadata.get(COUNTERS).cloned().unwrap_or_default();
        if metadata.get(SUM) != Some(&sum_of(data.flatten().collect(), &counters)) {
            return Err(foreign("its checksum is another: the file is damaged".to_owned()));
        }
        let counters: Option<(usize, usize, [u64; 2])> = serde_json::from_str(&counters).ok();
        let Some((step, waits, losses)) = counters else {
            return Err(foreign(format!("metadata `{COUNTERS}`: expected steps, waits and losses")));
        };
        let [firsts, seconds] = [values("first")?, values("second")?];
        let averages = if tensors.tensor("average.0").is_ok() { values("average")? } else { Vec::new() };
        Ok(Some(State {
            step,
            waits,
            start_loss: f64::from_bits(losses[0]),
            best_loss: f64::from_bits(losses[1]),
            best: values("best")?,
            values: values("value")?,
            moments: firsts.into_iter().zip(seconds).map(|(a, b)| Moments([a, b])).collect(),
            averages,
        }))
    }

    /// Writes a state, whole or not at all.
    pub fn write(&self, state: &State) -> Result<(), CheckpointError> {
        let mut tensors: Vec<(String, Values<'_>)> = Vec::new();
        for (group, all) in [("best", &state.best), ("value", &state.values), ("average", &state.averages)] {
            tensors.extend(all.iter().enumerate().map(|(i, v)| (format!("{group}.{i}"), Values::new(v))));
        }
        for (i, Moments([first, second])) in state.moments.iter().enumerate() {
            tensors.push((format!("first.{i}"), Values::new(first)));
            tensors.push((format!("second.{i}"), Values::new(second)));
        }
        let losses = [state.start_loss, state.best_loss].map(f64::to_bits);
        let counters = serde_json::json!([state.step, state.waits, losses]).to_string();
        let data = tensors.iter().map(|(name, values)| (name.as_str(), bytemuck::cast_slice(values.0)));
        let sum = sum_of(data.collect(), &counters);
        let metadata = HashMap::from([
            (IDENTITY.to_owned(), self.identity.clone()),
            (COUNTERS.to_owned(), counters),
            (SUM.to_owned(), sum),
        ]);
        let written = safetensors::serialize(tensors, Some(metadata))
            .map_err(std::io::Error::other)
            .and_then(|bytes| write_atomically(self.path, |file| file.write_all(&bytes)));
        written.map_err(|source| CheckpointError::Io { path: self.path.to_owned(), source })
    }
}
