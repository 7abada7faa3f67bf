//! Which points are in which list, and under which ids they are known.
//!
//! Points are stored list after list; a point's place in that order is its *position*. Inside a list,
//! positions follow the order of the rows they were built from.

use std::sync::Arc;

use crate::{
    format::{Image, OpenError, TensorDecl, View},
    topk::NO_ID,
};

/// The id of the point at each position.
pub(crate) enum Ids {
    /// Positions are ids: no lists, no ids given.
    Positions,
    /// Every id fits 32 bits.
    U32(View<u32>),
    /// Some id does not.
    U64(View<u64>),
}

impl Ids {
    /// The id at a position.
    pub fn get(&self, position: u32) -> u64 {
        match self {
            Self::Positions => u64::from(position),
            Self::U32(ids) => u64::from(ids[position as usize]),
            Self::U64(ids) => ids[position as usize],
        }
    }
}

/// The lists of an index; without a partition, one list of all points.
pub(crate) struct Lists {
    offsets: Option<View<u64>>,
    n: usize,
    n_empty: usize,
    ids: Ids,
}

const OFFSETS: &str = "lists.offsets";
const IDS: &str = "lists.ids";

impl Lists {
    /// Tensors for `n` points in `n_lists` lists, if there are lists; `wide`: some id needs 64 bits;
    /// `plain`: ids are row numbers.
    pub fn declare(n: usize, n_lists: Option<usize>, plain: bool, wide: bool) -> Vec<TensorDecl> {
        let mut decls = Vec::new();
        if let Some(n_lists) = n_lists {
            decls.push(TensorDecl::new::<u64>(OFFSETS, &[n_lists + 1]));
        }
        if n_lists.is_some() || !plain {
            decls.push(if wide {
                TensorDecl::new::<u64>(IDS, &[n])
            } else {
                TensorDecl::new::<u32>(IDS, &[n])
            });
        }
        decls
    }

    /// Reads and checks the tensors.
    pub fn open(image: &Arc<Image>, n: usize, n_lists: Option<usize>) -> Result<Self, OpenError> {
        let value = |name: &str, reason: String| OpenError::Value { name: name.to_owned(), reason };
        let mut offsets = None;
        if let Some(n_lists) = n_lists {
            let view: View<u64> = image.view(OFFSETS, &[n_lists + 1])?;
            if view[0] != 0 || view[n_lists] != n as u64 || view.windows(2).any(|w| w[0] > w[1]) {
                return Err(value(OFFSETS, format!("expected ascending offsets from 0 to {n}")));
            }
            offsets = Some(view);
        }
        let ids = match image.tensors().get(IDS).map(|t| t.dtype) {
            None if n_lists.is_none() => Ids::Positions,
            Some(safetensors::Dtype::U64) => Ids::U64(image.view(IDS, &[n])?),
            _ => Ids::U32(image.view(IDS, &[n])?),
        };
        if let Ids::U64(ids) = &ids
            && ids.contains(&NO_ID)
        {
            return Err(value(IDS, format!("expected ids below {NO_ID}, which stands for no neighbour")));
        }
        let n_empty = offsets.as_ref().map_or(0, |o| o.windows(2).filter(|w| w[0] == w[1]).count());
        Ok(Self { offsets, n, n_empty, ids })
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.offsets.as_ref().map_or(1, |o| o.len() - 1)
    }

    /// The positions of a list.
    pub fn range(&self, list: usize) -> std::ops::Range<usize> {
        match &self.offsets {
            None => 0..self.n,
            // Offsets are at most n, which is below 2³².
            Some(offsets) => {
                usize::try_from(offsets[list]).unwrap_or(self.n)
                    ..usize::try_from(offsets[list + 1]).unwrap_or(self.n)
            }
        }
    }

    /// Lists without a point. Many equal points leave some: they must not use up a query's probes.
    pub fn n_empty(&self) -> usize {
        self.n_empty
    }

    /// Ids by position.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }
}

/// Fills in the tensors of [`Lists::declare`]: `order[position]` is a row, `id_of` its id.
pub(crate) fn write(
    parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>,
    offsets: &[u64],
    order: &[u32],
    id_of: impl Fn(u32) -> u64,
) {
    if let Some(out) = parts.get_mut(OFFSETS) {
        out.copy_from_slice(bytemuck::cast_slice(offsets));
    }
    if let Some(out) = parts.get_mut(IDS) {
        if out.len() == order.len() * 4 {
            let out: &mut [u32] = bytemuck::cast_slice_mut(out);
            for (id, &row) in out.iter_mut().zip(order) {
                // Declared 32 bits wide only when every id fits.
                *id = u32::try_from(id_of(row)).unwrap_or(u32::MAX);
            }
        } else {
            let out: &mut [u64] = bytemuck::cast_slice_mut(out);
            for (id, &row) in out.iter_mut().zip(order) {
                *id = id_of(row);
            }
        }
    }
}
