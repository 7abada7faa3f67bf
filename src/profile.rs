//! Where the time of a search goes, beside what it cannot do without.

use std::{collections::BTreeMap, fmt};

/// Rates that small kernels of one purpose reach on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Roof {
    /// Bytes a second, read and written.
    pub bytes: f64,
    /// Int8 operations a second by `dot4I8Packed`, a multiplication with its addition counted as two.
    pub int8_ops: f64,
    /// f32 operations a second by multiply-add, counted as two.
    pub f32_ops: f64,
}

/// What a piece of work cannot do without: bytes moved once, and arithmetic operations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub bytes: f64,
    pub ops: f64,
}

impl Cost {
    /// A cost counted in whole numbers.
    pub fn of(bytes: usize, ops: usize) -> Self {
        Self { bytes: bytes as f64, ops: ops as f64 }
    }
}

/// Time, bytes and operations of one kernel over all its dispatches, or of one stage over all its calls.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct KernelTime {
    /// Dispatches, or calls.
    pub dispatches: u64,
    /// Seconds on the device; on the CPU, of all threads together.
    pub seconds: f64,
    /// Bytes that must move at least.
    pub bytes: f64,
    /// Arithmetic operations, a multiplication with its addition counted as two.
    pub ops: f64,
    /// Whether its arithmetic is in f32 rather than int8.
    pub is_float: bool,
}

/// Where a search's time went: on a GPU by kernel, on the CPU by stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// By kernel and variant, or by stage.
    pub kernels: BTreeMap<String, KernelTime>,
}

impl Profile {
    /// Adds another search's times.
    pub fn add(&mut self, other: &Self) {
        for (kernel, time) in &other.kernels {
            let sum = self.kernels.entry(kernel.clone()).or_default();
            sum.dispatches += time.dispatches;
            sum.seconds += time.seconds;
            sum.bytes += time.bytes;
            sum.ops += time.ops;
            sum.is_float = time.is_float;
        }
    }

    /// Seconds of all kernels.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.kernels.values().map(|time| time.seconds).sum()
    }

    /// A table, longest first. With the device's limits: how much of its memory and its arithmetic rate each kernel
    /// uses, by the bytes and operations that it cannot do without.
    #[must_use]
    pub fn table(&self, roof: Option<&Roof>) -> String {
        let mut rows: Vec<_> = self.kernels.iter().collect();
        rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        let total = self.seconds();
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(6).max(6);
        let mut out = format!(
            "{:width$} {:>10} {:>10} {:>6} {:>9} {:>9}",
            "kernel", "dispatches", "ms", "%", "GB/s", "Gop/s"
        );
        if roof.is_some() {
            out += &format!(" {:>9} {:>9}", "% memory", "% arith.");
        }
        for (name, time) in rows {
            let seconds = time.seconds.max(f64::MIN_POSITIVE);
            out += &format!(
                "\n{name:width$} {:>10} {:>10.3} {:>6.1} {:>9.2} {:>9.2}",
                time.dispatches,
                time.seconds * 1e3,
                100.0 * time.seconds / total.max(f64::MIN_POSITIVE),
                time.bytes / seconds / 1e9,
                time.ops / seconds / 1e9,
            );
            if let Some(roof) = roof {
                let ops = if time.is_float { roof.f32_ops } else { roof.int8_ops };
                out += &format!(
                    " {:>9.1} {:>9.1}",
                    100.0 * time.bytes / seconds / roof.bytes,
                    100.0 * time.ops / seconds / ops
                );
            }
        }
        out + &format!("\n{:width$} {:>10} {:>10.3}", "all", "", total * 1e3)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table(None))
    }
}
