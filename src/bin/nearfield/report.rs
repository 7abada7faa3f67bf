//! What the user sees: progress bars on stderr, tables and JSON on stdout.

use std::{
    io::Write,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use ndarray::Array2;
use nearfield::{
    DeviceError, Effort, Index, Metric, NO_ID, OpenError, Progress, SearchParams, Searcher, StageTime,
    eval::Recall,
    io::{self, VectorFile},
};

use crate::{devices::DeviceArgs, error::CliError};

/// A progress bar with the time left; nothing where stderr is not a terminal.
pub fn bar(message: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar} {percent:>3}% {eta:>4} left") {
        bar.set_style(style);
    }
    bar.set_message(message.to_owned());
    bar
}

/// A sign that work goes on, where nobody knows how much is left.
pub fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// One bar a build stage.
#[derive(Default)]
pub struct Stages(Mutex<Option<(&'static str, ProgressBar)>>);

impl Stages {
    /// Takes note of a build's progress.
    pub fn update(&self, progress: Progress) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            close(&mut current);
            *current = Some((progress.stage, bar(progress.stage, progress.total)));
        }
        if let Some((_, bar)) = &*current {
            // Threads report out of order; the bar only moves forward.
            if progress.total != bar.length().unwrap_or_default() {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            } else if progress.done > bar.position() {
                bar.set_position(progress.done);
            }
        }
    }

    /// Closes the last bar.
    pub fn finish(&self) {
        close(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn close(current: &mut Option<(&'static str, ProgressBar)>) {
    if let Some((_, bar)) = current.take() {
        bar.finish_and_clear();
    }
}

/// `partition 1.2 s, regressions 0.3 s`.
pub fn stages(times: &[StageTime]) -> String {
    let parts: Vec<String> =
        times.iter().map(|time| format!("{} {:.1} s", time.stage, time.seconds)).collect();
    parts.join(", ")
}

/// The most memory that this process has held so far, mapped files included, where the system says so.
pub fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

/// [`peak_memory`] as the end of a line.
pub fn up_to_memory() -> String {
    peak_memory().map_or(String::new(), |peak| format!("; memory up to {}", bytes(peak)))
}

/// Writes a line to stdout; a closed pipe is an error, not a panic.
pub fn line(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{text}")?)
}

/// `1.2 ms`, `3.4 s`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs_f64();
    match s {
        _ if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        _ if s < 1.0 => format!("{:.1} ms", s * 1e3),
        _ => format!("{s:.1} s"),
    }
}

/// `12 345 bytes` in a unit that reads well.
pub fn bytes(n: usize) -> String {
    let n = n as f64;
    match n {
        _ if n < 1e4 => format!("{n} B"),
        _ if n < 1e7 => format!("{:.1} kB", n / 1e3),
        _ if n < 1e10 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.1} GB", n / 1e9),
    }
}

/// A limit in binary units.
#[cfg(feature = "gpu")]
pub fn size(n: u64) -> String {
    match n {
        _ if n >= 1 << 30 => format!("{:.1} GiB", n as f64 / f64::from(1 << 30)),
        _ => format!("{} MiB", n >> 20),
    }
}

/// Refuses an output that cannot be written, before any work is done: one that is an input, lies in a folder
/// that does not exist, or has not the extension asked for.
pub fn check_output(
    argument: &str,
    path: &Path,
    extension: Option<&str>,
    inputs: &[&Path],
) -> Result<(), CliError> {
    let shown = path.display();
    if let Some(expected) = extension
        && path.extension().is_none_or(|e| !e.eq_ignore_ascii_case(expected))
    {
        return Err(CliError::Usage(format!(
            "{argument}: expected a file ending in .{expected}, got {shown}"
        )));
    }
    if path.is_dir() {
        return Err(CliError::Io(format!("{argument}: {shown} is a folder")));
    }
    if path.exists() && !path.is_file() {
        return Err(CliError::Io(format!("{argument}: {shown} is not a regular file")));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(CliError::Io(format!("{argument}: folder {} does not exist", folder.display())));
    }
    // As the output will be: written beside itself, and then renamed.
    if let Err(e) = tempfile::tempfile_in(folder) {
        return Err(CliError::Io(format!("{argument}: cannot write to folder {}: {e}", folder.display())));
    }
    let same = |input: &&&Path| {
        let input = io::file_of(input);
        matches!((path.canonicalize(), input.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    match inputs.iter().find(same) {
        Some(_) => Err(CliError::Usage(format!("{argument}: {shown} is an input, which would be lost"))),
        None => Ok(()),
    }
}

/// Opens vectors and names the argument in the error.
pub fn vectors(argument: &str, path: &Path) -> Result<VectorFile, CliError> {
    VectorFile::open(path).map_err(|e| of(argument, e.into()))
}

/// Opens queries, of which a one-dimensional array is one, and names the argument in the error.
pub fn queries(argument: &str, path: &Path) -> Result<VectorFile, CliError> {
    VectorFile::open_queries(path).map_err(|e| of(argument, e.into()))
}

/// Reads ids and names the argument in the error.
pub fn ids(argument: &str, path: &Path) -> Result<Array2<u64>, CliError> {
    io::read_ids(path).map_err(|e| of(argument, e.into()))
}

/// Ids from here on are refused: results are written as i64.
const ID_LIMIT: u64 = 1 << 63;

/// Reads ids of rows, as [`ids`], and checks that results can hold them.
pub fn row_ids(argument: &str, path: &Path) -> Result<Array2<u64>, CliError> {
    let ids = self::ids(argument, path)?;
    match ids.indexed_iter().find(|&(_, &id)| id >= ID_LIMIT && id != NO_ID) {
        None => Ok(ids),
        Some(((row, _), id)) => Err(CliError::Input(format!(
            "{argument}: {}: expected ids below {ID_LIMIT} (2⁶³), since results are i64, got {id} in row {row}",
            path.display()
        ))),
    }
}

/// An error of a file, with the argument that named it.
pub fn of(argument: &str, error: CliError) -> CliError {
    match error {
        CliError::Io(text) => CliError::Io(format!("{argument}: {text}")),
        CliError::Input(text) => CliError::Input(format!("{argument}: {text}")),
        other => other,
    }
}

/// Names the index file in the error.
pub fn named<T>(path: &Path, opened: Result<T, OpenError>) -> Result<T, CliError> {
    opened.map_err(|e| match e {
        OpenError::Io { .. } => CliError::from(e),
        _ => CliError::Input(format!("INDEX: {}: {e}", path.display())),
    })
}

/// Opens an index and a searcher, and says which device is used.
pub fn searcher(index: &Path, device: &DeviceArgs, load: bool) -> Result<(Index, Searcher), CliError> {
    let device = device.device()?;
    let index = named(index, if load { Index::load(index) } else { Index::open(index) })?;
    let searcher = index.searcher(device).map_err(|e: DeviceError| CliError::Device(e))?;
    eprintln!("device: {}", searcher.device());
    Ok((index, searcher))
}

/// Prints where the time went, beside what a GPU can do.
#[cfg_attr(not(feature = "gpu"), allow(unused_variables, reason = "a searcher knows its GPU"))]
pub fn profile(searcher: &Searcher, profile: &nearfield::Profile) {
    // Without measured limits the table still stands.
    #[cfg(feature = "gpu")]
    let roof = searcher.gpu().and_then(|gpu| gpu.roof().ok());
    #[cfg(not(feature = "gpu"))]
    let roof: Option<nearfield::Roof> = None;
    if let Some(roof) = &roof {
        eprintln!(
            "measured limits: {:.1} GB/s, {:.1} Gop/s in int8, {:.1} Gop/s in f32",
            roof.bytes / 1e9,
            roof.int8_ops / 1e9,
            roof.f32_ops / 1e9
        );
    }
    eprintln!("{}", profile.table(roof.as_ref()));
}

/// Says where truth does not look like the truth of these queries.
pub fn doubt_truth(recall: &Recall<'_>, metric: Metric) {
    if let Some(share) = recall.out_of_order()
        && share > 0.5
    {
        eprintln!(
            "--truth: expected neighbours best first, but {:.0} % of the queries have them in another order than {metric}'s: \
             is it of another metric, other queries or other vectors?",
            100.0 * share
        );
    }
}

/// Text that may come from elsewhere, for a terminal: nothing that it would act on.
pub fn plain(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Says where a search uses other numbers than it was given.
pub fn say_clamped(index: &Index, params: SearchParams, effort: Effort) {
    if let Some(given) = params.n_probe
        && given > effort.n_probe
    {
        eprintln!("n_probe: {given} given, the index has {} lists: all are read", index.n_lists());
    }
    if let Some(given) = params.n_rerank {
        if index.spec().refine.is_none() {
            eprintln!("n_rerank: {given} given, the index stores no rows (Refine): scores are approximate");
        } else if given > 0 && given != effort.n_rerank {
            eprintln!("n_rerank: {given} given, {} used: at least k, at most all points", effort.n_rerank);
        }
    }
    if params.k > index.len() {
        eprintln!("k: {} given, the index has {} points: what is beyond is padding", params.k, index.len());
    }
}
