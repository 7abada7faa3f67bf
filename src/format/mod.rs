//! The index file: a [safetensors](https://docs.rs/safetensors) file whose tensors the stages read in place.
//!
//! An [`Image`] is the whole file in memory, mapped from disk or, while an index is built, an anonymous
//! map that the stages write into. There is no second representation: what is searched is what is saved,
//! and saving is writing the image's bytes. FORMAT.md lists every tensor.

mod layout;
mod reader;
mod writer;

use std::{
    collections::BTreeMap,
    ops::{Deref, Range},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

pub(crate) use layout::{ImageBuilder, TensorDecl, file_len};
pub use reader::OpenError;
pub use writer::SaveError;
pub use writer::discard_unfinished;
pub(crate) use writer::write_atomically;

/// FORMAT: the newest version that is read, and written where a file holds what older readers would pass over: a frame, scales of rows.
pub const VERSION: u32 = 2;

/// FORMAT: the version that all other files are written in.
pub(crate) const PLAIN: u32 = 1;

/// Tensors start at multiples of this many bytes where their length allows it: a cache line.
pub(crate) const ALIGN: usize = 64;

/// An element type of the file, and the Rust type it is viewed as.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// The type's name in the file.
    const DTYPE: safetensors::Dtype;
}

impl Element for f32 {
    const DTYPE: safetensors::Dtype = safetensors::Dtype::F32;
}
impl Element for half::f16 {
    const DTYPE: safetensors::Dtype = safetensors::Dtype::F16;
}
impl Element for u8 {
    const DTYPE: safetensors::Dtype = safetensors::Dtype::U8;
}
impl Element for u32 {
    const DTYPE: safetensors::Dtype = safetensors::Dtype::U32;
}
impl Element for u64 {
    const DTYPE: safetensors::Dtype = safetensors::Dtype::U64;
}

/// Where a tensor stands in its image.
#[derive(Clone, Debug)]
pub(crate) struct TensorPlace {
    pub dtype: safetensors::Dtype,
    pub shape: Vec<usize>,
    pub bytes: Range<usize>,
}

/// Nanoseconds between two looks at the length of a mapped file.
const LOOK: u64 = 10_000_000;

/// The file that an image is mapped from.
struct Source {
    file: std::fs::File,
    mapped: Instant,
    /// When its length is looked at next, in nanoseconds since it was mapped.
    next_look: AtomicU64,
}

impl Source {
    fn new(file: std::fs::File) -> Self {
        Self { file, mapped: Instant::now(), next_look: AtomicU64::new(0) }
    }
}

/// A mapped file has become shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index file was cut short while open: {expected} bytes when it was opened, {got} now")]
pub struct Truncated {
    /// Bytes when it was opened.
    pub expected: u64,
    /// Bytes now.
    pub got: u64,
}

/// A whole index file in memory.
pub(crate) struct Image {
    bytes: memmap2::Mmap,
    /// Where the bytes are mapped from, if they are.
    source: Option<Source>,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorPlace>,
}

impl Image {
    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// That a mapped file is still as long as it was: beyond its end there are no bytes to be read. Looks again after [`LOOK`] only,
    /// since a look takes as long as a fifth of a short search.
    pub fn check_length(&self) -> Result<(), Truncated> {
        let Some(source) = &self.source else { return Ok(()) };
        let now = u64::try_from(source.mapped.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if now < source.next_look.load(Ordering::Relaxed) {
            return Ok(());
        }
        let expected = self.bytes.len() as u64;
        match source.file.metadata() {
            Ok(metadata) if metadata.len() < expected => Err(Truncated { expected, got: metadata.len() }),
            _ => {
                source.next_look.store(now.saturating_add(LOOK), Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorPlace> {
        &self.tensors
    }

    /// The metadata entry of this name.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}

/// A tensor of an image, as a slice of `T`.
pub(crate) struct View<T> {
    image: Arc<Image>,
    bytes: Range<usize>,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> Deref for View<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.image.bytes[self.bytes.clone()])
    }
}

#[cfg(feature = "gpu")]
impl<T> View<T> {
    /// Its bytes, to be copied elsewhere.
    pub fn tensor_bytes(&self) -> TensorBytes {
        TensorBytes { image: self.image.clone(), bytes: self.bytes.clone() }
    }
}

/// Some bytes of an image.
#[cfg(feature = "gpu")]
#[derive(Clone)]
pub(crate) struct TensorBytes {
    image: Arc<Image>,
    bytes: Range<usize>,
}

#[cfg(feature = "gpu")]
impl TensorBytes {
    /// A part of them.
    pub fn part(&self, range: Range<usize>) -> Self {
        let start = self.bytes.start;
        Self { image: self.image.clone(), bytes: start + range.start..start + range.end }
    }
}

#[cfg(feature = "gpu")]
impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.image.bytes[self.bytes.clone()]
    }
}

/// Memory for an image, zeroed, in huge pages where the system has them: rows and lists lie anywhere in it, and
/// with small pages each costs an address translation more.
fn anonymous(length: usize) -> std::io::Result<memmap2::MmapMut> {
    let bytes = memmap2::MmapMut::map_anon(length)?;
    #[cfg(target_os = "linux")]
    {
        // A hint; without it everything works as well, a little slower.
        let _ = bytes.advise(memmap2::Advice::HugePage);
    }
    Ok(bytes)
}

/// The checksum of a tensor's bytes, as stored: xxh3, 64 bits, 16 hexadecimal digits.
fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes))
}

/// The metadata key of a tensor's checksum.
fn checksum_key(tensor: &str) -> String {
    format!("xxh3.{tensor}")
}
