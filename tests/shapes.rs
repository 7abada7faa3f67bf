//! Recall on shapes of data that users of vector search have trouble with: means, lengths, outliers, few dimensions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ndarray::{Array2, ArrayView2, Axis, s};
use nearfield::{Device, Index, IndexSpec, Metric, SearchParams, eval};
use proptest::prelude::*;
use support::Numbers;

const DEFAULT: &str = "PCA,IVF,RRR,Refine(f16)";

/// Rows around some centres, and queries near the first of them.
fn clusters(n: usize, d: usize, centres: usize, seed: u64) -> (Array2<f32>, Array2<f32>) {
    let mut numbers = Numbers::new(seed);
    let of = Array2::from_shape_fn((centres, d), |_| numbers.normal());
    let base = Array2::from_shape_fn((n, d), |(i, j)| of[[i * 7 % centres, j]] + 0.3 * numbers.normal());
    let near = Array2::from_shape_fn((200, d), |_| 0.2 * numbers.normal());
    let queries = &base.slice(s![..200, ..]) + &near;
    (base, queries)
}

fn unit(x: &mut Array2<f32>) {
    for mut row in x.outer_iter_mut() {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row /= length;
    }
}

/// recall@10 of an index: at the effort given, or without any number.
fn recall(
    spec: Option<&str>,
    metric: Metric,
    base: ArrayView2<'_, f32>,
    queries: ArrayView2<'_, f32>,
    effort: Option<(usize, usize)>,
) -> f64 {
    let spec: IndexSpec = match spec {
        Some(spec) => spec.parse().unwrap(),
        None => IndexSpec::suited(base.nrows(), base.ncols()).unwrap(),
    };
    let index = Index::builder(spec).metric(metric).build(base).unwrap();
    let mut params = SearchParams::new(10);
    if let Some((n_probe, n_rerank)) = effort {
        params = params.n_probe(n_probe).n_rerank(n_rerank);
    }
    let truth = eval::exact(&base, &queries, metric, 10, &|_, _| ()).unwrap();
    let hits = index.searcher(Device::cpu()).unwrap().search(queries, params).unwrap();
    let found = eval::Recall::new(&index, &queries, truth.view(), 10).unwrap().with_base(&base).unwrap();
    found.of(hits.ids.view())
}

fn holds(what: &str, floor: f64, found: f64) {
    assert!(found >= floor, "{what}: expected recall {floor}, got {found}");
}

#[test]
fn offsets_under_l2() {
    let (base, queries) = clusters(20_000, 64, 100, 1);
    for (offset, spec, floor) in [
        (0.0, DEFAULT, 0.99),
        (3.0, DEFAULT, 0.99),
        (10.0, DEFAULT, 0.99),
        (-1000.0, DEFAULT, 0.98),
        (100.0, "IVF512,Flat", 0.99),
        (100.0, "IVF512,PQ32x4,Refine(f32)", 0.98),
        (100.0, "PCA64x8,IVF512(soar),RRR32x4,Refine(sq8)", 0.95),
    ] {
        let (base, queries) = (&base + offset, &queries + offset);
        let found = recall(Some(spec), Metric::L2, base.view(), queries.view(), None);
        holds(&format!("offset {offset}, {spec}"), floor, found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A common offset, however large beside the spread, changes recall under l2 by no more than its own rounding does.
    #[test]
    fn no_offset_changes_recall_under_l2(seed in 0_u64..99, which in 0..6_usize, spreads in 0.0_f32..1000.0) {
        let (base, queries) = clusters(2000, 24, 40, seed);
        let spec = [DEFAULT, "IVF32,Flat", "IVF32,SQ8", "PCA16x8,IVF32,APQ12x4,Refine(f16)", "IVF32,RRR16,Refine(f32)",
            "IVF,RRR16x4,Refine(sq8)"][which];
        let mut numbers = Numbers::new(seed + 7);
        let offset = Array2::from_shape_fn((1, 24), |_| spreads * numbers.normal());
        let effort = Some((6, 50));
        let still = recall(Some(spec), Metric::L2, base.view(), queries.view(), effort);
        let (base, queries) = (&base + &offset, &queries + &offset);
        let moved = recall(Some(spec), Metric::L2, base.view(), queries.view(), effort);
        // f32 itself keeps 2⁻²⁴ of the offset: 6·10⁻⁵ of a spread.
        prop_assert!((still - moved).abs() <= 0.02, "{}, {} spreads: {} and {}", spec, spreads, still, moved);
    }
}

#[test]
fn one_wide_and_one_constant_column() {
    let (mut base, mut queries) = clusters(20_000, 64, 100, 2);
    let mut numbers = Numbers::new(3);
    for (i, mut row) in base.outer_iter_mut().enumerate() {
        row[5] = 100.0 * numbers.normal();
        row[9] = 40_000.0;
        if i < 200 {
            queries[[i, 5]] = row[5] + 0.2 * numbers.normal();
            queries[[i, 9]] = 40_000.0;
        }
    }
    // As many as exact scores in the same lists find, or nearly: lists themselves are cut along the wide column.
    let flat = recall(Some("IVF512,Flat"), Metric::L2, base.view(), queries.view(), Some((16, 50)));
    let found =
        recall(Some("PCA,IVF512,RRR,Refine(f32)"), Metric::L2, base.view(), queries.view(), Some((16, 50)));
    assert!(found >= flat - 0.02, "{found} of the {flat} that exact scores find");
}

#[test]
fn metres_from_the_centre_of_the_earth() {
    let mut numbers = Numbers::new(2);
    let centre = [4_027_894.0, 307_046.0, 4_919_475.0];
    let base = Array2::from_shape_fn((20_000, 3), |(_, j)| centre[j] + 5000.0 * numbers.normal());
    let queries = Array2::from_shape_fn((100, 3), |(i, j)| base[[i, j]] + 5.0 * numbers.normal());
    for spec in [Some("IVF,Flat"), None] {
        holds("metres", 0.98, recall(spec, Metric::L2, base.view(), queries.view(), None));
    }
}

#[test]
fn one_long_row() {
    let (base, queries) = clusters(10_000, 64, 100, 4);
    for times in [20.0, 1000.0] {
        let mut base = base.clone();
        base.row_mut(123).mapv_inplace(|v| v * times);
        for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
            let sq8 = recall(Some("IVF128,SQ8"), metric, base.view(), queries.view(), Some((128, 50)));
            holds(&format!("row times {times}, SQ8, {metric}"), 0.95, sq8);
            let spec = "PCA,IVF,RRR,Refine(sq8)";
            let rows = recall(Some(spec), metric, base.view(), queries.view(), Some((512, 400)));
            holds(&format!("row times {times}, Refine(sq8), {metric}"), 0.95, rows);
        }
    }
}

#[test]
fn lengths_that_differ_under_ip() {
    let (mut base, queries) = clusters(10_000, 64, 400, 5);
    unit(&mut base);
    let mut numbers = Numbers::new(6);
    let lengths = Array2::from_shape_fn((10_000, 1), |_| numbers.normal().exp());
    let base = base * lengths;
    holds("lognormal lengths", 0.9, recall(Some(DEFAULT), Metric::Ip, base.view(), queries.view(), None));
    let index = Index::builder(DEFAULT.parse().unwrap()).metric(Metric::Ip).build(base.view()).unwrap();
    // It says what it chose, and builds the same when told so.
    assert!(index.metadata("partition").unwrap().contains("distance is taken"));
    assert!(index.spec().to_string().contains("(T=0)"), "{}", index.spec());
    let again = Index::builder(index.spec()).metric(Metric::Ip).build(base.view()).unwrap();
    assert_eq!(again.list_sizes(), index.list_sizes());
}

#[test]
fn a_common_part_of_products() {
    let (mut base, mut queries) = clusters(20_000, 96, 200, 7);
    unit(&mut base);
    unit(&mut queries);
    let mut numbers = Numbers::new(8);
    let mut common = Array2::from_shape_fn((1, 96), |_| numbers.normal());
    unit(&mut common);
    for times in [2.0, 5.0, 50.0] {
        let (base, queries) = (&base + &(&common * times), &queries + &(&common * times));
        let cosine = recall(Some(DEFAULT), Metric::Cosine, base.view(), queries.view(), None);
        holds(&format!("common part {times}, cosine"), 0.97, cosine);
        let ip = recall(Some(DEFAULT), Metric::Ip, base.view(), queries.view(), None);
        holds(&format!("common part {times}, ip"), 0.9, ip);
    }
}

#[test]
fn scores_under_cosine_are_at_most_one() {
    for offset in [0.0, 3.0] {
        let (mut base, _) = clusters(3000, 64, 100, 10);
        base += offset;
        base.row_mut(17).fill(0.0);
        for (rows, slack) in [("f32", 1e-6), ("f16", 1e-6), ("sq8", 1e-3)] {
            let spec = format!("PCA,IVF,RRR,Refine({rows})");
            let index =
                Index::builder(spec.parse().unwrap()).metric(Metric::Cosine).build(base.view()).unwrap();
            let searcher = index.searcher(Device::cpu()).unwrap();
            let hits = searcher.search(base.view(), SearchParams::new(1)).unwrap();
            for (i, (&id, &score)) in hits.ids.iter().zip(&hits.scores).enumerate() {
                if i == 17 {
                    assert_eq!(score, 0.0, "a zero query");
                    continue;
                }
                assert_eq!(id, i as u64);
                assert!(
                    (1.0 - slack..=1.0).contains(&score),
                    "{spec}, offset {offset}: row {i} scores {score}"
                );
            }
            // Every point, the zero row among them, which scores nothing.
            let all = SearchParams::new(3000).n_probe(512).n_rerank(3000);
            let hits = searcher.search(base.slice(s![..1, ..]), all).unwrap();
            let at = hits.ids.iter().position(|&id| id == 17).unwrap();
            assert!(
                hits.scores[[0, at]].abs() <= 5.0 * slack,
                "{spec}: the zero row scores {}",
                hits.scores[[0, at]]
            );
        }
    }
}

#[test]
fn no_specification_works_for_every_shape() {
    for (n, d) in
        [(1, 1), (2, 5), (20, 3), (999, 40), (1000, 1), (1500, 31), (1500, 32), (5000, 2), (5000, 8)]
    {
        let (base, queries) = clusters(n.max(200), d, 50, 9);
        let base = base.slice(s![..n, ..]);
        for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
            let spec = IndexSpec::suited(n, d).unwrap();
            let index = Index::builder(spec).metric(metric).build(base).unwrap();
            let k = 10.min(n);
            let hits =
                index.searcher(Device::cpu()).unwrap().search(queries.view(), SearchParams::new(k)).unwrap();
            assert!(hits.ids.iter().all(|&id| id < n as u64), "{n} × {d}, {metric}: places are empty");
            if metric == Metric::L2 && n > 10 {
                holds(&format!("{n} × {d}"), 0.95, recall(None, metric, base, queries.view(), None));
            }
        }
    }
}

#[test]
fn as_many_lists_are_read_as_hold_k_points() {
    let (base, queries) = clusters(2000, 16, 50, 11);
    for spec in ["IVF256,Flat", "IVF256(soar=2),SQ8", "IVF1000,RRR16,Refine(f16)"] {
        let index = Index::builder(spec.parse().unwrap()).metric(Metric::L2).build(base.view()).unwrap();
        let searcher = index.searcher(Device::cpu()).unwrap();
        for k in [10, 100, 1000, 2000] {
            let hits = searcher.search(queries.view(), SearchParams::new(k)).unwrap();
            let missing = hits.ids.iter().filter(|&&id| id == nearfield::NO_ID).count();
            assert_eq!(missing, 0, "{spec}, k = {k}");
            // More than there are is padded.
            if k == 2000 {
                let hits = searcher.search(queries.slice(s![..2, ..]), SearchParams::new(2001)).unwrap();
                assert_eq!(hits.ids.index_axis(Axis(1), 2000).to_vec(), [nearfield::NO_ID; 2]);
            }
        }
    }
}

/// Stored rows are given back as they were, whatever was subtracted from them.
#[test]
fn rows_come_back_as_given() {
    use nearfield::Vectors;
    let (base, _) = clusters(500, 20, 20, 12);
    let base = base + 37.5;
    for (spec, slack) in
        [("IVF8,Flat", 1e-5), ("IVF8,RRR16,Refine(f32)", 1e-5), ("IVF8,RRR16,Refine(f16)", 2e-3)]
    {
        for metric in [Metric::L2, Metric::Ip] {
            let index = Index::builder(spec.parse().unwrap()).metric(metric).build(base.view()).unwrap();
            let rows = index.rows().unwrap();
            let mut row = vec![0.0; 20];
            for i in 0..500 {
                rows.read(i, &mut row);
                let given = base.row(usize::try_from(rows.id(i)).unwrap());
                let off = row.iter().zip(given).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= slack, "{spec} {metric}: off by {off}");
            }
        }
    }
}
