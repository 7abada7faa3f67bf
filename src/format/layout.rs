//! Laying out a new file: tensors are declared first, then written in place.
//!
//! Tensors whose length is a multiple of [`ALIGN`] come first, so that each of them starts on a cache
//! line; the others follow by element size, so that each is aligned to its elements. The header is padded
//! with spaces to a cache line, as safetensors allows, and holds one fixed-width checksum a tensor, so its
//! length is known before the tensors are filled in.

use std::{collections::BTreeMap, sync::Arc};

use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{ALIGN, Element, Image, TensorPlace, anonymous, checksum, checksum_key};

/// A tensor to come.
#[derive(Clone, Debug)]
pub(crate) struct TensorDecl {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl TensorDecl {
    /// A tensor of `T`.
    pub fn new<T: Element>(name: &'static str, shape: &[usize]) -> Self {
        Self { name, dtype: T::DTYPE, shape: shape.to_vec() }
    }

    /// Its name in the file.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its length.
    pub fn n_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    /// What decides the order: cache-line multiples first, then large elements, then names.
    fn rank(&self) -> (bool, std::cmp::Reverse<usize>, &'static str) {
        (!self.n_bytes().is_multiple_of(ALIGN), std::cmp::Reverse(self.dtype.bitsize()), self.name)
    }
}

/// Where everything in a file will be.
struct Layout {
    header_len: usize,
    tensors: Vec<(&'static str, TensorPlace)>,
    len: usize,
}

impl Layout {
    fn new(metadata: &BTreeMap<String, String>, mut decls: Vec<TensorDecl>) -> Self {
        decls.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let mut tensors = Vec::with_capacity(decls.len());
        let mut end = 0;
        for decl in decls {
            let n_bytes = decl.n_bytes();
            tensors.push((
                decl.name,
                TensorPlace { dtype: decl.dtype, shape: decl.shape, bytes: end..end + n_bytes },
            ));
            end += n_bytes;
        }
        let header_len = header(metadata, &tensors, |_| checksum(&[]), 0).len();
        for (_, place) in &mut tensors {
            place.bytes = place.bytes.start + header_len..place.bytes.end + header_len;
        }
        Self { header_len, tensors, len: header_len + end }
    }
}

/// Bytes of the file with these tensors.
pub(crate) fn file_len(metadata: &BTreeMap<String, String>, decls: Vec<TensorDecl>) -> usize {
    Layout::new(metadata, decls).len
}

/// A file being filled in.
pub(crate) struct ImageBuilder {
    bytes: memmap2::MmapMut,
    header_len: usize,
    metadata: BTreeMap<String, String>,
    tensors: Vec<(&'static str, TensorPlace)>,
}

impl ImageBuilder {
    /// Reserves a file with these tensors, all zero.
    ///
    /// # Errors
    /// When the system has no memory of that size.
    pub fn new(metadata: BTreeMap<String, String>, decls: Vec<TensorDecl>) -> std::io::Result<Self> {
        let Layout { header_len, tensors, len } = Layout::new(&metadata, decls);
        Ok(Self { bytes: anonymous(len)?, header_len, metadata, tensors })
    }

    /// Gives an entry of the metadata its value, which takes no more room than what it was reserved with.
    pub fn describe(&mut self, key: &str, value: String) {
        debug_assert!(
            self.metadata.get(key).is_some_and(|reserved| value.len() <= reserved.len()),
            "{value}"
        );
        self.metadata.insert(key.to_owned(), value);
    }

    /// All tensors' bytes at once, by name.
    pub fn parts(&mut self) -> BTreeMap<&'static str, &mut [u8]> {
        let mut rest = &mut self.bytes[self.header_len..];
        let mut parts = BTreeMap::new();
        for (name, place) in &self.tensors {
            let (part, next) = rest.split_at_mut(place.bytes.len());
            parts.insert(*name, part);
            rest = next;
        }
        parts
    }

    /// Computes the checksums, writes the header and freezes the image.
    ///
    /// # Errors
    /// When the system refuses to make the memory read-only.
    pub fn finish(mut self) -> std::io::Result<Arc<Image>> {
        let sums: Vec<String> =
            self.tensors.par_iter().map(|(_, place)| checksum(&self.bytes[place.bytes.clone()])).collect();
        let sums: BTreeMap<&str, &String> = self.tensors.iter().map(|(name, _)| *name).zip(&sums).collect();
        let relative: Vec<(&'static str, TensorPlace)> = self
            .tensors
            .iter()
            .map(|(name, place)| {
                let bytes = place.bytes.start - self.header_len..place.bytes.end - self.header_len;
                (*name, TensorPlace { bytes, ..place.clone() })
            })
            .collect();
        let header = header(&self.metadata, &relative, |name| sums[name].clone(), self.header_len);
        self.bytes[..self.header_len].copy_from_slice(&header);
        let mut metadata = self.metadata;
        metadata.extend(sums.iter().map(|(name, sum)| (checksum_key(name), (*sum).clone())));
        let tensors = self.tensors.into_iter().map(|(name, place)| (name.to_owned(), place)).collect();
        Ok(Arc::new(Image { bytes: self.bytes.make_read_only()?, source: None, metadata, tensors }))
    }
}

impl Image {
    /// Where the tensors begin.
    pub fn data_start(&self) -> usize {
        self.tensors.values().map(|place| place.bytes.start).min().unwrap_or(self.bytes.len())
    }

    /// The header for the same tensors, with another value of a metadata entry.
    pub fn header_with(&self, key: &str, value: &str) -> Vec<u8> {
        let start = self.data_start();
        let mut metadata = self.metadata.clone();
        metadata.insert(key.to_owned(), value.to_owned());
        let tensors: Vec<(&str, TensorPlace)> = self
            .tensors
            .iter()
            .map(|(name, place)| {
                let bytes = place.bytes.start - start..place.bytes.end - start;
                (name.as_str(), TensorPlace { bytes, ..place.clone() })
            })
            .collect();
        let sum = |name: &str| metadata.get(&checksum_key(name)).cloned().unwrap_or_default();
        header(&metadata, &tensors, sum, 0)
    }
}

/// The header, length word included, of `at_least` so many bytes; tensor places are relative to its end.
fn header(
    metadata: &BTreeMap<String, String>,
    tensors: &[(&str, TensorPlace)],
    sum: impl Fn(&str) -> String,
    at_least: usize,
) -> Vec<u8> {
    let mut entries: BTreeMap<&str, Value> = tensors
        .iter()
        .map(|(name, place)| {
            let offsets = [place.bytes.start, place.bytes.end];
            (*name, json!({"dtype": place.dtype, "shape": place.shape, "data_offsets": offsets}))
        })
        .collect();
    let mut all = metadata.clone();
    all.extend(tensors.iter().map(|(name, _)| (checksum_key(name), sum(name))));
    entries.insert("__metadata__", json!(all));
    let mut text = json!(entries).to_string().into_bytes();
    text.resize((text.len() + 8).next_multiple_of(ALIGN).max(at_least) - 8, b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out
}
