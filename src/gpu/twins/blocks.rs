//! Quantised queries and the products of blocks: bit for bit.

use rand::RngExt as _;

use super::{assert_survivors, gpus, held, one_list, random, room, row_of, run, slots, values};
use crate::{
    block::{BLOCK, BlockQuery, BlockShape},
    gpu::{
        Buffer,
        kernel::{Kernel, Plan},
        layout::{AxesParams, Head, QuantiseParams, RouterParams, RowState, ScanParams, narrow},
    },
    spec::Bits,
    topk::order_key,
};

#[test]
fn quantise_equals_its_reference() {
    for gpu in gpus() {
        let mut rng = random(1);
        for (n, len) in [(1, 1), (1, 2), (7, 16), (8, 17), (9, 18), (65, 33), (3, 129), (2, 500)] {
            let mut rows: Vec<f32> = (0..n * len).map(|_| rng.random_range(-3.0..3.0)).collect();
            // A row of zeros, and one too small to have a scale.
            rows[..len].fill(0.0);
            if n > 2 {
                rows[len..2 * len].fill(1e-39);
            }
            let steps = (len - 1).div_ceil(16);
            let params = QuantiseParams {
                grid_width: gpu.grid_width(),
                n_rows: narrow(n),
                len: narrow(len),
                row_stride: narrow(len),
                steps: narrow(steps),
                ..Default::default()
            };
            let (codes, heads) = (room(&gpu, n * steps * 16), room(&gpu, n * 16));
            run(&gpu, Kernel::Quantise, &params, &[&held(&gpu, &rows), &codes, &heads], n.div_ceil(8));
            let codes: Vec<i8> = values(&gpu, &codes, n * steps * 16);
            let heads: Vec<Head> = values(&gpu, &heads, n);
            for (i, row) in rows.chunks(len).enumerate() {
                let want = BlockQuery::quantise_reference(row[0], &row[1..], steps * 16);
                assert_eq!(codes[i * steps * 16..(i + 1) * steps * 16], want.codes, "{n}×{len} row {i}");
                assert_eq!((heads[i].first, heads[i].sum), (want.first, want.sum));
                // WGSL lets a division be off by 2.5 ulp, and numbers below the smallest normal one be taken for 0.
                let off = (heads[i].scale - want.scale).abs();
                assert!(
                    off <= 3.0 * f32::EPSILON * want.scale + f32::MIN_POSITIVE,
                    "{} {}",
                    heads[i].scale,
                    want.scale
                );
            }
        }
    }
}

/// Vectors of small integers whose largest is the top code, so that the scale is 1, and queries likewise.
struct Integers {
    shape: BlockShape,
    run: Vec<u8>,
    queries: Vec<BlockQuery>,
    n: usize,
}

impl Integers {
    fn new(seed: u64, n: usize, components: usize, bits: Bits, has_norm: bool, n_queries: usize) -> Self {
        let mut rng = random(seed);
        let top = if bits == Bits::B8 { 127 } else { 7 };
        let shape = BlockShape::new(components, bits, has_norm);
        let vectors: Vec<Vec<f32>> = (0..n)
            .map(|_| {
                let mut v: Vec<f32> = (0..components).map(|_| rng.random_range(-top..=top) as f32).collect();
                if let Some(first) = v.first_mut() {
                    *first = top as f32;
                }
                v
            })
            .collect();
        let mut run = vec![0; shape.run_bytes(n.div_ceil(BLOCK))];
        let heads: Vec<(f32, f32)> =
            (0..n).map(|_| (rng.random_range(-9..9) as f32, rng.random_range(0..99) as f32)).collect();
        let rows = vectors.iter().zip(&heads).map(|(v, h)| (h.0, &v[..], if has_norm { h.1 } else { 0.0 }));
        shape.encode(rows.collect::<Vec<_>>().into_iter(), &mut run);
        let queries = (0..n_queries)
            .map(|_| {
                let mut codes: Vec<i8> = (0..components).map(|_| rng.random_range(-20..20)).collect();
                let sum = codes.iter().map(|&c| i32::from(c)).sum();
                codes.resize(components.div_ceil(16) * 16, 0);
                BlockQuery { first: rng.random_range(-5..5) as f32, scale: 1.0, sum, codes }
            })
            .collect();
        Self { shape, run, queries, n }
    }

    fn codes(&self) -> Vec<i8> {
        self.queries.iter().flat_map(|q| q.codes.iter().copied()).collect()
    }

    fn heads(&self) -> Vec<Head> {
        self.queries.iter().map(|q| Head { first: q.first, scale: q.scale, sum: q.sum, norm: 0.0 }).collect()
    }

    fn want(&self, query: usize, vector: usize, factor: f32) -> f32 {
        let n_blocks = self.n.div_ceil(BLOCK);
        self.queries[query].score_reference(self.shape, &self.run, n_blocks, vector, factor)
    }
}

#[test]
fn router_scores_of_integers_equal_the_reference() {
    for gpu in gpus() {
        for (n, components, n_queries) in [(1, 3, 1), (16, 16, 8), (65, 17, 9), (130, 200, 20)] {
            let data = Integers::new(2, n, components, Bits::B8, true, n_queries);
            let params = RouterParams {
                grid_width: gpu.grid_width(),
                n_rows: narrow(n_queries),
                n_lists: narrow(n),
                list_tiles: narrow(n.div_ceil(64)),
                query_steps: narrow(components.div_ceil(16)),
                block_words: narrow(data.shape.code_bytes() / 4),
                firsts_at: narrow(data.shape.heads(n.div_ceil(BLOCK))[0] / 4),
                n_places: narrow(n.div_ceil(BLOCK) * BLOCK),
                has_norm: 1,
                factor: -2.0,
                ..Default::default()
            };
            // List 0 is empty.
            let lists: Vec<[u32; 2]> = (0..=n).map(|list| [narrow(list.saturating_sub(1)), 0]).collect();
            let (candidates, states) = (room(&gpu, n_queries * n * 8), room(&gpu, n_queries * 8));
            let inputs = [
                held(&gpu, &data.run),
                held(&gpu, &data.codes()),
                held(&gpu, &data.heads()),
                held(&gpu, &lists),
            ];
            let bindings = [&inputs[0], &inputs[1], &inputs[2], &inputs[3], &candidates, &states];
            run(&gpu, Kernel::Router, &params, &bindings, n_queries.div_ceil(8) * n.div_ceil(64));
            let found: Vec<[u32; 2]> = values(&gpu, &candidates, n_queries * n);
            for (i, [key, list]) in found.into_iter().enumerate() {
                let (query, want_list) = (i / n, i % n);
                let want =
                    if want_list == 0 { u32::MAX } else { order_key(data.want(query, want_list, -2.0)) };
                assert_eq!((key, list as usize), (want, want_list), "{n} lists, {components} components");
            }
            assert!(values::<RowState>(&gpu, &states, n_queries).iter().all(|s| s.count == narrow(n)));

            // Some lists of each query, for which the scores of these vectors are wanted.
            let n_probe = n.min(5);
            let params = RouterParams { n_probe: narrow(n_probe), ..params };
            let of = |pair: usize| (pair * 7 + pair / n_probe) % n;
            let routed: Vec<[u32; 2]> = (0..n_queries * n_probe).map(|pair| [7, narrow(of(pair))]).collect();
            let routed = held(&gpu, &routed);
            let bindings = [&inputs[0], &inputs[1], &inputs[2], &routed];
            run(&gpu, Kernel::Base, &params, &bindings, (n_queries * n_probe).div_ceil(64));
            let found: Vec<[u32; 2]> = values(&gpu, &routed, n_queries * n_probe);
            for (pair, [key, list]) in found.into_iter().enumerate() {
                let query = pair / n_probe;
                assert_eq!((key, list), (order_key(data.want(query, of(pair), -2.0)), narrow(of(pair))));
                let n_blocks = n.div_ceil(BLOCK);
                let alone = data.queries[query].score(data.shape, &data.run, n_blocks, of(pair), -2.0);
                assert_eq!(order_key(alone), key);
            }
        }
    }
}

#[test]
fn projections_in_int8_of_integers_equal_the_reference() {
    for gpu in gpus() {
        for (s, components, n_queries) in [(1, 0, 1), (5, 3, 2), (64, 16, 8), (65, 783, 9), (130, 200, 20)] {
            let data = Integers::new(4, s, components, Bits::B8, false, n_queries);
            let y_stride = usize::next_multiple_of(s, 4);
            let params = AxesParams {
                grid_width: gpu.grid_width(),
                n_rows: narrow(n_queries),
                column_tiles: narrow(y_stride.div_ceil(64)),
                y_stride: narrow(y_stride),
                query_steps: narrow(components.div_ceil(16)),
                block_words: narrow(data.shape.code_bytes() / 4),
                firsts_at: narrow(data.shape.heads(s.div_ceil(BLOCK))[0] / 4),
                n_places: narrow(s.div_ceil(BLOCK) * BLOCK),
            };
            let y = held(&gpu, &vec![f32::NAN; n_queries * y_stride]);
            let inputs = [held(&gpu, &data.run), held(&gpu, &data.codes()), held(&gpu, &data.heads())];
            let bindings = [&inputs[0], &inputs[1], &inputs[2], &y];
            let groups = n_queries.div_ceil(8) * y_stride.div_ceil(64);
            run(&gpu, Kernel::ProjectInt8, &params, &bindings, groups);
            let found: Vec<f32> = values(&gpu, &y, n_queries * y_stride);
            for (at, got) in found.into_iter().enumerate() {
                let (query, column) = (at / y_stride, at % y_stride);
                let want = if column < s { data.want(query, column, 1.0) } else { 0.0 };
                assert_eq!(got, want, "{components} components to {s}, query {query}, column {column}");
            }
        }
    }
}

#[test]
fn run_scores_of_integers_equal_the_reference() {
    for gpu in gpus() {
        for (bits, plan) in [Bits::B8, Bits::B4]
            .into_iter()
            .flat_map(|bits| [(bits, Plan::QueryMajor), (bits, Plan::ClusterMajor)])
        {
            for (n, components, n_queries, has_norm) in
                [(1, 16, 1, false), (15, 16, 3, true), (257, 32, 8, true), (700, 144, 19, false)]
            {
                let data = Integers::new(3, n, components, bits, has_norm, n_queries);
                let (scan, groups, grid) = one_list(&gpu, plan, n, n_queries);
                let params = ScanParams {
                    query_steps: narrow(components.div_ceil(16)),
                    block_words: narrow(data.shape.code_bytes() / 4),
                    has_norm: u32::from(has_norm),
                    factor: -1.0,
                    ..scan
                };
                // Row 0 has a floor: only scores as good as 0 survive.
                let mut states = vec![RowState::default(); n_queries];
                states[0].floor = !order_key(0.0);
                let (candidates, states) = (room(&gpu, n_queries * n * 8), held(&gpu, &states));
                let inputs = [
                    held(&gpu, &data.run),
                    held(&gpu, &data.codes()),
                    held(&gpu, &data.heads()),
                    held(&gpu, &[[0, 0], [narrow(n), 0]]),
                    held(&gpu, &groups),
                    held(&gpu, &slots(plan, n_queries)),
                ];
                let mut bindings: Vec<&Buffer> = inputs.iter().collect();
                bindings.extend([&candidates, &states]);
                run(&gpu, Kernel::RunScore(bits, plan), &params, &bindings, grid);
                let states: Vec<RowState> = values(&gpu, &states, n_queries);
                let found: Vec<[u32; 2]> = values(&gpu, &candidates, n_queries * n);
                for slot in 0..n_queries {
                    let row = row_of(plan, n_queries, slot);
                    let want = (0..n)
                        .map(|i| [order_key(data.want(slot, i, -1.0)), narrow(i)])
                        .filter(|[key, _]| row != 0 || *key <= order_key(0.0))
                        .collect();
                    let context = format!("{bits:?} {plan:?} {n}×{components}");
                    assert_survivors((&found, &states), (row, n), want, &context);
                }
            }
        }
    }
}
