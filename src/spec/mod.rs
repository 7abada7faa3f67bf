//! Index specifications: one line that names every stage.
//!
//! In the manner of FAISS's `index_factory`, commas separate the stages and their order is the order
//! of the pipeline:
//!
//! ```text
//! [Transform,] [IVF<n_lists>[(options)],] Scorer [,Refine(dtype)]
//!
//! Transform   PCA<s>[x8]                   reduce to s dimensions by principal axes; x8: axes and queries in int8
//!             LIN<s>[x8]                   by a linear map trained to keep distances
//!             SRP<s>[x8]                   by a sparse random projection, which nothing is trained for
//!             CNT<s>[(options)]            by a compression network trained to keep distances
//!   options   tokens=<n>, heads=<n>,       its sizes: 4, 2, 1 and 2 unless given
//!             stages=<n>, expansion=<n>
//! IVF         IVF<n_lists>                 partition into n_lists lists by k-means
//!   options   soar[=<copies>]              each point also enters that many further lists (SOAR); 1 unless given
//!             lambda=<λ>                   weight of SOAR's penalty, 1 unless given
//!             T=<t>                        centroids by the score-aware loss of threshold t
//!             router=linear                lists are chosen by weights trained on true neighbours, not by centroids
//!             router=cnn                   a convolutional network stands before these weights
//!             labels                       of router=cnn: trained on the lists that queries fall into, as in the paper
//!             width=<w>                    of router=cnn: channels of its layers, w, w and 2w: 128 or fewer
//! Scorer      RRR<rank>[x<bits>[x<bits>]]  reduced-rank regression; bits of A, bits of B: 8 or 4
//!             PQ<M>x<bits>                 product quantisation: M subspaces, codes of 4 or 8 bits
//!             APQ<M>x<bits>[(T=<t>)]       the same, trained by the score-aware loss; t is 0.2 unless given
//!             CNN[(width=<w>)]             a byte a dimension behind a convolutional network for each list
//!             SQ8                          one byte a dimension
//!             Flat                         full vectors
//! Refine      Refine(f32|f16|sq8)          exact scores of the best candidates on stored rows
//! ```
//!
//! A number left out of a transform, `IVF` or `RRR` is chosen from the data: see
//! [`IndexSpec::resolve`]. [`Display`](std::fmt::Display) prints the canonical form, which
//! [`FromStr`](std::str::FromStr) reads back to an equal value.

mod text;

/// What an index is made of, stage by stage.
///
/// ```
/// let spec: nearfield::IndexSpec = "PCA128,IVF1024,RRR32,Refine(f16)".parse()?;
/// assert_eq!(spec.to_string(), "PCA128,IVF1024,RRR32,Refine(f16)");
/// # Ok::<(), nearfield::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexSpec {
    /// Dimension reduction ahead of everything else.
    pub transform: Option<TransformSpec>,
    /// Partition into lists; without it every query meets every point.
    pub ivf: Option<IvfSpec>,
    /// How points are scored.
    pub scorer: ScorerSpec,
    /// Rows kept for exact scores; without it approximate scores are returned.
    pub refine: Option<RowDtype>,
}

/// A transform of vectors from `d` to `s` dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransformSpec {
    /// A linear map.
    Linear {
        /// How it is found.
        map: LinearMap,
        /// Dimensions kept, `s`; `None` chooses from `d`.
        dims: Option<usize>,
        /// How its axes are stored.
        dtype: AxesDtype,
    },
    /// A compression network with attention (CNT).
    Cnt {
        /// Dimensions kept, `s`; `None` chooses from `d`.
        dims: Option<usize>,
        /// Its sizes.
        sizes: CntSizes,
    },
}

/// How a linear map is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinearMap {
    /// Principal axes of the training queries' uncentred second moment.
    Pca,
    /// Trained from principal axes with the INRP loss: distances between points stay as they are.
    Lin,
    /// Sparse random projection: few entries, all of one size, of random sign.
    Srp,
}

/// Sizes of a compression network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CntSizes {
    /// Projections of the input that the compression token attends to. The paper's 4× has 12.
    pub tokens: u8,
    /// Heads of attention. The paper has 4.
    pub heads: u8,
    /// Encoders, each of attention and a perceptron. The paper has 2.
    pub stages: u8,
    /// Width of a perceptron's hidden layer over its input's.
    pub expansion: u8,
}

impl CntSizes {
    fn check(self) -> Result<(), SpecError> {
        let Self { tokens, heads, stages, expansion } = self;
        let sizes = [
            ("tokens", tokens, CNT_MAX.tokens),
            ("heads", heads, CNT_MAX.heads),
            ("stages", stages, CNT_MAX.stages),
            ("expansion", expansion, CNT_MAX.expansion),
        ];
        match sizes.into_iter().find(|(_, given, most)| !(1..=*most).contains(given)) {
            Some((name, given, most)) => {
                let expected = format!("{name} from 1 to {most}");
                Err(SpecError::Range { token: "CNT", expected, given: given.into() })
            }
            None => Ok(()),
        }
    }
}

impl Default for CntSizes {
    /// What did best for its time on text and images (docs/compression.md).
    fn default() -> Self {
        Self { tokens: 4, heads: 2, stages: 1, expansion: 2 }
    }
}

/// Storage of the axes that vectors are reduced to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AxesDtype {
    /// Two bytes a value; queries meet them in f32.
    #[default]
    F16,
    /// One byte a value; queries are rounded to int8 as well.
    Int8,
}

/// A partition into lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IvfSpec {
    /// Number of lists; `None` chooses from `n`.
    pub n_lists: Option<usize>,
    /// Copies of each point in further lists.
    pub spill: Option<SpillSpec>,
    /// Threshold T of the score-aware loss that centroids minimise; `None`: squared distance.
    pub threshold: Option<Milli>,
    /// What chooses the lists that a query reads.
    pub router: RouterSpec,
}

/// What chooses the lists that a query reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouterSpec {
    /// The nearest centroids.
    #[default]
    Centroids,
    /// Weights and a bias a list, trained from the centroids on the true neighbours of training queries; as quick as centroids.
    Linear,
    /// The same behind a convolutional network that moves the query.
    Cnn {
        /// Channels of its layers: `width`, `width` and twice as many. The paper has 128.
        width: u16,
        /// What it is trained on.
        target: RouterTarget,
    },
}

/// What a convolutional router learns to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RouterTarget {
    /// The lists that hold a query's true neighbours.
    #[default]
    Neighbours,
    /// The list that a query falls into, by the nearest centroid: the paper's labels.
    Labels,
}

impl RouterSpec {
    /// Whether lists are chosen by something trained in the centroids' place.
    #[must_use]
    pub fn is_trained(self) -> bool {
        self != Self::Centroids
    }

    /// What it is trained to find, if it is trained.
    #[must_use]
    pub fn target(self) -> RouterTarget {
        match self {
            Self::Cnn { target, .. } => target,
            Self::Centroids | Self::Linear => RouterTarget::Neighbours,
        }
    }

    /// Channels of its network, if it has one.
    #[must_use]
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Cnn { width, .. } => Some(width.into()),
            Self::Centroids | Self::Linear => None,
        }
    }
}

/// Copies of each point in lists beside its nearest (SOAR).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpillSpec {
    /// Copies beside the first; `None` is 1.
    pub copies: Option<usize>,
    /// Weight λ of the penalty on residuals that point the same way.
    pub lambda: Milli,
}

/// A number of at most three decimals, held in thousandths so that specifications can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Milli(pub u32);

impl Milli {
    /// The number.
    #[must_use]
    pub fn value(self) -> f32 {
        self.0 as f32 / 1000.0
    }
}

/// How points are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScorerSpec {
    /// Reduced-rank regression per list (LoRANN).
    Rrr {
        /// Components beside the first; a multiple of 16; `None` is 32.
        rank: Option<usize>,
        /// Bits of the query-side factor A.
        a_bits: Bits,
        /// Bits of the point-side factor B.
        b_bits: Bits,
    },
    /// Product quantisation of residuals to the list's centroid, scored by lookup tables (ScaNN).
    Pq {
        /// Subspaces; they need not divide the dimensions.
        m: usize,
        /// Bits of a code: 16 or 256 codewords a subspace.
        bits: Bits,
        /// Threshold T of the score-aware loss (`APQ`); `None` is the squared error (`PQ`).
        threshold: Option<Milli>,
    },
    /// A convolutional network for each list, trained to tell which of its points is nearest; for small sets. Points are stored as they
    /// are then scored, in a byte a dimension.
    Cnn {
        /// Channels of its layers: `width`, `width` and twice as many. The paper has 128.
        width: u16,
    },
    /// One byte a dimension between the smallest and the largest value seen.
    Sq8,
    /// Vectors as they are, in f32.
    Flat,
}

/// Width of a quantised factor's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bits {
    /// Four bits: −7..=7.
    B4,
    /// Eight bits: −127..=127.
    B8,
}

/// Storage of the rows that exact scores are computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowDtype {
    /// Four bytes a dimension, lossless.
    F32,
    /// Two bytes a dimension.
    F16,
    /// One byte a dimension.
    Sq8,
}

/// Ranks an RRR scorer may have are multiples of this: one SIMD register of columns.
pub const RANK_STEP: usize = 16;
/// Largest RRR rank; beyond it SQ8 is smaller and better.
pub const RANK_MAX: usize = 256;
/// Most lists an index may have; offsets of lists stay far inside u32.
pub const N_LISTS_MAX: usize = 1 << 24;
/// Most dimensions a vector may have.
pub const DIM_MAX: usize = 1 << 16;

/// Points below which [`IndexSpec::suited`] reads all of them.
const FEW_POINTS: usize = 1000;
/// Dimensions below which [`IndexSpec::suited`] stores vectors as they are.
const FEW_DIMS: usize = 32;

/// Most copies of a point beside the first.
pub const SPILL_MAX: usize = 7;
/// Most tokens, heads and stages of a compression network, and its widest perceptron.
pub const CNT_MAX: CntSizes = CntSizes { tokens: 64, heads: 16, stages: 8, expansion: 4 };
/// Channels of a convolutional network's first layers: the paper's, and the most there may be.
pub const WIDTH: u16 = 128;
/// Most dimensions that convolutional networks see: their last layer has `width·s²` weights, at most 64 MiB.
pub const CNN_DIM_MAX: usize = 512;
/// Most weights that the networks of all lists may have together: 4 GiB.
pub const CNN_WEIGHTS_MAX: usize = 1 << 31;
/// Most points in a list of a `CNN` scorer: training scores all of them for each query of a batch.
pub const CNN_POINTS_MAX: usize = 1 << 15;
/// Threshold T of `APQ` unless given, as in ScaNN's experiments.
const THRESHOLD: Milli = Milli(200);
/// Weight of SOAR's penalty unless given.
const LAMBDA: Milli = Milli(1000);

/// A specification that cannot be read, or that does not fit the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The text names no stage that may stand there.
    #[error("{}: expected {expected}", place(token))]
    Token {
        /// The token as given.
        token: String,
        /// What may stand there.
        expected: String,
    },
    /// A number does not fit the data.
    #[error("spec token `{token}`: expected {expected}, given {given}")]
    Range {
        /// The stage.
        token: &'static str,
        /// The values allowed.
        expected: String,
        /// The value given.
        given: usize,
    },
}

/// Where an error is: a token, or the end.
fn place(token: &str) -> String {
    if token.is_empty() { "spec, at its end".to_owned() } else { format!("spec token `{token}`") }
}

impl Bits {
    /// The width as a number.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::B4 => 4,
            Self::B8 => 8,
        }
    }
}

impl LinearMap {
    const ALL: [Self; 3] = [Self::Pca, Self::Lin, Self::Srp];

    fn name(self) -> &'static str {
        match self {
            Self::Pca => "PCA",
            Self::Lin => "LIN",
            Self::Srp => "SRP",
        }
    }
}

impl TransformSpec {
    /// Dimensions kept, where they are given.
    #[must_use]
    pub fn dims(self) -> Option<usize> {
        match self {
            Self::Linear { dims, .. } | Self::Cnt { dims, .. } => dims,
        }
    }

    /// The same with `s` dimensions kept.
    #[must_use]
    pub fn with_dims(self, s: usize) -> Self {
        match self {
            Self::Linear { map, dtype, .. } => Self::Linear { map, dims: Some(s), dtype },
            Self::Cnt { sizes, .. } => Self::Cnt { dims: Some(s), sizes },
        }
    }

    fn default_dims(self, d: usize) -> usize {
        match self {
            Self::Linear { map: LinearMap::Pca, .. } if d < 200 => d,
            Self::Linear { map: LinearMap::Pca, .. } if d <= 1000 => 128,
            Self::Linear { map: LinearMap::Pca, .. } => 256,
            _ => d.div_ceil(4),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Linear { map, .. } => map.name(),
            Self::Cnt { .. } => "CNT",
        }
    }

    /// Whether it is trained step by step.
    #[must_use]
    pub fn is_trained(self) -> bool {
        matches!(self, Self::Linear { map: LinearMap::Lin, .. } | Self::Cnt { .. })
    }

    /// Whether queries are rounded to int8 before they are reduced.
    #[cfg(feature = "gpu")]
    pub(crate) fn is_int8(self) -> bool {
        matches!(self, Self::Linear { dtype: AxesDtype::Int8, .. })
    }
}

impl IndexSpec {
    /// A specification that works for `n` points of `d` dimensions, resolved.
    ///
    /// - Below 1 000 points `Flat`: reading all of them takes as long as choosing among lists.
    /// - Below 32 dimensions `IVF,Flat`: a regression would not be smaller than the vectors.
    /// - Else `PCA,IVF,RRR,Refine(f16)`.
    ///
    /// Where values do not fit half precision, which building says, [`RowDtype::F32`] takes the place of `f16`.
    ///
    /// # Errors
    /// [`SpecError::Range`] where there are no points or no dimensions.
    pub fn suited(n: usize, d: usize) -> Result<Self, SpecError> {
        let text = match (n, d) {
            (..FEW_POINTS, _) => "Flat",
            (_, ..FEW_DIMS) => "IVF,Flat",
            _ => "PCA,IVF,RRR,Refine(f16)",
        };
        text.parse::<Self>()?.resolve(n, d)
    }

    /// Lists that hold each point, of a resolved specification.
    pub(crate) fn n_copies(&self) -> usize {
        let spill = self.ivf.and_then(|ivf| ivf.spill);
        1 + spill.and_then(|spill| spill.copies).unwrap_or(0)
    }

    /// Dimensions that router and scorer see, of a resolved specification for vectors of `d`.
    pub(crate) fn scored_dims(&self, d: usize) -> usize {
        self.transform.and_then(TransformSpec::dims).unwrap_or(d)
    }

    /// Whether anything in it is a network that only builds with the feature `neural` train.
    pub(crate) fn has_networks(&self) -> bool {
        matches!(self.transform, Some(TransformSpec::Cnt { .. }))
            || matches!(self.scorer, ScorerSpec::Cnn { .. })
            || self.ivf.is_some_and(|ivf| ivf.router.width().is_some())
    }

    /// How the scorer stores vectors, if that is what it scores.
    pub(crate) fn scorer_rows(&self) -> Option<RowDtype> {
        match self.scorer {
            ScorerSpec::Sq8 => Some(RowDtype::Sq8),
            ScorerSpec::Flat => Some(RowDtype::F32),
            ScorerSpec::Rrr { .. } | ScorerSpec::Pq { .. } | ScorerSpec::Cnn { .. } => None,
        }
    }

    /// The same with so many lists, if it has lists.
    pub(crate) fn with_lists(self, n_lists: usize) -> Self {
        Self { ivf: self.ivf.map(|ivf| IvfSpec { n_lists: Some(n_lists), ..ivf }), ..self }
    }

    /// Fills in every number left out and checks all of them against `n` points of `d` dimensions.
    ///
    /// - `PCA`: `d` below 200 dimensions, 128 up to 1 000, 256 above.
    /// - `LIN`, `SRP`, `CNT`: a quarter of `d`, rounded up, at most 65 536.
    /// - `IVF`: `4·√n` rounded to a power of two, at most `n`.
    /// - `soar`: one copy beside the first, for every metric: more pay above all where queries are of another
    ///   kind than the points (README).
    /// - `RRR`: rank 32, or the largest multiple of 16 that the scored dimensions hold;
    ///   below 16 dimensions there is none.
    ///
    /// # Errors
    /// [`SpecError::Range`] where a number is larger than the data allows.
    pub fn resolve(&self, n: usize, d: usize) -> Result<Self, SpecError> {
        let mut spec = *self;
        let mut s = d;
        if let Some(transform) = &mut spec.transform {
            s = transform.dims().unwrap_or_else(|| transform.default_dims(d).min(DIM_MAX));
            if s > d {
                return Err(SpecError::Range {
                    token: transform.name(),
                    expected: format!("at most the vectors' {d} dimensions"),
                    given: s,
                });
            }
            if s == 0 {
                let expected = "at least 1 dimension".to_owned();
                return Err(SpecError::Range { token: transform.name(), expected, given: s });
            }
            if let TransformSpec::Cnt { sizes, .. } = transform {
                sizes.check()?;
            }
            *transform = transform.with_dims(s);
        }
        if let Some(IvfSpec { n_lists, spill, .. }) = &mut spec.ivf {
            let l = n_lists.unwrap_or_else(|| default_n_lists(n));
            if l > n {
                return Err(SpecError::Range {
                    token: "IVF",
                    expected: format!("at most one list a point, {n}"),
                    given: l,
                });
            }
            *n_lists = Some(l);
            if let Some(SpillSpec { copies, .. }) = spill {
                let c = copies.unwrap_or(1);
                if c >= l {
                    return Err(SpecError::Range {
                        token: "soar",
                        expected: format!("fewer copies than the {l} lists"),
                        given: c,
                    });
                }
                *copies = Some(c);
            }
        }
        spec.check_networks(n, s)?;
        if let ScorerSpec::Pq { m, threshold, .. } = spec.scorer
            && m > s
        {
            return Err(SpecError::Range {
                token: if threshold.is_some() { "APQ" } else { "PQ" },
                expected: format!("at most one subspace a scored dimension, {s}"),
                given: m,
            });
        }
        if let ScorerSpec::Rrr { rank, .. } = &mut spec.scorer {
            let r = rank.unwrap_or_else(|| 32.min(s / RANK_STEP * RANK_STEP).max(RANK_STEP));
            if s < RANK_STEP {
                let expected = format!("at least {RANK_STEP} scored dimensions (use SQ8 or Flat below)");
                return Err(SpecError::Range { token: "RRR", expected, given: s });
            }
            if r > s {
                return Err(SpecError::Range {
                    token: "RRR",
                    expected: format!("a rank of at most the {s} scored dimensions"),
                    given: r,
                });
            }
            *rank = Some(r);
        }
        Ok(spec)
    }
}

impl IndexSpec {
    /// What becomes of a list of so many points, more than [`CNN_POINTS_MAX`].
    pub(crate) fn list_too_large(given: usize) -> SpecError {
        let expected = format!(
            "lists of at most {CNN_POINTS_MAX} points (more lists hold fewer each; other scorers have no limit)"
        );
        SpecError::Range { token: "CNN", expected, given }
    }

    /// Checks what convolutional networks make of `n` points of `s` dimensions.
    fn check_networks(&self, n: usize, s: usize) -> Result<(), SpecError> {
        let routed = self.ivf.and_then(|ivf| ivf.router.width());
        let (token, width) = match (routed, self.scorer) {
            (_, ScorerSpec::Cnn { width }) => ("CNN", width.into()),
            (Some(width), _) => ("router=cnn", width),
            _ => return Ok(()),
        };
        let most = usize::from(WIDTH);
        if let Some(given) =
            [routed.unwrap_or(1), width].into_iter().find(|width| !(1..=most).contains(width))
        {
            return Err(SpecError::Range { token, expected: format!("a width from 1 to {most}"), given });
        }
        if s > CNN_DIM_MAX {
            let expected =
                format!("at most {CNN_DIM_MAX} scored dimensions (a transform ahead reduces them)");
            return Err(SpecError::Range { token, expected, given: s });
        }
        let n_lists = self.ivf.and_then(|ivf| ivf.n_lists).unwrap_or(1);
        let weights = 6 * width + 9 * width * width + width * s * s.next_multiple_of(2);
        let most = CNN_WEIGHTS_MAX / weights.max(1);
        let mean = n.saturating_mul(self.n_copies()).div_ceil(n_lists.max(1));
        if token == "CNN" && mean > CNN_POINTS_MAX {
            return Err(Self::list_too_large(mean));
        }
        if token == "CNN" && n_lists > most {
            let expected = format!(
                "at most {most} lists, each with a network of its own (fewer dimensions or a smaller width allow more)"
            );
            return Err(SpecError::Range { token, expected, given: n_lists });
        }
        Ok(())
    }
}

/// `4·√n` rounded to the nearest power of two, between 1 and `n`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=24")]
fn default_n_lists(n: usize) -> usize {
    let lg = (4.0 * (n as f64).sqrt()).log2().round().clamp(0.0, 24.0);
    (1_usize << lg as u32).min(n).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_fills_and_checks() {
        for sizes in
            [CntSizes { heads: 0, ..Default::default() }, CntSizes { tokens: 65, ..Default::default() }]
        {
            let transform = Some(TransformSpec::Cnt { dims: Some(3), sizes });
            let spec = IndexSpec { transform, ivf: None, scorer: ScorerSpec::Flat, refine: None };
            assert!(matches!(spec.resolve(100, 24), Err(SpecError::Range { token: "CNT", .. })), "{sizes:?}");
        }
        let spec: IndexSpec = "PCA,IVF,RRR,Refine(f16)".parse().unwrap();
        assert_eq!(spec.resolve(60_000, 784).unwrap().to_string(), "PCA128,IVF1024,RRR32,Refine(f16)");
        assert_eq!(spec.resolve(100, 24).unwrap().to_string(), "PCA24,IVF32,RRR16,Refine(f16)");
        for (text, resolved) in
            [("LIN,Flat", "LIN196,Flat"), ("CNT,SQ8", "CNT196,SQ8"), ("SRPx8,Flat", "SRP196x8,Flat")]
        {
            let spec: IndexSpec = text.parse().unwrap();
            assert_eq!(spec.resolve(60_000, 784).unwrap().to_string(), resolved);
        }
        for bad in [
            "PCA25,Flat",
            "CNT25,Flat",
            "IVF101,Flat",
            "IVF10,RRR32",
            "IVF3(soar=3),Flat",
            "IVF1(soar),Flat",
            "PQ25x4",
        ] {
            let spec: IndexSpec = bad.parse().unwrap();
            assert!(matches!(spec.resolve(100, 24), Err(SpecError::Range { .. })), "{bad}");
        }
        assert!("IVF1,RRR".parse::<IndexSpec>().unwrap().resolve(3, 3).is_err());
        let networks = [
            ("IVF100,CNN", 384, None),
            ("IVF1000(router=cnn),SQ8", 513, Some("router=cnn")),
            ("PCA512,IVF1000(router=cnn),SQ8", 513, None),
            ("IVF1000,CNN(width=1)", 513, Some("CNN")),
            ("IVF60,CNN", 512, None),
            ("IVF1000,CNN", 384, Some("CNN")),
            ("IVF100000,CNN(width=1)", 100, None),
        ];
        for (text, d, refused) in networks {
            let found = text.parse::<IndexSpec>().unwrap().resolve(1_000_000, d);
            let token = match found {
                Err(SpecError::Range { token, .. }) => Some(token),
                _ => None,
            };
            assert_eq!(token, refused, "{text} in {d}");
        }
    }
}
