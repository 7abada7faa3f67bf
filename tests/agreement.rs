//! Every instruction set against the reference, end to end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ndarray::{Array2, Axis, concatenate, s};
use nearfield::{Device, Hits, IndexSpec, Metric, NO_ID, SearchParams};
use support::{FRAMED, METRICS, SPECS, assert_devices_agree, build, devices, framed, made, search};

#[test]
fn all_specs_agree_with_the_reference() {
    let (base, queries) = (made(300, 24, 1), made(40, 24, 2));
    for spec in SPECS {
        for metric in METRICS {
            let index = build(spec, metric, base.view());
            for (n_probe, n_rerank, k) in [(1, 1, 1), (2, 20, 10), (100, 300, 20)] {
                let params = SearchParams::new(k).n_probe(n_probe).n_rerank(n_rerank);
                assert_devices_agree(&index, queries.view(), params, spec);
            }
        }
    }
}

#[test]
fn framed_specs_agree_with_the_reference() {
    let (base, queries) = (framed(300, 24, 1), framed(40, 24, 2));
    for spec in FRAMED {
        for metric in METRICS {
            let index = build(spec, metric, base.view());
            assert_eq!(index.metadata("version"), Some("2"), "{spec} {metric}");
            for (n_probe, n_rerank, k) in [(1, 1, 1), (2, 20, 10), (100, 300, 20)] {
                let params = SearchParams::new(k).n_probe(n_probe).n_rerank(n_rerank);
                assert_devices_agree(&index, queries.view(), params, spec);
            }
        }
    }
}

#[test]
fn edge_shapes_agree_with_the_reference() {
    for (n, d) in [(1, 1), (1, 16), (2, 3), (15, 17), (16, 16), (17, 20), (33, 16), (65, 19), (150, 33)] {
        let (base, queries) = (made(n, d, 3), made(3, d, 4));
        for spec in SPECS {
            let parsed: IndexSpec = spec.parse().unwrap();
            if parsed.resolve(n, d).is_err() {
                continue;
            }
            for metric in METRICS {
                let index = build(spec, metric, base.view());
                for k in [1, n, n + 5] {
                    let params = SearchParams::new(k).n_probe(1 + n / 20);
                    assert_devices_agree(&index, queries.view(), params, spec);
                }
            }
        }
    }
}

#[test]
fn ties_go_to_lower_ids() {
    // Small integers: every score is exact, so equal rows tie on every device.
    let one = Array2::from_shape_fn((1, 16), |(_, j)| (j % 5) as f32 - 1.0);
    let base = concatenate(Axis(0), &vec![one.view(); 70]).unwrap();
    for spec in ["Flat", "SQ8", "IVF3,Flat", "IVF2,RRR16", "IVF2,RRR16,Refine(f32)"] {
        for metric in METRICS {
            let index = build(spec, metric, base.view());
            for device in devices().into_iter().chain([Device::Reference]) {
                let params = SearchParams::new(20).n_probe(3).n_rerank(20);
                let hits = search(&index, device.clone(), one.view(), params);
                let want: Vec<u64> = (0..20).collect();
                assert_eq!(hits.ids.row(0).to_vec(), want, "{spec} {metric} {device:?}");
            }
        }
    }
}

#[test]
fn zero_rows_and_zero_queries() {
    let mut base = made(50, 18, 5);
    base.slice_mut(s![10..20, ..]).fill(0.0);
    let zero = Array2::zeros((1, 18));
    for spec in SPECS {
        if spec.parse::<IndexSpec>().unwrap().resolve(50, 18).is_err() {
            continue;
        }
        for metric in [Metric::Ip, Metric::L2] {
            let index = build(spec, metric, base.view());
            let params = SearchParams::new(15).n_probe(50).n_rerank(50);
            assert_devices_agree(&index, zero.view(), params, spec);
        }
    }
}

#[test]
fn duplicates_are_found_in_spite_of_empty_lists() {
    for share in [2, 1] {
        let mut base = made(600, 20, 9);
        let first = base.row(0).to_owned();
        base.outer_iter_mut().step_by(share).for_each(|mut row| row.assign(&first));
        let query = first.insert_axis(Axis(0));
        for spec in ["IVF64,Flat", "IVF64,RRR16,Refine(f32)"] {
            for metric in METRICS {
                let index = build(spec, metric, base.view());
                let params = SearchParams::new(5).n_probe(2).n_rerank(10);
                for device in devices().into_iter().chain([Device::Reference]) {
                    let hits = search(&index, device.clone(), query.view(), params);
                    let found = hits.ids.iter().filter(|&&id| id != NO_ID).count();
                    assert_eq!(found, 5, "{spec} {metric} {device:?}, one row in {share} alike");
                    if metric != Metric::Ip {
                        assert!(
                            hits.ids.iter().all(|&id| base.row(usize::try_from(id).unwrap()) == query.row(0))
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn results_are_padded() {
    let base = made(7, 16, 6);
    for spec in ["Flat", "IVF2,RRR16,Refine(f16)"] {
        for metric in METRICS {
            let index = build(spec, metric, base.view());
            let hits = search(&index, Device::cpu(), base.view(), SearchParams::new(12).n_probe(2));
            for (ids, scores) in hits.ids.outer_iter().zip(hits.scores.outer_iter()) {
                assert!(ids.iter().take(7).all(|&id| id < 7));
                assert!(ids.iter().skip(7).all(|&id| id == NO_ID));
                assert!(scores.iter().skip(7).all(|&s| s == metric.worst_score()));
            }
        }
    }
}

#[test]
fn batches_equal_single_queries_on_any_number_of_threads() {
    // Enough queries for lists to be shared, and a number that leaves some over.
    let (base, queries) = (made(500, 24, 7), made(203, 24, 8));
    for (spec, metric) in SPECS.into_iter().zip(METRICS.into_iter().cycle()) {
        let index = build(spec, metric, base.view());
        for device in devices() {
            let searcher = index.searcher(device.clone()).unwrap();
            let params = SearchParams::new(10).n_probe(4).n_rerank(40);
            // Some of them on a GPU, which may be one in software.
            let every = if matches!(device, Device::CpuWith(_)) { 1 } else { 20 };
            let rows: Vec<usize> = (0..queries.nrows()).step_by(every).collect();
            let alone: Vec<Hits> = rows
                .iter()
                .map(|&row| searcher.search(queries.slice(s![row..=row, ..]), params).unwrap())
                .collect();
            for threads in [1, 0, 3] {
                let got = searcher.search(queries.view(), params.threads(threads)).unwrap();
                for (&row, alone) in rows.iter().zip(&alone) {
                    let context = format!("{spec} {metric} {device:?} {threads} threads, query {row}");
                    assert_eq!(got.ids.row(row), alone.ids.row(0), "{context}");
                    assert_eq!(got.scores.row(row), alone.scores.row(0), "{context}");
                }
            }
        }
    }
}

#[test]
fn profiles_name_every_stage() {
    let (base, queries) = (made(500, 24, 9), made(150, 24, 10));
    let index = build("PCA20,IVF16,RRR16,Refine(f16)", Metric::Cosine, base.view());
    let searcher = index.searcher(Device::cpu()).unwrap();
    let params = SearchParams::new(5).n_probe(3).threads(1);
    // A search that fails half-way leaves nothing behind.
    let mut spoilt = queries.clone();
    spoilt[(149, 3)] = f32::NAN;
    assert!(searcher.profile(&spoilt.view(), params).is_err());
    for n in [1_u16, 150] {
        let queries = queries.slice(s![..usize::from(n), ..]);
        let (hits, profile) = searcher.profile(&queries, params).unwrap();
        assert_eq!(hits, searcher.search(queries, params).unwrap());
        let stages: Vec<&str> = profile.kernels.keys().map(String::as_str).collect();
        assert_eq!(stages, ["prepare", "project", "rerank", "route", "score", "select"]);
        for (stage, time) in &profile.kernels {
            assert_eq!(time.dispatches, u64::from(n), "{stage}");
            let counts = !["prepare", "select"].contains(&stage.as_str());
            assert!(time.seconds > 0.0 && (time.bytes > 0.0) == counts, "{stage}: {time:?}");
        }
    }
}
