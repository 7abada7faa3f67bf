//! The four stages of a query: `Transform → Router → Scorer → Rerank`.
//!
//! | stage | from | to |
//! |---|---|---|
//! | transform | query `[d]` | reduced query `[s]` |
//! | router | reduced query `[s]` | `n_probe` of `n_lists` lists |
//! | scorer | reduced query, one list | approximate internal score of each point in it |
//! | rerank | query `[d]`, candidate positions | exact internal scores |
//!
//! Each stage's folder is whole: its model (what the index file holds of it), its training, and one file for
//! each implementation: `reference.rs` says what is meant, as plainly as possible and in f64; `cpu.rs` is
//! fast. No stage imports another.

pub(crate) mod rerank;
pub(crate) mod router;
pub(crate) mod scorer;
pub(crate) mod transform;
