//! Projections and stored rows. Small integers are exact in any order of summing, so results must be equal.

use half::f16;
use rand::RngExt as _;

use super::{assert_survivors, gpus, held, one_list, random, room, row_of, run, slots, values};
use crate::{
    block::{BLOCK, BlockQuery, BlockShape},
    gpu::{
        Buffer, Gpu,
        kernel::{Kernel, Plan, RowKind, Tile},
        layout::{Head, ProjectParams, RerankParams, RowState, ScanParams, narrow},
    },
    spec::{Bits, RowDtype},
    topk::order_key,
};

#[test]
fn projections_of_integers_are_equal() {
    for gpu in gpus() {
        let mut rng = random(6);
        for (n, d, s) in [(1, 1, 1), (3, 17, 5), (16, 40, 64), (65, 33, 70), (70, 129, 17)] {
            let (q_stride, y_stride) = (usize::next_multiple_of(d, 4), usize::next_multiple_of(s, 4));
            let w: Vec<f16> = (0..d * s).map(|_| f16::from_f32(rng.random_range(-9..9) as f32)).collect();
            let queries: Vec<f32> = (0..n * q_stride).map(|_| rng.random_range(-9..9) as f32).collect();
            let want: Vec<f32> = (0..n * y_stride)
                .map(|at| {
                    let (i, j) = (at / y_stride, at % y_stride);
                    let column = (0..d).filter(|_| j < s);
                    column.map(|t| queries[i * q_stride + t] * w[t * s + j].to_f32()).sum()
                })
                .collect();
            let kernels =
                [(Tile::Few, y_stride.div_ceil(16), n), (Tile::Many, y_stride.div_ceil(64), n.div_ceil(64))];
            for (tile, column_tiles, row_tiles) in kernels {
                let params = ProjectParams {
                    grid_width: gpu.grid_width(),
                    n_rows: narrow(n),
                    d: narrow(d),
                    s: narrow(s),
                    q_stride: narrow(q_stride),
                    y_stride: narrow(y_stride),
                    column_tiles: narrow(column_tiles),
                    pad: 0,
                };
                let y = room(&gpu, n * y_stride * 4);
                let bindings = [&held(&gpu, &queries), &held(&gpu, &w), &y];
                run(&gpu, Kernel::Project(tile), &params, &bindings, row_tiles * column_tiles);
                assert_eq!(values::<f32>(&gpu, &y, n * y_stride), want, "{tile:?} {n}×{d}→{s}");
            }
        }
    }
}

#[test]
fn rrr_projections_of_integers_equal_the_reference() {
    for gpu in gpus() {
        for (bits, plan) in [Bits::B8, Bits::B4]
            .into_iter()
            .flat_map(|bits| [(bits, Plan::QueryMajor), (bits, Plan::ClusterMajor)])
        {
            for (s, rank, n) in [(17, 16, 1), (20, 16, 7), (33, 32, 9), (150, 80, 20)] {
                let mut rng = random(7);
                let top = if bits == Bits::B8 { 127 } else { 7 };
                // Columns whose largest component is the top code: their scale is 1.
                let columns: Vec<Vec<f32>> = (0..rank)
                    .map(|_| {
                        let mut c: Vec<f32> = (1..s).map(|_| rng.random_range(-top..=top) as f32).collect();
                        c[0] = top as f32;
                        c
                    })
                    .collect();
                let shape = BlockShape::new(s - 1, bits, false);
                let mut blocks = vec![0; shape.run_bytes(rank / BLOCK)];
                let firsts: Vec<f32> = (0..rank).map(|_| rng.random_range(-9..9) as f32).collect();
                shape.encode(columns.iter().zip(&firsts).map(|(c, f)| (*f, &c[..], 0.0)), &mut blocks);
                let column_bytes = usize::next_multiple_of(8 + s - 1, 64);
                let (first, scale) = (3.0_f32, 0.5_f32);
                let mut record = vec![0; column_bytes];
                record[..4].copy_from_slice(&first.to_le_bytes());
                record[4..8].copy_from_slice(&scale.to_le_bytes());
                for byte in &mut record[8..8 + s - 1] {
                    *byte = rng.random();
                }
                let column0 = record[8..8 + s - 1].to_vec();
                record.extend(&blocks);
                let steps = (s - 1).div_ceil(16);
                let stride = usize::next_multiple_of(s, 4);
                let rows: Vec<Vec<f32>> =
                    (0..n).map(|_| (0..s).map(|_| rng.random_range(-20..20) as f32).collect()).collect();
                let queries: Vec<BlockQuery> = rows
                    .iter()
                    .map(|row| {
                        #[allow(clippy::cast_possible_truncation, reason = "small integers")]
                        let mut codes: Vec<i8> = row[1..].iter().map(|v| *v as i8).collect();
                        let sum = codes.iter().map(|&c| i32::from(c)).sum();
                        codes.resize(steps * 16, 0);
                        BlockQuery { first: row[0], scale: 1.0, sum, codes }
                    })
                    .collect();
                let reduced: Vec<f32> = rows
                    .iter()
                    .flat_map(|row| (0..stride).map(|j| row.get(j).copied().unwrap_or(0.0)))
                    .collect();
                let params = ScanParams {
                    grid_width: gpu.grid_width(),
                    n_lists: 1,
                    n_probe: 1,
                    n_probes: 1,
                    n_slots: narrow(n),
                    max_tiles: 1,
                    tile_points: 1 << 30,
                    page_to: 1,
                    round_to: 1,
                    query_steps: narrow(steps),
                    query_stride: narrow(stride),
                    block_words: narrow(shape.code_bytes() / 4),
                    record_words: narrow(record.len() / 4),
                    column_words: narrow(column_bytes / 4),
                    column_len: narrow(s - 1),
                    rank: narrow(rank),
                    t_stride: narrow(rank + 1),
                    ..Default::default()
                };
                let codes: Vec<i8> = queries.iter().flat_map(|q| q.codes.iter().copied()).collect();
                let heads: Vec<Head> = queries
                    .iter()
                    .map(|q| Head { first: q.first, scale: q.scale, sum: q.sum, norm: 0.0 })
                    .collect();
                let work = n.div_ceil(8);
                let t = room(&gpu, n * (rank + 1) * 4);
                let inputs = [
                    held(&gpu, &record),
                    held(&gpu, &codes),
                    held(&gpu, &heads),
                    held(&gpu, &reduced),
                    held(&gpu, &[[0_u32, 0], [1, 0]]),
                    held(&gpu, &[0, narrow(n), 0, narrow(work)]),
                    held(&gpu, &slots(plan, n)),
                ];
                let mut bindings: Vec<&Buffer> = inputs.iter().collect();
                bindings.push(&t);
                let groups = if plan == Plan::QueryMajor { n } else { work };
                run(&gpu, Kernel::RrrProject(bits, plan), &params, &bindings, groups);
                let t: Vec<f32> = values(&gpu, &t, n * (rank + 1));
                for (i, (row, query)) in rows.iter().zip(&queries).enumerate() {
                    let sum: f32 =
                        column0.iter().zip(&row[1..]).map(|(&a, q)| (f32::from(a) - 128.0) * q).sum();
                    let mut want = vec![first * row[0] + scale * sum];
                    want.extend(
                        (0..rank).map(|j| query.score_reference(shape, &blocks, rank / BLOCK, j, 1.0)),
                    );
                    // The query at row i is in the slot that counts from the other end.
                    let slot = row_of(plan, n, i);
                    let got = &t[slot * (rank + 1)..(slot + 1) * (rank + 1)];
                    assert_eq!(got, want, "{bits:?} {plan:?} s={s} rank={rank}, slot {i}");
                }
            }
        }
    }
}

/// Rows of small integers in a storage.
struct Stored {
    rows: Buffer,
    ranges: Buffer,
    /// Where the scales of rows begin in the ranges; some rows in bytes are twice what their codes say, unless there is but one.
    scales_at: u32,
    /// What they mean, `[n, dim]`.
    values: Vec<f32>,
}

/// `from`: the position of row 0.
fn stored(gpu: &Gpu, dtype: RowDtype, n: usize, dim: usize, from: usize, seed: u64) -> Stored {
    let mut rng = random(seed);
    let codes: Vec<u8> = (0..n * dim).map(|_| rng.random_range(0..9)).collect();
    // sq8: values of 2·code − 7; the others hold the values themselves.
    let mut ranges = vec![0.0_f32; dim.div_ceil(4) * 8];
    for j in 0..dim {
        ranges[j / 4 * 8 + j % 4] = -7.0;
        ranges[j / 4 * 8 + 4 + j % 4] = 2.0;
    }
    let mut values: Vec<f32> = codes.iter().map(|&c| f32::from(c) * 2.0 - 7.0).collect();
    let mut scales_at = 0;
    if dtype == RowDtype::Sq8 && n > 1 {
        scales_at = narrow(ranges.len() / 4);
        let scale = |row: usize| if row.is_multiple_of(3) { 2.0 } else { 1.0 };
        values
            .chunks_exact_mut(dim)
            .enumerate()
            .for_each(|(row, x)| x.iter_mut().for_each(|v| *v *= scale(row)));
        ranges.extend(std::iter::repeat_n(9.0, from).chain((0..n).map(scale)));
        ranges.resize(ranges.len().next_multiple_of(4), 0.0);
    }
    let rows = match dtype {
        RowDtype::F32 => held(gpu, &values),
        RowDtype::F16 => held(gpu, &values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>()),
        RowDtype::Sq8 => held(gpu, &codes),
    };
    Stored { rows, ranges: held(gpu, &ranges), scales_at, values }
}

fn want_key(is_l2: bool, query: &[f32], row: &[f32]) -> u32 {
    let terms = query.iter().zip(row).map(|(q, x)| if is_l2 { (q - x) * (q - x) } else { -q * x });
    order_key(terms.sum())
}

fn kinds() -> impl Iterator<Item = (RowDtype, bool)> {
    [RowDtype::F32, RowDtype::F16, RowDtype::Sq8]
        .into_iter()
        .flat_map(|dtype| [(dtype, true), (dtype, false)])
}

#[test]
fn reranking_of_integers_is_equal() {
    for gpu in gpus() {
        for (dtype, is_l2) in kinds() {
            for (n, dim, n_rows, n_rerank) in
                [(1, 1, 1, 1), (50, 24, 3, 9), (90, 37, 2, 64), (40, 130, 1, 30)]
            {
                // The page lacks the first and the last position, the last candidate is beyond the count.
                let (from, to) = if n > 2 { (1, n - 1) } else { (0, n) };
                let Stored { rows, ranges, scales_at, values: stored } = stored(&gpu, dtype, n, dim, from, 8);
                let mut rng = random(9);
                let width = usize::next_multiple_of(dim, 4);
                let queries: Vec<f32> = (0..n_rows * width)
                    .map(|at| if at % width < dim { rng.random_range(-9..9) as f32 } else { 0.0 })
                    .collect();
                let candidates: Vec<[u32; 2]> =
                    (0..n_rows * n_rerank).map(|_| [5, rng.random_range(0..narrow(n))]).collect();
                let count = (n_rerank - 1).max(1);
                let states = vec![RowState { count: narrow(count), floor: 0 }; n_rows];
                let by_quads = dim % 4 == 0;
                let params = RerankParams {
                    grid_width: gpu.grid_width(),
                    n_rows: narrow(n_rows),
                    stride: narrow(n_rerank),
                    row_groups: narrow(n_rerank.div_ceil(8)),
                    page_from: narrow(from),
                    page_to: narrow(to),
                    row_quads: narrow(dim.div_ceil(4)),
                    query_quads: narrow(width / 4),
                    dim: narrow(dim),
                    scales_at,
                    ..Default::default()
                };
                // The page begins at `from`: the buffer holds everything, so positions are shifted instead.
                let shifted: Vec<[u32; 2]> =
                    candidates.iter().map(|[key, position]| [*key, position + narrow(from)]).collect();
                let params = RerankParams { page_to: params.page_to + narrow(from), ..params };
                let on = held(&gpu, &shifted);
                let kernel = Kernel::Rerank(RowKind { dtype, by_quads, is_l2 });
                let bindings = [&rows, &held(&gpu, &queries), &ranges, &held(&gpu, &states), &on];
                run(&gpu, kernel, &params, &bindings, n_rows * n_rerank.div_ceil(8));
                let got: Vec<[u32; 2]> = values(&gpu, &on, n_rows * n_rerank);
                for (at, [key, position]) in shifted.iter().enumerate() {
                    let row = *position as usize - from;
                    let query = &queries[at / n_rerank * width..][..dim];
                    let inside = at % n_rerank < count && row < to;
                    let want =
                        if inside { want_key(is_l2, query, &stored[row * dim..][..dim]) } else { *key };
                    assert_eq!(got[at], [want, *position], "{dtype:?} l2 {is_l2} {n}×{dim}, candidate {at}");
                }
            }
        }
    }
}

#[test]
fn row_scores_of_integers_are_equal() {
    for gpu in gpus() {
        for (dtype, is_l2) in kinds() {
            // Distances by one plan: every kernel more is compiled once more, which takes software a second.
            let plans = [Plan::QueryMajor, Plan::ClusterMajor];
            for &plan in &plans[..if is_l2 { 1 } else { 2 }] {
                for (n, dim, n_queries) in [(1, 1, 1), (70, 24, 8), (300, 37, 9)] {
                    let Stored { rows, ranges, scales_at, values: stored } =
                        stored(&gpu, dtype, n, dim, 0, 10);
                    let mut rng = random(11);
                    let width = usize::next_multiple_of(dim, 4);
                    let queries: Vec<f32> = (0..n_queries * width)
                        .map(|at| if at % width < dim { rng.random_range(-9..9) as f32 } else { 0.0 })
                        .collect();
                    let (scan, groups, grid) = one_list(&gpu, plan, n, n_queries);
                    let params = ScanParams {
                        query_stride: narrow(width),
                        row_quads: narrow(dim.div_ceil(4)),
                        dim: narrow(dim),
                        scales_at,
                        ..scan
                    };
                    let (candidates, states) = (room(&gpu, n_queries * n * 8), room(&gpu, n_queries * 8));
                    let inputs = [
                        held(&gpu, &queries),
                        held(&gpu, &[[0_u32, 0], [narrow(n), 0]]),
                        held(&gpu, &groups),
                        held(&gpu, &slots(plan, n_queries)),
                    ];
                    let kind = RowKind { dtype, by_quads: dim % 4 == 0, is_l2 };
                    let [queries_on, lists, groups, slots] = &inputs;
                    let bindings = [&rows, queries_on, &ranges, lists, groups, slots, &candidates, &states];
                    run(&gpu, Kernel::RowsScore(kind, plan), &params, &bindings, grid);
                    let states: Vec<RowState> = values(&gpu, &states, n_queries);
                    let found: Vec<[u32; 2]> = values(&gpu, &candidates, n_queries * n);
                    for i in 0..n_queries {
                        let query = &queries[i * width..][..dim];
                        let want = (0..n)
                            .map(|p| [want_key(is_l2, query, &stored[p * dim..][..dim]), narrow(p)])
                            .collect();
                        let context = format!("{dtype:?} {plan:?} l2 {is_l2} {n}×{dim}");
                        assert_survivors((&found, &states), (i, n), want, &context);
                    }
                }
            }
        }
    }
}
