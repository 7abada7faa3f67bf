//! Index specifications: one line that names every stage.
//!
//! In the manner of FAISS's `index_factory`, commas separate the stages and their order is the order
//! of the pipeline:
//!
//! ```text
//! [Transform,] [IVF<n_lists>,] Scorer [,Refine(dtype)]
//!
//! Transform   PCA<s>                       reduce to s dimensions
//! IVF         IVF<n_lists>                 partition into n_lists lists by k-means
//! Scorer      RRR<rank>[x<bits>[x<bits>]]  reduced-rank regression; bits of A, bits of B: 8 or 4
//!             SQ8                          one byte a dimension
//!             Flat                         full vectors
//! Refine      Refine(f32|f16|sq8)          exact scores of the best candidates on stored rows
//! ```
//!
//! A number left out of `PCA`, `IVF` or `RRR` is chosen from the data: see
//! [`IndexSpec::resolve`]. [`Display`](fmt::Display) prints the canonical form, which
//! [`FromStr`] reads back to an equal value.

use std::{fmt, str::FromStr};

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
    /// Principal axes of the training queries' uncentred second moment.
    Pca {
        /// Dimensions kept, `s`; `None` chooses from `d`.
        dims: Option<usize>,
    },
}

/// A partition into lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IvfSpec {
    /// Number of lists; `None` chooses from `n`.
    pub n_lists: Option<usize>,
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

const STAGES: &str = "PCA<s>, IVF<n_lists>, RRR<rank>, SQ8, Flat, Refine(f32|f16|sq8)";

/// A specification that cannot be read, or that does not fit the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The text names no stage that may stand there.
    #[error("spec token `{token}`: expected {expected}")]
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

fn token_error(token: &str, expected: impl Into<String>) -> SpecError {
    SpecError::Token { token: token.to_owned(), expected: expected.into() }
}

/// The number that follows a stage's name: none, or decimal digits of a value in `1..=max`.
fn number(token: &str, digits: &str, max: usize) -> Result<Option<usize>, SpecError> {
    if digits.is_empty() {
        return Ok(None);
    }
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    match digits.parse::<usize>() {
        Ok(v) if plain && v <= max => Ok(Some(v)),
        _ => Err(token_error(token, format!("a number from 1 to {max} after its name, or none"))),
    }
}

impl FromStr for Bits {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "4" => Ok(Self::B4),
            "8" => Ok(Self::B8),
            _ => Err(()),
        }
    }
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

fn rrr(token: &str, rest: &str) -> Result<ScorerSpec, SpecError> {
    let mut parts = rest.split('x');
    let rank = number(token, parts.next().unwrap_or_default(), RANK_MAX)?;
    if rank.is_some_and(|r| r % RANK_STEP != 0) {
        return Err(token_error(
            token,
            format!("a rank that is a multiple of {RANK_STEP}, up to {RANK_MAX}"),
        ));
    }
    let mut bits = [Bits::B8; 2];
    let given: Vec<&str> = parts.collect();
    if given.len() > 2 {
        return Err(token_error(token, "RRR<rank>, RRR<rank>x<bits> or RRR<rank>x<bits of A>x<bits of B>"));
    }
    for (i, part) in given.iter().enumerate() {
        bits[i] = part.parse().map_err(|()| token_error(token, "4 or 8 bits after `x`"))?;
        if i == 0 {
            bits[1] = bits[0];
        }
    }
    Ok(ScorerSpec::Rrr { rank, a_bits: bits[0], b_bits: bits[1] })
}

fn scorer(token: &str) -> Result<Option<ScorerSpec>, SpecError> {
    Ok(match token {
        "Flat" => Some(ScorerSpec::Flat),
        "SQ8" => Some(ScorerSpec::Sq8),
        _ => match token.strip_prefix("RRR") {
            Some(rest) => Some(rrr(token, rest)?),
            None => None,
        },
    })
}

impl FromStr for IndexSpec {
    type Err = SpecError;

    fn from_str(s: &str) -> Result<Self, SpecError> {
        let mut tokens = s.split(',').map(str::trim).peekable();
        let mut transform = None;
        if let Some(digits) = tokens.peek().and_then(|t| t.strip_prefix("PCA")) {
            let token = tokens.next().unwrap_or_default();
            transform = Some(TransformSpec::Pca { dims: number(token, digits, DIM_MAX)? });
        }
        let mut ivf = None;
        if let Some(digits) = tokens.peek().and_then(|t| t.strip_prefix("IVF")) {
            let token = tokens.next().unwrap_or_default();
            ivf = Some(IvfSpec { n_lists: number(token, digits, N_LISTS_MAX)? });
        }
        let token = tokens.next().unwrap_or_default();
        let place = match (transform, ivf) {
            (None, None) => STAGES,
            (Some(_), None) => "IVF<n_lists> or a scorer (RRR<rank>, SQ8, Flat) next",
            _ => "a scorer next: RRR<rank>, SQ8 or Flat",
        };
        let scorer = scorer(token)?.ok_or_else(|| token_error(token, place))?;
        if ivf.is_none() && matches!(scorer, ScorerSpec::Rrr { .. }) {
            return Err(token_error(token, "IVF<n_lists> before it: regressions are made list by list"));
        }
        let mut refine = None;
        if let Some(token) = tokens.next() {
            refine = Some(match token {
                "Refine(f32)" => RowDtype::F32,
                "Refine(f16)" => RowDtype::F16,
                "Refine(sq8)" => RowDtype::Sq8,
                _ => return Err(token_error(token, "Refine(f32), Refine(f16) or Refine(sq8), or the end")),
            });
            if scorer == ScorerSpec::Flat && transform.is_none() {
                return Err(token_error(
                    token,
                    "nothing after Flat: without a transform its scores are exact",
                ));
            }
        }
        if let Some(token) = tokens.next() {
            return Err(token_error(token, "nothing more after Refine"));
        }
        Ok(Self { transform, ivf, scorer, refine })
    }
}

fn write_number(f: &mut fmt::Formatter<'_>, name: &str, number: Option<usize>) -> fmt::Result {
    match number {
        Some(v) => write!(f, "{name}{v}"),
        None => f.write_str(name),
    }
}

impl fmt::Display for RowDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Sq8 => "sq8",
        })
    }
}

impl fmt::Display for ScorerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flat => f.write_str("Flat"),
            Self::Sq8 => f.write_str("SQ8"),
            Self::Rrr { rank, a_bits, b_bits } => {
                write_number(f, "RRR", rank)?;
                match (a_bits, b_bits) {
                    (Bits::B8, Bits::B8) => Ok(()),
                    (a, b) if a == b => write!(f, "x{}", a.count()),
                    (a, b) => write!(f, "x{}x{}", a.count(), b.count()),
                }
            }
        }
    }
}

impl fmt::Display for IndexSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(TransformSpec::Pca { dims }) = self.transform {
            write_number(f, "PCA", dims)?;
            f.write_str(",")?;
        }
        if let Some(ivf) = self.ivf {
            write_number(f, "IVF", ivf.n_lists)?;
            f.write_str(",")?;
        }
        write!(f, "{}", self.scorer)?;
        match self.refine {
            Some(dtype) => write!(f, ",Refine({dtype})"),
            None => Ok(()),
        }
    }
}

impl IndexSpec {
    /// Fills in every number left out and checks all of them against `n` points of `d` dimensions.
    ///
    /// - `PCA`: `d` below 200 dimensions, 128 up to 1 000, 256 above.
    /// - `IVF`: `4·√n` rounded to a power of two, at most `n`.
    /// - `RRR`: rank 32, or the largest multiple of 16 that the scored dimensions hold;
    ///   below 16 dimensions there is none.
    ///
    /// # Errors
    /// [`SpecError::Range`] where a number is larger than the data allows.
    pub fn resolve(&self, n: usize, d: usize) -> Result<Self, SpecError> {
        let mut spec = *self;
        let mut s = d;
        if let Some(TransformSpec::Pca { dims }) = &mut spec.transform {
            s = dims.unwrap_or(if d < 200 {
                d
            } else if d <= 1000 {
                128
            } else {
                256
            });
            if s > d {
                return Err(SpecError::Range {
                    token: "PCA",
                    expected: format!("at most the vectors' {d} dimensions"),
                    given: s,
                });
            }
            *dims = Some(s);
        }
        if let Some(IvfSpec { n_lists }) = &mut spec.ivf {
            let l = n_lists.unwrap_or_else(|| default_n_lists(n));
            if l > n {
                return Err(SpecError::Range {
                    token: "IVF",
                    expected: format!("at most one list a point, {n}"),
                    given: l,
                });
            }
            *n_lists = Some(l);
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

/// `4·√n` rounded to the nearest power of two, between 1 and `n`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=24")]
fn default_n_lists(n: usize) -> usize {
    let lg = (4.0 * (n as f64).sqrt()).log2().round().clamp(0.0, 24.0);
    (1_usize << lg as u32).min(n).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits() -> impl Strategy<Value = Bits> {
        prop_oneof![Just(Bits::B4), Just(Bits::B8)]
    }

    fn specs() -> impl Strategy<Value = IndexSpec> {
        let scorer = prop_oneof![
            Just(ScorerSpec::Flat),
            Just(ScorerSpec::Sq8),
            (proptest::option::of(1..=RANK_MAX / RANK_STEP), bits(), bits()).prop_map(
                |(r, a_bits, b_bits)| { ScorerSpec::Rrr { rank: r.map(|r| r * RANK_STEP), a_bits, b_bits } }
            ),
        ];
        let refine = prop_oneof![Just(RowDtype::F32), Just(RowDtype::F16), Just(RowDtype::Sq8)];
        (
            proptest::option::of(proptest::option::of(1..=DIM_MAX)),
            proptest::option::of(proptest::option::of(1..=N_LISTS_MAX)),
            scorer,
            proptest::option::of(refine),
        )
            .prop_map(|(pca, ivf, scorer, refine)| IndexSpec {
                transform: pca.map(|dims| TransformSpec::Pca { dims }),
                ivf: ivf.map(|n_lists| IvfSpec { n_lists }),
                scorer,
                refine,
            })
            .prop_filter("regressions need lists", |s| {
                s.ivf.is_some() || !matches!(s.scorer, ScorerSpec::Rrr { .. })
            })
            .prop_filter("exact needs no refine", |s| {
                s.refine.is_none() || s.transform.is_some() || s.scorer != ScorerSpec::Flat
            })
    }

    proptest! {
        #[test]
        fn display_and_parse_agree(spec in specs()) {
            prop_assert_eq!(spec.to_string().parse::<IndexSpec>().unwrap(), spec);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(spec) = text.parse::<IndexSpec>() {
                prop_assert_eq!(spec.to_string().parse::<IndexSpec>().unwrap(), spec);
            }
        }
    }

    #[test]
    fn errors_name_the_token() {
        for (text, token) in [
            ("", ""),
            ("PCA0,Flat", "PCA0"),
            ("IVF1024", ""),
            ("IVF10,RRR20", "RRR20"),
            ("IVF10,RRR32x5", "RRR32x5"),
            ("IVF10,RRR32x4x8x4", "RRR32x4x8x4"),
            ("RRR32", "RRR32"),
            ("IVF10,Flat,Refine(f64)", "Refine(f64)"),
            ("IVF10,Flat,Refine(f32)", "Refine(f32)"),
            ("IVF10,SQ8,Refine(f32),Flat", "Flat"),
            ("IVF99999999999999999999,Flat", "IVF99999999999999999999"),
            ("PCA+5,Flat", "PCA+5"),
            ("ivf10,Flat", "ivf10"),
        ] {
            match text.parse::<IndexSpec>() {
                Err(SpecError::Token { token: t, .. }) => assert_eq!(t, token, "in {text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn resolve_fills_and_checks() {
        let spec: IndexSpec = "PCA,IVF,RRR,Refine(f16)".parse().unwrap();
        assert_eq!(spec.resolve(60_000, 784).unwrap().to_string(), "PCA128,IVF1024,RRR32,Refine(f16)");
        assert_eq!(spec.resolve(100, 24).unwrap().to_string(), "PCA24,IVF32,RRR16,Refine(f16)");
        for bad in ["PCA25,Flat", "IVF101,Flat", "IVF10,RRR32"] {
            let spec: IndexSpec = bad.parse().unwrap();
            assert!(matches!(spec.resolve(100, 24), Err(SpecError::Range { .. })), "{bad}");
        }
        assert!("IVF1,RRR".parse::<IndexSpec>().unwrap().resolve(3, 3).is_err());
    }
}
