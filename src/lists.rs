//! Which points are in which list, and under which ids they are known.
//!
//! Lists stand one after the other; a place in them is a *position*. Inside a list, positions follow the order of the
//! rows they were built from. Points are numbered in the order of the positions of their first copies: where each
//! point is in one list, position and point are one number; where lists hold copies (SOAR), `lists.points` says
//! which point stands at a position. What there is once a point (ids, rows to rerank) goes by point, what is scored
//! list by list goes by position.

use std::sync::Arc;

use crate::{
    format::{Image, OpenError, TensorDecl, View},
    topk::NO_ID,
    train::kmeans::group,
};

/// The id of each point.
pub(crate) enum Ids {
    /// Points are numbered by their ids: no lists, no ids given.
    Points,
    /// Every id fits 32 bits.
    U32(View<u32>),
    /// Some id does not.
    U64(View<u64>),
}

impl Ids {
    /// The id of a point.
    pub fn get(&self, point: u32) -> u64 {
        match self {
            Self::Points => u64::from(point),
            Self::U32(ids) => u64::from(ids[point as usize]),
            Self::U64(ids) => ids[point as usize],
        }
    }
}

/// How many of each there are.
#[derive(Clone, Copy)]
pub(crate) struct ListSizes {
    /// Points.
    pub n: usize,
    /// Lists, if there is a partition.
    pub n_lists: Option<usize>,
    /// Lists that hold each point.
    pub n_copies: usize,
}

impl ListSizes {
    /// Places in all lists. Points are below 2³², copies at most 8.
    pub fn n_positions(self) -> usize {
        self.n * self.n_copies
    }
}

/// The lists of an index; without a partition, one list of all points.
pub(crate) struct Lists {
    offsets: Option<View<u64>>,
    sizes: ListSizes,
    n_empty: usize,
    /// Positions in the p + 1 smallest lists that are not empty.
    smallest: Vec<usize>,
    points: Option<View<u32>>,
    ids: Ids,
}

const OFFSETS: &str = "lists.offsets";
const POINTS: &str = "lists.points";
const IDS: &str = "lists.ids";

impl Lists {
    /// The tensors; `wide`: some id needs 64 bits; `plain`: ids are row numbers.
    pub fn declare(sizes: ListSizes, plain: bool, wide: bool) -> Vec<TensorDecl> {
        let mut decls = Vec::new();
        if let Some(n_lists) = sizes.n_lists {
            decls.push(TensorDecl::new::<u64>(OFFSETS, &[n_lists + 1]));
        }
        if sizes.n_copies > 1 {
            decls.push(TensorDecl::new::<u32>(POINTS, &[sizes.n_positions()]));
        }
        if sizes.n_lists.is_some() || !plain {
            decls.push(if wide {
                TensorDecl::new::<u64>(IDS, &[sizes.n])
            } else {
                TensorDecl::new::<u32>(IDS, &[sizes.n])
            });
        }
        decls
    }

    /// Reads and checks the tensors.
    pub fn open(image: &Arc<Image>, sizes: ListSizes) -> Result<Self, OpenError> {
        let value = |name: &str, reason: String| OpenError::Value { name: name.to_owned(), reason };
        let (n, n_positions) = (sizes.n, sizes.n_positions());
        let mut offsets = None;
        if let Some(n_lists) = sizes.n_lists {
            let view: View<u64> = image.view(OFFSETS, &[n_lists + 1])?;
            if view[0] != 0 || view[n_lists] != n_positions as u64 || view.windows(2).any(|w| w[0] > w[1]) {
                return Err(value(OFFSETS, format!("expected ascending offsets from 0 to {n_positions}")));
            }
            offsets = Some(view);
        }
        let mut points = None;
        if sizes.n_copies > 1 {
            let view: View<u32> = image.view(POINTS, &[n_positions])?;
            let mut copies = vec![0_u8; n];
            for &point in view.iter() {
                match copies.get_mut(point as usize) {
                    Some(seen) => *seen = seen.saturating_add(1),
                    None => return Err(value(POINTS, format!("expected points below {n}, got {point}"))),
                }
            }
            // As many copies of each as searches make room for.
            if copies.iter().any(|&seen| usize::from(seen) != sizes.n_copies) {
                return Err(value(POINTS, format!("expected each point {} times", sizes.n_copies)));
            }
            points = Some(view);
        }
        let ids = match image.tensors().get(IDS).map(|t| t.dtype) {
            None if sizes.n_lists.is_none() => Ids::Points,
            Some(safetensors::Dtype::U64) => Ids::U64(image.view(IDS, &[n])?),
            _ => Ids::U32(image.view(IDS, &[n])?),
        };
        if let Ids::U64(ids) = &ids
            && ids.contains(&NO_ID)
        {
            return Err(value(IDS, format!("expected ids below {NO_ID}, which stands for no neighbour")));
        }
        let lengths = offsets.iter().flat_map(|offsets| offsets.windows(2).map(|w| w[1] - w[0]));
        let smallest = smallest(lengths.map(|n| usize::try_from(n).unwrap_or(n_positions)));
        let n_empty = offsets.as_ref().map_or(0, |o| o.windows(2).filter(|w| w[0] == w[1]).count());
        Ok(Self { offsets, sizes, n_empty, smallest, points, ids })
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.offsets.as_ref().map_or(1, |o| o.len() - 1)
    }

    /// The positions of a list.
    pub fn range(&self, list: usize) -> std::ops::Range<usize> {
        match &self.offsets {
            None => 0..self.sizes.n,
            // Offsets are at most the number of positions, which is below 2³².
            Some(offsets) => {
                let offset = |at: usize| usize::try_from(offsets[at]).unwrap_or(self.sizes.n_positions());
                offset(list)..offset(list + 1)
            }
        }
    }

    /// Lists without a point. Many equal points leave some: they must not use up a query's probes.
    pub fn n_empty(&self) -> usize {
        self.n_empty
    }

    /// Lists that hold `k` points whichever they are, or all of them.
    pub fn n_filling(&self, k: usize) -> usize {
        n_filling(&self.smallest, k.saturating_mul(self.sizes.n_copies))
    }

    /// How many points, lists and positions there are.
    pub fn sizes(&self) -> ListSizes {
        self.sizes
    }

    /// The point at a position.
    pub fn point(&self, position: u32) -> u32 {
        match &self.points {
            None => position,
            Some(points) => points[position as usize],
        }
    }

    /// The point at each position, where they differ.
    #[cfg(feature = "gpu")]
    pub fn points(&self) -> Option<&[u32]> {
        self.points.as_deref()
    }

    /// Ids by point.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The id of the point at a position.
    pub fn id_at(&self, position: u32) -> u64 {
        self.ids.get(self.point(position))
    }
}

/// Positions in the p + 1 smallest of some lists, empty ones left out.
pub(crate) fn smallest(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut lengths: Vec<usize> = lengths.filter(|&length| length > 0).collect();
    lengths.sort_unstable();
    let mut sum = 0;
    for length in &mut lengths {
        sum += *length;
        *length = sum;
    }
    lengths
}

/// Lists that hold so many positions whichever they are, or all of them; of [`smallest`].
pub(crate) fn n_filling(smallest: &[usize], n_positions: usize) -> usize {
    (smallest.partition_point(|&held| held < n_positions) + 1).min(smallest.len().max(1))
}

/// Rows by list, as a build arranges them.
pub(crate) struct Arrangement {
    /// First position of each list, and the end of the last.
    pub offsets: Vec<usize>,
    /// The row at each position.
    pub rows: Vec<u32>,
    /// The row of each point; empty where points are positions.
    pub points: Vec<u32>,
}

impl Arrangement {
    /// All rows in one list.
    pub fn plain(n: usize) -> Self {
        let rows = (0..u32::try_from(n).unwrap_or(u32::MAX)).collect();
        Self { offsets: vec![0, n], rows, points: Vec::new() }
    }

    /// Rows grouped by the lists that hold them, `[n, n_copies]`, the list of the first copy first.
    pub fn of(lists: &[u32], n_copies: usize, n_lists: usize) -> Self {
        let (offsets, mut rows) = group(lists, n_lists);
        let mut points = Vec::new();
        if n_copies > 1 {
            let copies = u32::try_from(n_copies).unwrap_or(1);
            points.extend(rows.iter().filter(|&&place| place % copies == 0).map(|place| place / copies));
            for row in &mut rows {
                *row /= copies;
            }
        }
        Self { offsets, rows, points }
    }

    /// Positions in each list.
    pub fn sizes(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        self.offsets.windows(2).map(|w| w[1] - w[0])
    }

    /// The row of each point.
    pub fn by_point(&self) -> &[u32] {
        if self.points.is_empty() { &self.rows } else { &self.points }
    }
}

/// Fills in the tensors of [`Lists::declare`]; `id_of`: the id of a row.
pub(crate) fn write(
    parts: &mut std::collections::BTreeMap<&'static str, &mut [u8]>,
    arrangement: &Arrangement,
    id_of: impl Fn(u32) -> u64,
) {
    if let Some(out) = parts.get_mut(OFFSETS) {
        let offsets: Vec<u64> = arrangement.offsets.iter().map(|&o| o as u64).collect();
        out.copy_from_slice(bytemuck::cast_slice(&offsets));
    }
    let order = arrangement.by_point();
    if let Some(out) = parts.get_mut(POINTS) {
        let mut point_of = vec![0_u32; order.len()];
        for (point, &row) in (0..).zip(order) {
            point_of[row as usize] = point;
        }
        let out: &mut [u32] = bytemuck::cast_slice_mut(out);
        for (out, &row) in out.iter_mut().zip(&arrangement.rows) {
            *out = point_of[row as usize];
        }
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
