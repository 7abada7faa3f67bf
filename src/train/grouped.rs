//! Vectors by list: points, and the training queries that visit them.

/// Lists that a training query visits: in LoRANN five.
pub(crate) const TRAIN_LISTS: usize = 5;

/// Groups of row numbers, one a list.
pub(crate) struct Members<'a> {
    pub offsets: &'a [usize],
    pub rows: &'a [u32],
}

/// Vectors of s dimensions and which lists they belong to.
pub(crate) struct Grouped<'a> {
    /// `[n, s]` row-major.
    pub vectors: &'a [f32],
    pub members: Members<'a>,
}

impl Members<'_> {
    /// The rows of a list.
    pub fn of(&self, list: usize) -> &[u32] {
        &self.rows[self.offsets[list]..self.offsets[list + 1]]
    }

    /// The rows of a list, or if there are more than `most`, that many spread evenly over them.
    pub fn some(&self, list: usize, most: usize) -> Vec<usize> {
        let rows = self.of(list);
        let n = rows.len().min(most);
        (0..n).map(|i| rows[i * rows.len() / n] as usize).collect()
    }
}

impl Grouped<'_> {
    /// The vectors of rows.
    pub fn gather(&self, rows: &[usize], s: usize) -> Vec<f32> {
        rows.iter().flat_map(|row| &self.vectors[row * s..(row + 1) * s]).copied().collect()
    }
}
