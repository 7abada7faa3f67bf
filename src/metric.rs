//! Similarity between a query and a point.
//!
//! Users meet inner products (larger is better) and squared distances (smaller is better). Inside
//! the crate there is one direction only: an *internal score* where **smaller is better**, which is
//! `-⟨q, x⟩` for [`Metric::Ip`] and [`Metric::Cosine`] and `‖q − x‖²` for [`Metric::L2`]. Values are
//! turned back in one place, [`Metric::public_score`].

use std::{fmt, str::FromStr};

/// How similarity is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Inner product; larger is better.
    Ip,
    /// Inner product of rows and queries scaled to unit length; larger is better. Zero rows and zero queries stay zero, so their
    /// product with everything is 0.
    Cosine,
    /// Squared Euclidean distance; smaller is better.
    L2,
}

impl Metric {
    /// The names accepted by [`FromStr`], in order of declaration.
    pub const NAMES: [&'static str; 3] = ["ip", "cosine", "l2"];

    /// Whether rows and queries are scaled to unit length first.
    #[must_use]
    pub fn normalises(self) -> bool {
        self == Self::Cosine
    }

    /// Whether the internal score is a distance rather than a negated product.
    pub(crate) fn is_l2(self) -> bool {
        self == Self::L2
    }

    /// Factor on `⟨q, x⟩` in the internal score: `‖x‖² − 2⟨q, x⟩` for l2, `−⟨q, x⟩` otherwise.
    pub(crate) fn product_factor(self) -> f32 {
        if self.is_l2() { -2.0 } else { -1.0 }
    }

    /// The user's score from the internal one (`smaller is better`).
    #[must_use]
    pub fn public_score(self, internal: f32) -> f32 {
        // Not `-internal`: a product of nothing is 0, not −0.
        if self.is_l2() { internal } else { 0.0 - internal }
    }

    /// The score that stands where no neighbour was found: the worst there is.
    #[must_use]
    pub fn worst_score(self) -> f32 {
        self.public_score(f32::INFINITY)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => Self::NAMES[0],
            Self::Cosine => Self::NAMES[1],
            Self::L2 => Self::NAMES[2],
        })
    }
}

/// A metric name that is not one of [`Metric::NAMES`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown metric `{given}`, expected ip, cosine or l2")]
pub struct MetricError {
    /// What was given.
    pub given: String,
}

impl FromStr for Metric {
    type Err = MetricError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "ip" => Ok(Self::Ip),
            "cosine" => Ok(Self::Cosine),
            "l2" => Ok(Self::L2),
            _ => Err(MetricError { given: s.to_owned() }),
        }
    }
}
