//! The GPU layer: devices, kernels, buffers and recordings. It knows no stage; each stage's `gpu.rs` brings its
//! dispatches here.
//!
//! A kernel is a list of WGSL parts joined in [`kernel`], a chunk of queries is a list of dispatches recorded and
//! then submitted at once ([`recording`]), an index is a set of pages that are resident or stream through
//! ([`pages`]). Every size comes from the device's limits ([`adapter`], [`device`]).

mod adapter;
mod device;
mod error;
pub(crate) mod kernel;
pub(crate) mod layout;
pub(crate) mod pages;
pub(crate) mod primitives;
mod probe;
pub(crate) mod recording;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;

pub use adapter::{AdapterSummary, GpuOptions, Tier};
pub use device::Gpu;
pub(crate) use device::{Buffer, Submission};
pub use error::GpuError;
