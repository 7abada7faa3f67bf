//! Times of the stages, taken when somebody asks.

use std::{collections::BTreeMap, sync::Mutex, time::Instant};

use crate::profile::{Cost, KernelTime, Profile};

/// A clock that runs or stands still.
#[derive(Default)]
pub struct Clock {
    /// The end of the last stage, if it runs.
    last: Option<Instant>,
    stages: BTreeMap<&'static str, KernelTime>,
}

impl Clock {
    /// Starts it, or lets it stand.
    pub fn start(&mut self, runs: bool) {
        self.stages.clear();
        self.last = runs.then(Instant::now);
    }

    /// The time since the last call was spent on `stage`, once for `calls` queries.
    pub fn stage(&mut self, stage: &'static str, is_float: bool, calls: usize, cost: impl FnOnce() -> Cost) {
        let Some(last) = &mut self.last else { return };
        let seconds = last.elapsed().as_secs_f64();
        let (time, cost) = (self.stages.entry(stage).or_default(), cost());
        time.dispatches += calls as u64;
        time.seconds += seconds;
        time.bytes += cost.bytes;
        time.ops += cost.ops;
        time.is_float = is_float;
        // What the costs took to work out is nobody's.
        *last = Instant::now();
    }

    /// Adds what it has counted to a profile and begins anew.
    pub fn empty_into(&mut self, profile: &Mutex<Profile>) {
        let kernels = std::mem::take(&mut self.stages).into_iter();
        let times = Profile { kernels: kernels.map(|(stage, time)| (stage.to_owned(), time)).collect() };
        profile.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&times);
    }
}
