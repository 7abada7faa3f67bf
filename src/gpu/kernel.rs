//! The table of all kernels: the WGSL parts each is joined from, in order, and its bindings.
//!
//! | kernel | owns | twin |
//! |---|---|---|
//! | `transform_project` | a tile of queries × 64 outputs | `stage/transform/linear/cpu.rs` |
//! | `transform_project_few` | 16 outputs of a query | `stage/transform/linear/cpu.rs` |
//! | `transform_project_x8` | 8 queries × 64 outputs | `stage/transform/linear/cpu.rs` |
//! | `transform_layer` | a tile of tokens × 64 outputs | `stage/transform/cnt/cpu.rs` |
//! | `transform_token` | 64 values of compression tokens | `stage/transform/cnt/cpu.rs` |
//! | `transform_attend` | a head of a token | `stage/transform/cnt/cpu.rs` |
//! | `transform_rescale` | a reduced query | `stage/transform/cpu.rs` |
//! | `network_first` | a channel of two positions | `network/conv/cpu.rs` |
//! | `network_convolve` | a tile of positions × 64 channels | `network/conv/cpu.rs` |
//! | `network_dense` | 16 outputs of a slot | `network/conv/cpu.rs` |
//! | `quantise` | 8 rows | `BlockQuery::quantise_reference` |
//! | `router_score` | 8 queries × 64 lists | `stage/router/cpu.rs` |
//! | `router_base` | 64 pairs of a query and a list | `stage/router/cpu.rs` |
//! | `candidates_select` | a row: the best, unordered | `topk.rs` |
//! | `candidates_sort` | a row: in order | `topk.rs` |
//! | `candidates_points`, `candidates_merge` | a candidate: copies of a point to one | `topk.rs` |
//! | `pairs_count`, `pairs_scan`, `pairs_scatter` | (query, list) pairs by list | counted on the host in tests |
//! | `scorer_rrr_project` | 8 pairs of a list × the columns of A | `stage/scorer/rrr/cpu.rs` |
//! | `scorer_run_score` | 8 pairs of a list × 256 points | `stage/scorer/rrr/cpu.rs`, `stage/scorer/cnn/cpu.rs` |
//! | `scorer_pq_tables` | a query | `stage/scorer/pq/mod.rs` |
//! | `scorer_pq_score` | 8 pairs of a list × 256 points | `stage/scorer/pq/cpu.rs` |
//! | `scorer_rows_score` | 8 pairs of a list × 256 points | `stage/scorer/rows.rs` |
//! | `rerank_score` | 8 candidates | `stage/rerank/cpu.rs` |
//! | `probe_*` | what a device can do at most | none |
//!
//! Variants differ by parts that define the same functions: a kernel never names a type or a tier.

use std::fmt;

use super::Tier;
use crate::spec::Bits;

/// What a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A WGSL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub name: &'static str,
    pub text: &'static str,
}

macro_rules! part {
    ($name:literal) => {
        Part { name: $name, text: include_str!(concat!("../../shaders/", $name, ".wgsl")) }
    };
}

const LAYOUT: Part = part!("shared/layout");
const ORDER: Part = part!("shared/order");
const WEIGHTS_F16: Part = part!("shared/weights_f16");
const WEIGHTS_UNPACK: Part = part!("shared/weights_unpack");
const ROWS_F16: Part = part!("shared/rows_f16");
const VALUES_F16: Part = part!("shared/values_f16");
const SUMS_WORKGROUP: Part = part!("shared/sums_workgroup");
const SUMS_SUBGROUP: Part = part!("shared/sums_subgroup");
const TILE: Part = part!("shared/tile");
const HSWISH: Part = part!("shared/hswish");
const BLOCKS: Part = part!("shared/blocks");
const SPAN: Part = part!("shared/span");
const SORT_WORKGROUP: Part = part!("shared/sort_workgroup");
const SURVIVORS: Part = part!("shared/survivors");

/// How many queries a projection is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tile {
    Few,
    Many,
}

/// In which order a round's pairs are worked off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Plan {
    /// One pair a workgroup, as they come.
    QueryMajor,
    /// Pairs grouped by list, eight a workgroup.
    ClusterMajor,
}

/// What the slots are that networks work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slots {
    /// Queries.
    Rows,
    /// Pairs of a query and a list, in the order of a plan.
    Pairs(Plan),
}

/// A layer of a convolutional network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NetworkLayer {
    First,
    Convolve,
    Dense,
}

/// How stored rows are read: type, and whether four values can be read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowKind {
    pub dtype: crate::spec::RowDtype,
    pub by_quads: bool,
    pub is_l2: bool,
}

/// What equal keys of candidates are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tie {
    /// The item itself.
    Item,
    /// The id of the item, which is a position.
    Id,
}

/// How many candidates a row are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SortSize {
    /// Up to 128, in workgroup memory.
    Small,
    /// Up to [`SORT_MAX`], in workgroup memory.
    Large,
    /// Any number, where they lie.
    Storage,
}

impl SortSize {
    /// The size for `len` candidates.
    pub fn of(len: usize) -> Self {
        match len {
            0..=128 => Self::Small,
            129..=SORT_MAX => Self::Large,
            _ => Self::Storage,
        }
    }
}

/// A kernel and its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    Project(Tile),
    ProjectInt8,
    Layer,
    Token,
    Attend,
    Rescale,
    Network(NetworkLayer, Slots),
    Quantise,
    Router,
    Base,
    Select(Tie),
    Sort(Tie, SortSize),
    Points,
    Merge,
    PairsCount,
    PairsScan,
    PairsScatter,
    RrrProject(Bits, Plan),
    RunScore(Bits, Plan),
    PqTables,
    PqScore(Bits, Plan),
    RowsScore(RowKind, Plan),
    Rerank(RowKind),
    Probe(Probe),
}

/// What a probe measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Probe {
    Copy,
    Dot4,
    Fma,
}

/// Candidates that `candidates_sort` holds in workgroup memory: 8 KiB of the floor's 16.
pub(crate) const SORT_MAX: usize = 1024;
/// Pairs that share a workgroup in the cluster-major plan, and queries of a tile elsewhere.
pub(crate) const QUERIES: usize = 8;
/// Points of a unit of work: four rounds of 64 share the loading of a tile of queries.
pub(crate) const TILE_POINTS: usize = 256;

impl Kernel {
    /// Every kernel in every variant.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        use crate::spec::RowDtype::{F16, F32, Sq8};
        let mut all = vec![
            Self::Project(Tile::Few),
            Self::Project(Tile::Many),
            Self::ProjectInt8,
            Self::Layer,
            Self::Token,
            Self::Attend,
            Self::Rescale,
            Self::Quantise,
            Self::Router,
            Self::Base,
            Self::Points,
            Self::Merge,
            Self::PairsCount,
            Self::PairsScan,
            Self::PairsScatter,
            Self::PqTables,
            Self::Probe(Probe::Copy),
            Self::Probe(Probe::Dot4),
            Self::Probe(Probe::Fma),
        ];
        for tie in [Tie::Item, Tie::Id] {
            all.push(Self::Select(tie));
            all.extend(
                [SortSize::Small, SortSize::Large, SortSize::Storage].map(|size| Self::Sort(tie, size)),
            );
        }
        let kinds =
            [F32, F16, Sq8].into_iter().flat_map(|dtype| {
                [(true, true), (true, false), (false, true), (false, false)]
                    .map(|(by_quads, is_l2)| RowKind { dtype, by_quads, is_l2 })
            });
        for plan in [Plan::QueryMajor, Plan::ClusterMajor] {
            for bits in [Bits::B8, Bits::B4] {
                all.extend([
                    Self::RrrProject(bits, plan),
                    Self::RunScore(bits, plan),
                    Self::PqScore(bits, plan),
                ]);
            }
            all.extend(kinds.clone().map(|kind| Self::RowsScore(kind, plan)));
        }
        all.extend(kinds.map(Self::Rerank));
        for slots in [Slots::Rows, Slots::Pairs(Plan::QueryMajor), Slots::Pairs(Plan::ClusterMajor)] {
            let layers = [NetworkLayer::First, NetworkLayer::Convolve, NetworkLayer::Dense];
            all.extend(layers.map(|layer| Self::Network(layer, slots)));
        }
        all
    }

    /// Its file, which is also its entry point.
    pub fn name(self) -> &'static str {
        match self {
            Self::Project(Tile::Few) => "transform_project_few",
            Self::Project(Tile::Many) => "transform_project",
            Self::ProjectInt8 => "transform_project_x8",
            Self::Layer => "transform_layer",
            Self::Token => "transform_token",
            Self::Attend => "transform_attend",
            Self::Rescale => "transform_rescale",
            Self::Network(NetworkLayer::First, _) => "network_first",
            Self::Network(NetworkLayer::Convolve, _) => "network_convolve",
            Self::Network(NetworkLayer::Dense, _) => "network_dense",
            Self::Quantise => "quantise",
            Self::Router => "router_score",
            Self::Base => "router_base",
            Self::Select(_) => "candidates_select",
            Self::Sort(..) => "candidates_sort",
            Self::Points => "candidates_points",
            Self::Merge => "candidates_merge",
            Self::PairsCount => "pairs_count",
            Self::PairsScan => "pairs_scan",
            Self::PairsScatter => "pairs_scatter",
            Self::RrrProject(..) => "scorer_rrr_project",
            Self::RunScore(..) => "scorer_run_score",
            Self::PqTables => "scorer_pq_tables",
            Self::PqScore(..) => "scorer_pq_score",
            Self::RowsScore(..) => "scorer_rows_score",
            Self::Rerank(_) => "rerank_score",
            Self::Probe(Probe::Copy) => "probe_copy",
            Self::Probe(Probe::Dot4) => "probe_dot4",
            Self::Probe(Probe::Fma) => "probe_fma",
        }
    }

    /// Its bindings after `params`, in order.
    pub fn bindings(self) -> &'static [Access] {
        use Access::{Read, Write};
        match self {
            Self::Project(_) => &[Read, Read, Write],
            Self::ProjectInt8 => &[Read, Read, Read, Write],
            Self::Layer => &[Read, Read, Read, Write],
            Self::Token | Self::Rescale => &[Read, Write],
            Self::Attend => &[Read, Read, Write],
            Self::Network(NetworkLayer::First | NetworkLayer::Convolve, _) => {
                &[Read, Read, Read, Read, Read, Write]
            }
            Self::Network(NetworkLayer::Dense, _) => &[Read, Read, Read, Read, Read, Read, Write],
            Self::Quantise => &[Read, Write, Write],
            Self::Router => &[Read, Read, Read, Read, Write, Write],
            Self::Base => &[Read, Read, Read, Write],
            Self::Select(_) => &[Write, Write, Read],
            Self::Sort(..) => &[Write, Read, Read, Read, Write],
            Self::Points => &[Write, Read, Read],
            Self::Merge => &[Read, Write, Write],
            Self::PairsCount => &[Read, Write, Write],
            Self::PairsScan => &[Read, Read, Write, Write],
            Self::PairsScatter => &[Read, Read, Read, Write],
            Self::RrrProject(..) => &[Read, Read, Read, Read, Read, Read, Read, Write],
            Self::PqTables => &[Read, Read, Write, Write, Write],
            Self::RunScore(..) | Self::PqScore(..) | Self::RowsScore(..) => {
                &[Read, Read, Read, Read, Read, Read, Write, Write]
            }
            Self::Rerank(_) => &[Read, Read, Read, Read, Write],
            Self::Probe(Probe::Copy) => &[Read, Write],
            Self::Probe(_) => &[Write],
        }
    }

    /// Its parts, in order, for devices of a tier.
    pub fn parts(self, tier: Tier) -> Vec<Part> {
        let has_f16 = tier >= Tier::SubgroupsF16;
        let weights = if has_f16 { WEIGHTS_F16 } else { WEIGHTS_UNPACK };
        let sums = if tier >= Tier::Subgroups { SUMS_SUBGROUP } else { SUMS_WORKGROUP };
        let mut parts = vec![LAYOUT];
        match self {
            Self::Project(Tile::Few) => parts.extend([weights, part!("transform_project_few")]),
            Self::Project(Tile::Many) => parts.extend([weights, TILE, part!("transform_project")]),
            Self::Layer => parts.extend([weights, TILE, HSWISH, part!("transform_layer")]),
            Self::Token => parts.extend([HSWISH, part!("transform_token")]),
            Self::Attend => parts.push(part!("transform_attend")),
            Self::Rescale => parts.push(part!("transform_rescale")),
            Self::Network(layer, slots) => {
                parts.extend([weights, slots_of(slots)]);
                match layer {
                    NetworkLayer::First => parts.push(part!("network_first")),
                    NetworkLayer::Convolve => parts.extend([TILE, part!("network_convolve")]),
                    NetworkLayer::Dense => parts.push(part!("network_dense")),
                }
            }
            Self::ProjectInt8 => parts.extend([codes(Bits::B8), BLOCKS, part!("transform_project_x8")]),
            Self::Quantise => parts.push(part!("quantise")),
            Self::Router => parts.extend([ORDER, codes(Bits::B8), BLOCKS, part!("router_score")]),
            Self::Base => parts.extend([ORDER, codes(Bits::B8), BLOCKS, part!("router_base")]),
            Self::Select(tie) => parts.extend([ORDER, sums, tied(tie), part!("candidates_select")]),
            Self::Sort(tie, size) => {
                parts.extend([ORDER, tied(tie)]);
                match size {
                    SortSize::Small => parts.extend([part!("shared/sort_small"), SORT_WORKGROUP]),
                    SortSize::Large => parts.extend([part!("shared/sort_large"), SORT_WORKGROUP]),
                    SortSize::Storage => parts.push(part!("shared/sort_storage")),
                }
                parts.push(part!("candidates_sort"));
            }
            Self::Points => parts.push(part!("candidates_points")),
            Self::Merge => parts.extend([ORDER, part!("candidates_merge")]),
            Self::PairsCount => parts.push(part!("pairs_count")),
            Self::PairsScan => parts.extend([sums, SPAN, part!("pairs_scan")]),
            Self::PairsScatter => parts.push(part!("pairs_scatter")),
            Self::RrrProject(bits, plan) => {
                parts.extend(work(plan));
                parts.extend([codes(bits), BLOCKS, part!("scorer_rrr_project")]);
            }
            Self::RunScore(bits, plan) => {
                parts.extend(work(plan));
                parts.extend([ORDER, codes(bits), BLOCKS, SURVIVORS, part!("scorer_run_score")]);
            }
            Self::PqTables => parts.extend([ORDER, part!("scorer_pq_tables")]),
            Self::PqScore(bits, plan) => {
                let words = match bits {
                    Bits::B4 => part!("shared/words_x4"),
                    Bits::B8 => part!("shared/words_x8"),
                };
                parts.extend(work(plan));
                parts.extend([ORDER, words, SURVIVORS, part!("scorer_pq_score")]);
            }
            Self::RowsScore(kind, plan) => {
                parts.extend(work(plan));
                parts.extend([ORDER, SURVIVORS]);
                parts.extend(rows(kind, has_f16));
                parts.push(part!("scorer_rows_score"));
            }
            Self::Rerank(kind) => {
                parts.push(ORDER);
                parts.extend(rows(kind, has_f16));
                parts.push(part!("rerank_score"));
            }
            Self::Probe(Probe::Copy) => parts.push(part!("probe_copy")),
            Self::Probe(Probe::Dot4) => parts.push(part!("probe_dot4")),
            Self::Probe(Probe::Fma) => parts.push(part!("probe_fma")),
        }
        parts
    }

    /// Whether its arithmetic is other than `dot4I8Packed`.
    pub fn is_float(self) -> bool {
        !matches!(
            self,
            Self::ProjectInt8
                | Self::Router
                | Self::Base
                | Self::RrrProject(..)
                | Self::RunScore(..)
                | Self::Probe(Probe::Dot4)
        )
    }

    /// The whole text, for devices of a tier.
    pub fn source(self, tier: Tier) -> String {
        let parts = self.parts(tier);
        let mut text = String::new();
        if parts.iter().any(|part| [WEIGHTS_F16, ROWS_F16, VALUES_F16].contains(part)) {
            text.push_str("enable f16;\n\n");
        }
        for part in parts {
            text.push_str(part.text);
            text.push('\n');
        }
        text
    }
}

fn codes(bits: Bits) -> Part {
    match bits {
        Bits::B8 => part!("shared/codes_x8"),
        Bits::B4 => part!("shared/codes_x4"),
    }
}

fn tied(tie: Tie) -> Part {
    match tie {
        Tie::Item => part!("shared/tie_item"),
        Tie::Id => part!("shared/tie_id"),
    }
}

fn slots_of(slots: Slots) -> Part {
    match slots {
        Slots::Rows => part!("shared/slots_rows"),
        Slots::Pairs(Plan::QueryMajor) => part!("shared/slots_pairs"),
        Slots::Pairs(Plan::ClusterMajor) => part!("shared/slots_lists"),
    }
}

/// What a workgroup works on, of which slots.
fn work(plan: Plan) -> [Part; 3] {
    let work = match plan {
        Plan::QueryMajor => part!("shared/work_pairs"),
        Plan::ClusterMajor => part!("shared/work_lists"),
    };
    [SPAN, slots_of(Slots::Pairs(plan)), work]
}

fn rows(kind: RowKind, has_f16: bool) -> Vec<Part> {
    use crate::spec::RowDtype::{F16, F32, Sq8};
    let metric = if kind.is_l2 { part!("shared/metric_l2") } else { part!("shared/metric_ip") };
    if kind.by_quads {
        let rows = match (kind.dtype, has_f16) {
            (F32, _) => part!("shared/rows_f32"),
            (F16, true) => ROWS_F16,
            (F16, false) => part!("shared/rows_f16_unpack"),
            (Sq8, _) => part!("shared/rows_sq8"),
        };
        return vec![rows, metric];
    }
    let values = match (kind.dtype, has_f16) {
        (F32, _) => part!("shared/values_f32"),
        (F16, true) => VALUES_F16,
        (F16, false) => part!("shared/values_f16_unpack"),
        (Sq8, _) => part!("shared/values_sq8"),
    };
    vec![values, part!("shared/rows_any"), metric]
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let variable: &[&str] = match self {
            Self::Network(..) => &["slots"],
            _ => &["rows", "values", "metric", "codes", "words", "work", "tie", "sort"],
        };
        let variant: Vec<&str> = self
            .parts(Tier::SubgroupsF16)
            .iter()
            .filter_map(|part| part.name.strip_prefix("shared/"))
            .filter(|name| variable.iter().any(|p| name.starts_with(p)))
            .collect();
        if variant.is_empty() { Ok(()) } else { write!(f, "[{}]", variant.join(",")) }
    }
}
