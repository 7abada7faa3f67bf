//! Every instruction set against the portable kernels, over lengths that straddle every register.

use proptest::prelude::*;

use super::*;
use crate::codes::PqShape;

const LENGTHS: [usize; 14] = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, 131];

/// Of these sizes the first `n` where Miri interprets every step, a thousand times slower.
fn sizes<T>(n: usize, all: &[T]) -> &[T] {
    if cfg!(miri) { &all[..n] } else { all }
}

/// And of sizes drawn by chance a quarter.
const fn below(size: usize) -> std::ops::Range<usize> {
    1..if cfg!(miri) { size / 4 } else { size }
}

/// Small integers: float sums of them are exact in any order, so results must be equal.
fn integers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + seed * 101) % 15) as f32 - 7.0).collect()
}

fn halves(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&v| f16::from_f32(v)).collect()
}

fn twins() -> Vec<Simd> {
    for name in std::env::var("REQUIRE").unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        // GPUs and compilers of shaders have their own tests.
        let is_cpu = !["gpu", "tint"].contains(&name);
        assert!(!is_cpu || Simd::by_name(name).is_some(), "REQUIRE: this machine has no {name}");
    }
    let mut all = Simd::available();
    // Miri has no other than the portable kernels, and is to see them run.
    if !cfg!(miri) {
        all.remove(0);
    }
    if all.is_empty() {
        eprintln!("skipped: only the scalar kernels exist for this machine");
    }
    all
}

const SCALAR: Simd = Simd(Level::Scalar);

#[test]
fn sums_are_equal_on_integers() {
    for simd in twins() {
        for n in LENGTHS {
            let (a, b) = (integers(n, 1), integers(n, 2));
            let step: Vec<f32> = integers(n, 3);
            let codes: Vec<u8> = (0..n).map(|i| u8::try_from(i * 7 % 16).unwrap()).collect();
            let h = halves(&b);
            assert_eq!(simd.dot_f32(&a, &b), SCALAR.dot_f32(&a, &b), "{simd:?} {n}");
            assert_eq!(simd.l2_f32(&a, &b), SCALAR.l2_f32(&a, &b), "{simd:?} {n}");
            assert_eq!(simd.dot_f16(&a, &h), SCALAR.dot_f16(&a, &h), "{simd:?} {n}");
            assert_eq!(simd.l2_f16(&a, &h), SCALAR.l2_f16(&a, &h), "{simd:?} {n}");
            assert_eq!(simd.dot_u8(&a, &codes), SCALAR.dot_u8(&a, &codes), "{simd:?} {n}");
            assert_eq!(simd.l2_u8(&a, &step, &codes), SCALAR.l2_u8(&a, &step, &codes), "{simd:?} {n}");
        }
    }
}

#[test]
fn projections_are_equal_on_integers() {
    for simd in twins() {
        for &d in sizes(3, &[0, 1, 5, 33]) {
            for &s in sizes(5, &[1, 15, 16, 17, 49, 96, 113, 128, 200]) {
                let w = halves(&integers(d * s, 4));
                let q = integers(d, 5);
                let (mut got, mut want) = (vec![9.0; s], vec![-9.0; s]);
                simd.project_f16(&w, [(&q, &mut got)]);
                SCALAR.project_f16(&w, [(&q, &mut want)]);
                assert_eq!(got, want, "{simd:?} d={d} s={s}");
                let queries = [6, 5, 7, 8].map(|seed| integers(d, seed));
                let mut all = [(); 4].map(|()| vec![9.0; s]);
                let mut pairs = queries.iter().zip(all.iter_mut());
                simd.project_f16(
                    &w,
                    [(); 4].map(|()| pairs.next().map(|(q, y)| (&q[..], &mut y[..])).unwrap()),
                );
                for (q, got) in queries.iter().zip(&all) {
                    SCALAR.project_f16(&w, [(q, &mut want)]);
                    assert_eq!(got, &want, "{simd:?} d={d} s={s}");
                }
            }
        }
    }
}

/// Blocks of made vectors, and a query for them.
fn run_of(
    n: usize,
    width: usize,
    bits: Bits,
    has_norm: bool,
    seed: usize,
) -> (BlockShape, Vec<u8>, BlockQuery) {
    let shape = BlockShape::new(width, bits, has_norm);
    let mut blocks = vec![0; shape.run_bytes(n.div_ceil(BLOCK))];
    let rows: Vec<Vec<f32>> = (0..n).map(|i| integers(width, i + seed)).collect();
    let vectors = rows.iter().enumerate().map(|(i, r)| ((i % 3) as f32, &r[..], (i % 5) as f32));
    shape.encode(vectors, &mut blocks);
    let mut query = BlockQuery { first: 2.0, codes: vec![0; shape.query_len()], ..BlockQuery::default() };
    (query.scale, query.sum) = SCALAR.quantise(&integers(width, seed + 77), &mut query.codes[..width]);
    (shape, blocks, query)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    #[test]
    fn quantising_is_equal(values in proptest::collection::vec(-1e3_f32..1e3, 0..150)) {
        for simd in twins() {
            let (mut got, mut want) = (vec![1; 160], vec![2; 160]);
            prop_assert_eq!(simd.quantise(&values, &mut got), SCALAR.quantise(&values, &mut want));
            prop_assert_eq!(&got, &want);
        }
    }

    #[test]
    fn block_scores_agree(
        n in below(140), width in below(140), four in any::<bool>(), has_norm in any::<bool>(),
        seed in 0_usize..1000,
    ) {
        let bits = if four { Bits::B4 } else { Bits::B8 };
        let (shape, blocks, query) = run_of(n, width, bits, has_norm, seed);
        let run = BlockRun { shape, bytes: &blocks, n_vectors: n, queries: [&query], factor: -2.0 };
        let places = n.div_ceil(BLOCK) * BLOCK;
        let mut want = vec![0.0; places];
        SCALAR.block_scores(run, [&mut want]);
        for simd in twins() {
            let mut got = vec![0.0; places];
            simd.block_scores(run, [&mut got]);
            for (g, w) in got.iter().zip(&want) {
                // One fused product and sum against two roundings.
                prop_assert!((g - w).abs() <= 4.0 * f32::EPSILON * (w.abs() + 500.0), "{simd:?} {g} {w}");
            }
            // Of several queries each gets the scores it gets alone, to the last bit.
            let others = [1, 2, 3].map(|i| run_of(n, width, bits, has_norm, seed + i).2);
            let queries = [&others[0], &query, &others[1], &others[2]];
            let together = BlockRun { shape, bytes: &blocks, n_vectors: n, queries, factor: -2.0 };
            let mut all = [(); 4].map(|()| vec![0.0; places]);
            simd.block_scores(together, all.each_mut().map(|out| &mut out[..]));
            let mut alone = vec![0.0; places];
            for (query, all) in queries.iter().zip(&all) {
                simd.block_scores(together.alone(query), [&mut alone]);
                prop_assert_eq!(&alone, all);
            }
            let mut kept = Candidates::default();
            kept.reset(simd, 7);
            simd.scan_blocks(run, 40, [&mut kept], &|p| u64::from(p));
            kept.cut(&|p| u64::from(p));
            let mut found = kept.positions().to_vec();
            found.sort_unstable();
            let mut order: Vec<u32> = (0..u32::try_from(n).unwrap()).collect();
            order.sort_by(|&a, &b| crate::topk::compare(
                (got[a as usize], u64::from(a)), (got[b as usize], u64::from(b))));
            let mut best: Vec<u32> = order.into_iter().take(7).map(|p| p + 40).collect();
            best.sort_unstable();
            prop_assert_eq!(found, best);
        }
    }
}

#[test]
fn names_are_tokens() {
    for simd in Simd::available() {
        assert_eq!(Simd::by_name(simd.name()), Some(simd));
    }
    assert_eq!(Simd::by_name("avx1024"), None);
}

/// Codes and tables that look random; the largest bytes often, so that 16-bit sums come near their end.
fn coded(n: usize, m: usize, bits: Bits, has_norm: bool, seed: usize) -> (PqShape, Vec<u8>, Vec<u8>) {
    let shape = PqShape { s: m, m, bits, has_norm };
    let mut state = seed as u64 * 2 + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let mut run = vec![0; shape.run_bytes(n)];
    let codes = n.div_ceil(32) * shape.block_bytes();
    run[..codes].fill_with(&mut byte);
    for (i, norm) in run[codes..].chunks_exact_mut(4).enumerate() {
        norm.copy_from_slice(&((i % 7) as f32).to_le_bytes());
    }
    let top = seed % 3;
    let mut tables = vec![0; shape.n_tables() * shape.n_words()];
    tables.fill_with(|| if top == 0 { 255 } else { byte() });
    // The table that pads an odd number of subspaces.
    tables[m * shape.n_words()..].fill(0);
    (shape, run, tables)
}

#[test]
fn lookups_are_equal() {
    let all = [
        (1, 1),
        (31, 2),
        (32, 3),
        (33, 7),
        (64, 25),
        (127, 48),
        (128, 50),
        (129, 5),
        (300, 51),
        (700, 96),
        (70, 256),
        (65, 257),
        (200, 300),
        (40, 513),
    ];
    for (i, &(n, m)) in sizes(3, &all).iter().enumerate() {
        for (bits, has_norm) in [(Bits::B4, false), (Bits::B4, true), (Bits::B8, false), (Bits::B8, true)] {
            let (shape, bytes, tables) = coded(n, m, bits, has_norm, i);
            // Not on a grid that floats hold, so that scores and limits round.
            let (part, step) = (-std::f32::consts::E, 0.1 * std::f32::consts::PI);
            let run = PqRun { shape, bytes: &bytes, n_vectors: n, tables: &tables, part, step };
            let score = |point: usize| {
                let entry = |t| usize::from(tables[t * shape.n_words() + shape.code(&bytes, point, t)]);
                let sum: usize = (0..m).map(entry).sum();
                step * sum as f32 + (part + shape.norm(&bytes, n, point))
            };
            for keep in [1, 10, n] {
                let mut want: Vec<(f32, u64)> = (0..n).map(|p| (score(p), p as u64 + 40)).collect();
                want.sort_by(|a, b| crate::topk::compare(*a, *b));
                want.truncate(keep);
                for simd in Simd::available() {
                    let mut kept = Candidates::default();
                    kept.reset(simd, keep);
                    simd.scan_pq(run, 40, &mut kept, &|p| u64::from(p));
                    kept.cut(&|p| u64::from(p));
                    let mut got: Vec<(f32, u64)> = kept
                        .positions()
                        .iter()
                        .zip(kept.scores())
                        .map(|(&p, &s)| (s, u64::from(p)))
                        .collect();
                    got.sort_by(|a, b| crate::topk::compare(*a, *b));
                    assert_eq!(got, want, "{simd:?} {n} points, {m} subspaces of {bits:?}, {keep} kept");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_sum_that_reaches_the_threshold_is_beyond_the_limit(
        (step, part, least) in (-30_i32..30, -1e6_f32..1e6, -1e6_f32..1e6)
            .prop_map(|(e, part, least)| (std::f32::consts::PI * 2_f32.powi(e), part, least)),
        (sum, more, has_norm) in (0_u32..65_536, 0_f32..10.0, any::<bool>()),
    ) {
        let shape = PqShape { s: 1, m: 1, bits: Bits::B4, has_norm };
        let run = PqRun { shape, bytes: &[], n_vectors: 0, tables: &[], part, step };
        let least = if has_norm { least } else { 0.0 };
        let norm = if has_norm { least + more } else { 0.0 };
        let score = step * sum as f32 + (part + norm);
        let limit = run.limit(score, least);
        prop_assert!(limit.is_some_and(|limit| sum <= u32::from(limit)), "{sum} beyond {limit:?}");
        // And it is a bound: twice the sum, where that is far off, is not within.
        if sum > 1000 && step * sum as f32 > 0.1 * (part.abs() + least.abs() + more) && more < step && sum < 32_000 {
            prop_assert!(limit.is_some_and(|limit| u32::from(limit) < 2 * sum), "{sum}: {limit:?}");
        }
    }
}

#[test]
fn codes_are_the_same_on_every_level() {
    for simd in Simd::available() {
        let all = [(1, 1, Bits::B4), (16, 5, Bits::B4), (9, 2, Bits::B8), (70, 70, Bits::B8)];
        for &(s, m, bits) in sizes(2, &all) {
            let shape = PqShape { s, m, bits, has_norm: false };
            let values: Vec<f32> = integers(shape.codebook_len(), 1).iter().map(|v| v * 0.3).collect();
            let n = 7;
            let (residuals, directions) = (integers(n * s, 2), integers(n * s, 3));
            for excess in [0.0, 0.1, 7.0] {
                let excess = vec![excess; n];
                let points = Points { residuals: &residuals, directions: &directions, excess: &excess };
                let run = |simd: Simd, together: usize| {
                    let mut codes = vec![9; n * m];
                    let books = Codebooks { shape, values: &values };
                    let mut loss = 0.0;
                    for (i, codes) in codes.chunks_mut(together * m).enumerate() {
                        let part = points.part(i * together..n.min((i + 1) * together));
                        loss += simd.choose_codes(books, part, false, &mut CodeRoom::default(), codes);
                        loss += simd.choose_codes(books, part, true, &mut CodeRoom::default(), codes);
                    }
                    let (mut entries, mut lows) = (vec![9.0; m * shape.n_words()], vec![9.0; m]);
                    let mut bytes = vec![0; shape.n_tables() * shape.n_words()];
                    let room = (&mut entries[..], &mut lows[..]);
                    let heads = simd.tables(books, &residuals[..s], -1.0, room, &mut bytes);
                    (codes, loss, heads, bytes)
                };
                assert_eq!(run(simd, n), run(SCALAR, 1), "{simd:?} {s} in {m}");
            }
        }
    }
}

#[test]
fn the_largest_come_in_order() {
    for simd in Simd::available() {
        let mut out = [0; 3];
        simd.largest(&mut [1.0, 5.0, 5.0, 2.0], &mut out);
        assert_eq!(out, [1, 2, 3]);
        for n in [1, 16, 17, 100] {
            let mut scores = integers(n, 5);
            let mut order: Vec<u32> = (0..u32::try_from(n).unwrap()).collect();
            order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
            let mut out = vec![0; n];
            simd.largest(&mut scores, &mut out);
            assert_eq!(out, order, "{simd:?}, {n}");
        }
    }
}

proptest! {
    #[test]
    fn narrowing_leaves_the_least(
        scores in proptest::collection::vec(-40_i8..40, below(700)), keep in below(600), slack in 0_usize..100,
    ) {
        let scores: Vec<f32> = scores.into_iter().map(|v| f32::from(v) / 8.0).collect();
        prop_assume!(keep < scores.len());
        let mut sorted = scores.clone();
        sorted.sort_by(f32::total_cmp);
        for simd in Simd::available() {
            let (mut left, mut places) = (scores.clone(), (0..u32::try_from(scores.len()).unwrap()).collect::<Vec<_>>());
            let (n, limit) = simd.narrow(&mut left, &mut places, keep, keep + slack);
            // All within the limit and nothing else, in their order.
            let want: Vec<u32> = (0..).zip(&scores).filter(|&(_, &v)| v <= limit).map(|(i, _)| i).collect();
            prop_assert_eq!(&places[..n], &want[..]);
            prop_assert!(left[..n].iter().zip(&want).all(|(&v, &i)| v == scores[i as usize]));
            prop_assert!(n >= keep && limit >= sorted[keep - 1]);
            // More than were wanted only where scores are equal.
            prop_assert!(n <= keep + slack || limit == sorted[keep - 1], "{} of {} + {}", n, keep, slack);
            let mut found = Vec::new();
            simd.contenders(&scores, 0.5, &mut found);
            let want: Vec<u32> =
                (0..).zip(&scores).filter(|&(_, &v)| v <= sorted[0] + 0.5).map(|(i, _)| i).collect();
            prop_assert_eq!(found, want);
        }
    }
}
