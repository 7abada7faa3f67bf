//! The set that comes with the program: 11 000 of WordNet's glosses as sentence embeddings, 200 held out as queries.

use nearfield::Vectors;

const BASE: &[u8] = include_bytes!("../../../examples/data/wordnet/base.i8bin");
const QUERIES: &[u8] = include_bytes!("../../../examples/data/wordnet/query.i8bin");

/// A specification and an effort that suit it.
pub const SPEC: &str = "PCA128,IVF128,RRR32,Refine(f16)";
pub const N_PROBE: usize = 16;
pub const N_RERANK: usize = 100;

/// An `.i8bin` file in memory.
pub struct Embedded {
    values: &'static [u8],
    dim: usize,
}

impl Embedded {
    pub fn base() -> Self {
        Self::new(BASE)
    }

    pub fn queries() -> Self {
        Self::new(QUERIES)
    }

    fn new(file: &'static [u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]);
        Self { values: &file[8..], dim: word(4) as usize }
    }
}

impl Vectors for Embedded {
    fn n_rows(&self) -> usize {
        self.values.len() / self.dim
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        for (out, &v) in out.iter_mut().zip(&self.values[row * self.dim..]) {
            *out = f32::from(v.cast_signed());
        }
    }
}
