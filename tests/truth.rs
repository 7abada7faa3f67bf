//! Exact neighbours against a naive search in f64, on data that f32 products rank wrongly.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Mutex;

use ndarray::{Array2, ArrayView1, s};
use nearfield::{Metric, NO_ID, eval};
use support::{METRICS, Numbers};

const N: usize = 2000;
const QUERIES: usize = 40;

fn normals(n: usize, d: usize, seed: u64) -> Array2<f32> {
    let mut numbers = Numbers::new(seed);
    Array2::from_shape_fn((n, d), |_| numbers.normal())
}

/// Rows around 100 centres, and queries near some of them.
fn clusters(n: usize, d: usize) -> (Array2<f32>, Array2<f32>) {
    let centres = normals(100, d, 1);
    let mut numbers = Numbers::new(2);
    let base = Array2::from_shape_fn((n, d), |(i, j)| centres[[i * 7919 % 100, j]] + 0.3 * numbers.normal());
    let m = QUERIES.min(n);
    let queries = &base.slice(s![..m, ..]) + &(normals(m, d, 3) * 0.2);
    (base, queries)
}

/// A product's or distance's terms in f64, and an upper bound of their sum's rounding.
fn score(metric: Metric, q: ArrayView1<'_, f32>, x: ArrayView1<'_, f32>) -> (f64, f64) {
    let wide = |v: ArrayView1<'_, f32>| v.mapv(f64::from);
    let (q, x) = (wide(q), wide(x));
    let ulps = (x.len() + 8) as f64 * f64::EPSILON;
    let [q_length, x_length] = [&q, &x].map(|v| v.dot(v).sqrt());
    match metric {
        Metric::L2 => {
            let difference = &q - &x;
            let square = difference.dot(&difference);
            (square, ulps * square)
        }
        Metric::Ip => (-q.dot(&x), ulps * q_length * x_length),
        Metric::Cosine if x_length * q_length == 0.0 => (0.0, 0.0),
        Metric::Cosine => (-q.dot(&x) / x_length / q_length, ulps),
    }
}

/// Fails unless every query's rows are the k best in order, but for scores that tie within rounding.
fn check(name: &str, base: &Array2<f32>, queries: &Array2<f32>, metric: Metric, k: usize) {
    let found = eval::exact(&base.view(), &queries.view(), metric, k, &|_, _| ()).unwrap();
    for (query, ids) in queries.outer_iter().zip(found.outer_iter()) {
        let scores: Vec<(f64, f64)> = base.outer_iter().map(|x| score(metric, query, x)).collect();
        let mut order: Vec<usize> = (0..base.nrows()).collect();
        order.sort_by(|&a, &b| scores[a].0.total_cmp(&scores[b].0).then(a.cmp(&b)));
        let mut seen = std::collections::HashSet::new();
        for (place, &id) in ids.iter().enumerate() {
            let Some(&want) = order.get(place) else {
                assert_eq!(id, NO_ID, "{name}, {metric}: place {place}");
                continue;
            };
            let got = usize::try_from(id).unwrap();
            assert!(seen.insert(got), "{name}, {metric}: row {got} twice");
            let apart = (scores[got].0 - scores[want].0).abs();
            assert!(
                got == want || (apart <= scores[got].1 + scores[want].1 && base.row(got) != base.row(want)),
                "{name}, {metric}, place {place}: row {got} of {:?} where row {want} of {:?} belongs",
                scores[got],
                scores[want],
            );
        }
    }
}

#[test]
fn rows_are_those_of_a_naive_search() {
    let all = |name: &str, base: Array2<f32>, queries: Array2<f32>| {
        for metric in METRICS {
            check(name, &base, &queries, metric, 10);
        }
    };
    let (base, queries) = clusters(N, 64);
    for offset in [0.0, 3.0, 10.0, 100.0, 1000.0] {
        all(&format!("offset {offset}"), &base + offset, &queries + offset);
    }

    // Metres from the centre of the earth.
    let at = ndarray::arr1(&[4_027_894.0, 307_046.0, 4_919_475.0]);
    let city = normals(N, 3, 4) * 2500.0 + &at;
    all("metres", city.clone(), &city.slice(s![..QUERIES, ..]) + &(normals(QUERIES, 3, 5) * 5.0));

    for step in [1e-3, 1e-6, 0.0] {
        let centres = normals(20, 32, 6);
        let copies = Array2::from_shape_fn((N, 32), |(i, j)| centres[[i % 20, j]]);
        let base = &copies + &(normals(N, 32, 7) * step);
        let queries = &base.slice(s![..QUERIES, ..]) + &(normals(QUERIES, 32, 8) * step);
        all(&format!("near copies, {step}"), base, queries);
    }

    let mut long = base.clone();
    long.row_mut(123).mapv_inplace(|v| v * 1000.0);
    all("a row times 1000", long, queries.clone());

    let mut numbers = Numbers::new(9);
    let mut lengths = base.clone();
    for mut row in lengths.outer_iter_mut() {
        row *= (numbers.normal() - row.dot(&row).ln() / 2.0).exp();
    }
    all("lognormal lengths", lengths, queries.clone());

    let common = normals(1, 64, 10).row(0).to_owned();
    let common = &common * (40.0 / common.dot(&common).sqrt());
    all("a common part", &base + &common, &queries + &common);

    for scale in [1e-20, 1e-12, 1e14] {
        all(&format!("magnitudes {scale}"), &base * scale, &queries * scale);
    }
    all("large queries", base.clone() * 1e-10, queries.clone() * 1e14);
    all("large rows", base.clone() * 1e14, queries.clone() * 1e-10);

    for d in [1, 2] {
        let (base, queries) = clusters(N, d);
        all(&format!("{d} dimensions"), base, queries);
    }
    let (few, queries) = clusters(7, 20);
    all("fewer rows than k", few, queries);

    // Bytes: many scores tie, and every sum is exact.
    let bytes = clusters(N, 6).0.mapv(|v| (v * 4.0).round());
    all("whole numbers", bytes.clone(), bytes.slice(s![..QUERIES, ..]).to_owned());
}

#[test]
fn zero_rows_and_queries() {
    let (mut base, mut queries) = clusters(N, 64);
    for row in (0..N).step_by(3) {
        base.row_mut(row).fill(0.0);
    }
    queries.row_mut(3).fill(0.0);
    // Opposite to all rows, so that zero rows are nearest.
    let sum = base.sum_axis(ndarray::Axis(0));
    queries.row_mut(4).assign(&(&sum * -1.0));
    for metric in METRICS {
        check("zero rows", &base, &queries, metric, 10);
    }
    let found = eval::exact(&base.view(), &queries.view(), Metric::Cosine, 10, &|_, _| ()).unwrap();
    assert_eq!(found.row(3).to_vec(), (0..10).collect::<Vec<u64>>());
    let nothing = Array2::zeros((50, 5));
    check("nothing but zero", &nothing, &Array2::zeros((2, 5)), Metric::Cosine, 4);
}

#[test]
fn results_and_progress_on_any_number_of_threads() {
    let base = clusters(N, 16).0 * 1e-3 + 50.0;
    let queries = &base.slice(s![..600, ..]) + 1e-4;
    let mut results = Vec::new();
    for threads in [1, 2, 5] {
        let steps = Mutex::new(Vec::new());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| {
            let step = |done, total| steps.lock().unwrap().push((done, total));
            eval::exact(&base.view(), &queries.view(), Metric::L2, 20, &step).unwrap()
        });
        let steps = steps.into_inner().unwrap();
        assert!(steps.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{steps:?}");
        let (done, total) = steps.last().unwrap();
        assert_eq!(done, total);
        results.push(found);
    }
    assert!(results.iter().all(|found| *found == results[0]));
}

#[test]
fn largest_magnitudes_and_dimensions() {
    let d = 65_536;
    let base = normals(30, d, 1).mapv(|v| v.signum() * 1e15);
    let queries = base.slice(s![..3, ..]).mapv(|v| -v);
    for metric in METRICS {
        check("widest", &base, &queries, metric, 4);
    }
}
