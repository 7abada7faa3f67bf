//! Lookup tables, and sums of their bytes: exact on small integers. Copies of points: the best of each.

use rand::RngExt as _;

use super::{assert_survivors, gpus, held, one_list, random, room, row_of, run, values};
use crate::{
    codes::PqShape,
    gpu::{
        Buffer,
        kernel::{Kernel, Plan, Tie},
        layout::{Head, PqParams, RowState, ScanParams, TableHead, narrow},
        primitives::{self, Rows},
        recording::Recording,
    },
    metric::Metric,
    spec::Bits,
    topk::{key_score, order_key},
};

#[test]
fn tables_of_integers_equal_the_reference() {
    for gpu in gpus() {
        let mut rng = random(7);
        for (bits, s, m, n) in [
            (Bits::B4, 1, 1, 1),
            (Bits::B4, 13, 5, 3),
            (Bits::B4, 150, 70, 2),
            (Bits::B8, 9, 4, 5),
            (Bits::B8, 130, 65, 2),
        ] {
            let shape = PqShape::new(s, m, bits, Metric::Ip);
            let (n_words, n_tables) = (shape.n_words(), shape.n_tables());
            let mut books: Vec<f32> =
                (0..shape.codebook_len()).map(|_| rng.random_range(-3..=3) as f32).collect();
            // The first table spans 255 for a query that begins with 1, so that its step is 1.
            (books[0], books[1]) = (-127.0, 128.0);
            let mut queries: Vec<f32> = (0..n * s).map(|_| f32::from(rng.random_range(-1..=1_i8))).collect();
            for query in queries.chunks_mut(s) {
                query[..shape.dims(0).len()].fill(0.0);
                query[0] = 1.0;
            }
            let params = PqParams {
                grid_width: gpu.grid_width(),
                n_rows: narrow(n),
                s: narrow(s),
                m: narrow(m),
                width: narrow(shape.width()),
                n_words: narrow(n_words),
                n_tables: narrow(n_tables),
                query_stride: narrow(s),
                factor: 1.0,
                ..Default::default()
            };
            let outputs = [n * n_tables * 4, n * n_tables * n_words, n * 8].map(|bytes| room(&gpu, bytes));
            let inputs = [held(&gpu, &books), held(&gpu, &queries)];
            let bindings = [&inputs[0], &inputs[1], &outputs[0], &outputs[1], &outputs[2]];
            run(&gpu, Kernel::PqTables, &params, &bindings, n);
            let bytes: Vec<u8> = values(&gpu, &outputs[1], n * n_tables * n_words);
            let heads: Vec<TableHead> = values(&gpu, &outputs[2], n);
            for (row, query) in queries.chunks(s).enumerate() {
                let mut bias = 0.0;
                for table in 0..n_tables {
                    let got = &bytes[(row * n_tables + table) * n_words..][..n_words];
                    if table >= m {
                        assert!(got.iter().all(|&byte| byte == 0), "the table that pads is zeros");
                        continue;
                    }
                    let book = &books[table * shape.width() * n_words..];
                    let entries: Vec<f32> = (0..n_words)
                        .map(|word| {
                            let dims = shape.dims(table).enumerate();
                            dims.map(|(i, d)| query[d] * book[i * n_words + word]).sum()
                        })
                        .collect();
                    let low = entries.iter().copied().fold(f32::INFINITY, f32::min);
                    bias += low;
                    let want: Vec<f32> = entries.iter().map(|entry| entry - low).collect();
                    let got: Vec<f32> = got.iter().map(|&byte| f32::from(byte)).collect();
                    assert_eq!(got, want, "{bits:?} {s} in {m}, query {row}, table {table}");
                }
                assert_eq!((heads[row].bias, heads[row].step), (bias, 1.0));
            }
        }
    }
}

#[test]
fn sums_of_lookups_equal_the_reference() {
    for gpu in gpus() {
        for (bits, plan) in [Bits::B4, Bits::B8]
            .into_iter()
            .flat_map(|bits| [(bits, Plan::QueryMajor), (bits, Plan::ClusterMajor)])
        {
            for (n, m, n_queries, has_norm) in
                [(1, 1, 1, false), (33, 7, 3, true), (257, 70, 8, true), (600, 300, 9, false)]
            {
                let mut rng = random(8);
                let shape = PqShape { s: m, m, bits, has_norm };
                let mut codes = vec![0_u8; shape.run_bytes(n)];
                codes[..shape.terms_at(n)].fill_with(|| rng.random());
                for term in codes[shape.terms_at(n)..].chunks_exact_mut(4) {
                    term.copy_from_slice(&f32::from(rng.random_range(2..9_u8)).to_le_bytes());
                }
                let table_bytes = shape.n_tables() * shape.n_words();
                let mut tables = vec![0_u8; n_queries * table_bytes];
                // Among them the largest, so that sums of 256 tables come near the end of 16 bits.
                tables.fill_with(|| if rng.random::<bool>() { 255 } else { rng.random() });
                for tables in tables.chunks_mut(table_bytes) {
                    tables[m * shape.n_words()..].fill(0);
                }
                let heads: Vec<TableHead> =
                    (0..n_queries).map(|i| TableHead { bias: -(i as f32), step: 1.0 }).collect();
                let base = |row: usize| row as f32 * 10.0;
                let slots: Vec<[u32; 2]> = match plan {
                    Plan::QueryMajor => (0..n_queries).map(|row| [order_key(base(row)), 0]).collect(),
                    Plan::ClusterMajor => {
                        (0..n_queries).rev().map(|row| [narrow(row), order_key(base(row))]).collect()
                    }
                };
                let (scan, groups, grid) = one_list(&gpu, plan, n, n_queries);
                let params = ScanParams {
                    block_words: narrow(shape.block_bytes() / 4),
                    has_norm: u32::from(has_norm),
                    has_base: 1,
                    table_words: narrow(table_bytes / 4),
                    ..scan
                };
                let candidates = room(&gpu, n_queries * n * 8);
                let states = held(&gpu, &vec![RowState::default(); n_queries]);
                let inputs = [
                    held(&gpu, &codes),
                    held(&gpu, &tables),
                    held(&gpu, &heads),
                    held(&gpu, &[[0, 0], [narrow(n), 0]]),
                    held(&gpu, &groups),
                    held(&gpu, &slots),
                ];
                let mut bindings: Vec<&Buffer> = inputs.iter().collect();
                bindings.extend([&candidates, &states]);
                run(&gpu, Kernel::PqScore(bits, plan), &params, &bindings, grid);
                let states: Vec<RowState> = values(&gpu, &states, n_queries);
                let found: Vec<[u32; 2]> = values(&gpu, &candidates, n_queries * n);
                for slot in 0..n_queries {
                    let row = row_of(plan, n_queries, slot);
                    let tables = &tables[row * table_bytes..];
                    let score = |i: usize| {
                        let entry = |t| u32::from(tables[t * shape.n_words() + shape.code(&codes, i, t)]);
                        let sum: u32 = (0..m).map(entry).sum();
                        let part = shape.alpha(&codes, n) * base(row) + heads[row].bias;
                        sum as f32 + (part + shape.norm(&codes, n, i))
                    };
                    let want = (0..n).map(|i| [order_key(score(i)), narrow(i)]).collect();
                    let context = format!("{bits:?} {plan:?} {n} points, {m} subspaces");
                    assert_survivors((&found, &states), (row, n), want, &context);
                }
            }
        }
    }
}

#[test]
fn copies_become_points() {
    for gpu in gpus() {
        let mut rng = random(9);
        for (n_positions, n_points, keep) in [(1, 1, 1), (30, 10, 30), (300, 100, 128), (4000, 1500, 1300)] {
            let points: Vec<u32> = (0..n_positions).map(|position| narrow(position * 7 % n_points)).collect();
            let n_rows = 3;
            let counts = [0, keep / 2, keep];
            let mut rows = vec![[u32::MAX; 2]; n_rows * n_positions];
            for (row, count) in rows.chunks_mut(n_positions).zip(counts) {
                let chosen = rand::seq::index::sample(&mut rng, n_positions, count).into_vec();
                for (candidate, position) in row.iter_mut().zip(chosen) {
                    *candidate = [order_key(f32::from(rng.random_range(-9..9_i8))), narrow(position)];
                }
            }
            let states = counts.map(|count| RowState { count: narrow(count), floor: 0 });
            let (candidates, states) = (held(&gpu, &rows), held(&gpu, &states));
            let (points_on, merged) = (held(&gpu, &points), room(&gpu, n_rows * keep * 8));
            let heads = held(&gpu, &[Head::default(); 3]);
            let mut recording = Recording::new(&gpu);
            let on_device = Rows {
                candidates: &candidates,
                states: &states,
                n_rows,
                stride: n_positions,
                tie: Tie::Item,
                ties: &points_on,
            };
            primitives::merge(&mut recording, on_device, keep, &points_on, (&merged, &heads));
            recording.submit(&mut None, None).unwrap();
            let states: Vec<RowState> = values(&gpu, &states, n_rows);
            let found: Vec<[u32; 2]> = values(&gpu, &candidates, n_rows * n_positions);
            for (row, count) in counts.into_iter().enumerate() {
                let mut best = std::collections::BTreeMap::new();
                for [key, position] in &rows[row * n_positions..][..count] {
                    let held = best.entry(points[*position as usize]).or_insert(*key);
                    *held = (*held).min(*key);
                    assert!(key_score(*key).is_finite());
                }
                let want = best.into_iter().map(|(point, key)| [key, point]).collect();
                assert_survivors((&found, &states), (row, n_positions), want, &format!("{keep} kept"));
            }
        }
    }
}
