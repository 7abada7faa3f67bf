//! How far a build is, and how long its stages take.

use std::time::Instant;

/// How far a build is: `done` of `total` steps of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The stage: `check`, `transform`, `training`, `partition`, `copies`, `neighbours`, `routing`, `network`, `networks`, `regressions`,
    /// `codebooks`, `codes`, `rows`;
    /// of a plan also `samples`.
    pub stage: &'static str,
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
}

/// How long a stage of a build took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageTime {
    /// The stage, as in [`Progress::stage`].
    pub stage: &'static str,
    /// Seconds.
    pub seconds: f64,
}

/// Measures the stages as they follow each other.
#[derive(Default)]
pub(super) struct Clock {
    current: Option<(&'static str, Instant)>,
    times: Vec<StageTime>,
}

impl Clock {
    /// A stage begins, or goes on.
    pub fn enter(&mut self, stage: &'static str) {
        if self.current.is_none_or(|(current, _)| current != stage) {
            self.close();
            self.current = Some((stage, Instant::now()));
        }
    }

    fn close(&mut self) {
        let Some((stage, since)) = self.current.take() else { return };
        let seconds = since.elapsed().as_secs_f64();
        match self.times.iter_mut().find(|time| time.stage == stage) {
            Some(time) => time.seconds += seconds,
            None => self.times.push(StageTime { stage, seconds }),
        }
    }

    /// The times of all stages, the last one ended.
    pub fn stop(mut self) -> Vec<StageTime> {
        self.close();
        self.times
    }
}
