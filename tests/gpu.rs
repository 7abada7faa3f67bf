//! The GPU beyond plain agreement: tiers, limits, pages, streams, threads, failures.
//!
//! Runs on the first adapter there is, software included. Without one every test says so and passes, unless `REQUIRE`
//! names `gpu`.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ndarray::s;
use nearfield::{
    Device, DeviceError, Gpu, GpuError, GpuOptions, Index, Metric, NO_ID, SearchError, SearchParams, Tier,
    eval,
};
use support::{
    METRICS, SPECS, assert_agree, build, embedded_array, every_tier, gpu, gpu_name, gpu_with, made, search,
};

#[test]
fn every_tier_agrees_with_the_reference() {
    let (base, queries) = (made(300, 24, 1), made(40, 24, 2));
    let gpus = every_tier();
    for spec in SPECS {
        for metric in METRICS {
            let index = build(spec, metric, base.view());
            // Few pairs a list, then many: query-major and cluster-major.
            for rows in [1, 3, 40] {
                let queries = queries.slice(s![..rows, ..]);
                let params = SearchParams::new(10).n_probe(2).n_rerank(30);
                let want = search(&index, Device::Reference, queries, params);
                for gpu in &gpus {
                    let got = search(&index, gpu.clone().into(), queries, params);
                    let context = format!("{metric} tier {}, {rows} queries", gpu.tier());
                    assert_agree(&got, &want, spec, &context);
                }
            }
        }
    }
}

#[test]
fn small_limits_split_the_index_into_pages() {
    // 64 KiB a binding, 16 workgroups a dimension: every tensor is cut, every batch is many chunks of many rounds.
    let options = GpuOptions { max_binding: Some(1 << 16), max_workgroups: Some(16), ..Default::default() };
    let Some(gpu) = gpu_with(options) else { return };
    let (base, queries) = (made(3000, 40, 3), made(70, 40, 4));
    for spec in [
        "Flat",
        "SQ8",
        "PCA32,IVF20,RRR16,Refine(f32)",
        "IVF20,RRR16x4,Refine(f16)",
        "IVF20,SQ8,Refine(sq8)",
        "IVF20,PQ20x4,Refine(f16)",
        "IVF20,APQ17x8",
        "IVF20(soar=2),APQ20x4,Refine(f32)",
        "IVF20(soar),RRR16,Refine(f16)",
    ] {
        for (metric, k, n_probe, n_rerank) in [(Metric::Ip, 10, 4, 40), (Metric::L2, 100, 20, 300)] {
            let index = build(spec, metric, base.view());
            let params = SearchParams::new(k).n_probe(n_probe).n_rerank(n_rerank);
            let want = search(&index, Device::cpu(), queries.view(), params);
            let got = search(&index, gpu.clone().into(), queries.view(), params);
            assert_agree(&got, &want, spec, &format!("{metric} k={k}"));
        }
    }
    let too_long = made(20, 20_000, 5);
    let index = build("Flat", Metric::L2, too_long.view());
    let error = index.searcher(gpu.into()).unwrap_err();
    assert!(matches!(error, DeviceError::Gpu(GpuError::TooLarge { .. })), "{error}");
}

#[test]
fn an_index_beyond_the_memory_budget_streams_through() {
    let (base, queries) = (made(40_000, 48, 6), made(130, 48, 7));
    let options = GpuOptions { memory: Some(8 << 20), ..Default::default() };
    let Some(gpu) = gpu_with(options) else { return };
    for spec in [
        "Flat",
        "PCA32,IVF30,RRR16,Refine(f32)",
        "IVF60,RRR32,Refine(f32)",
        "IVF60(soar=2),APQ30x4,Refine(f32)",
    ] {
        let index = build(spec, Metric::L2, base.view());
        assert!(index.n_bytes() > 4 << 20);
        let searcher = index.searcher(gpu.clone().into()).unwrap();
        assert!(searcher.device().reason.contains("stream through the"), "{}", searcher.device());
        let params = SearchParams::new(10).n_probe(6).n_rerank(50);
        let want = search(&index, Device::cpu(), queries.view(), params);
        for _ in 0..2 {
            assert_agree(&searcher.search(queries.view(), params).unwrap(), &want, spec, "streamed");
        }
    }
}

#[test]
fn a_memory_budget_holds_under_many_threads() {
    let memory = 32 << 20;
    let Some(gpu) = gpu_with(GpuOptions { memory: Some(memory), ..Default::default() }) else { return };
    let (base, queries) = (made(75_000, 128, 3), made(300, 128, 4));
    let index = build("IVF128,RRR32,Refine(f16)", Metric::L2, base.view());
    let searcher = index.searcher(gpu.clone().into()).unwrap();
    let params = SearchParams::new(10).n_probe(16).n_rerank(100);
    let want = searcher.search(queries.view(), params).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(searcher.search(queries.view(), params).unwrap(), want));
        }
    });
    match gpu.allocated() {
        Some(held) => assert!(held <= memory, "{held} bytes held of {memory}"),
        None => eprintln!("skipped: this back end does not tell what it holds"),
    }
}

#[test]
fn large_k_and_n_rerank_have_no_cap() {
    let Some(gpu) = gpu() else { return };
    let (base, queries) = (made(5000, 24, 8), made(20, 24, 9));
    for spec in [
        "Flat",
        "IVF8,RRR16",
        "PCA20,IVF8,RRR16,Refine(f32)",
        "IVF8,SQ8,Refine(f16)",
        "IVF8(soar=2),PQ8x4,Refine(f16)",
    ] {
        for metric in [Metric::Cosine, Metric::L2] {
            let index = build(spec, metric, base.view());
            for (k, n_rerank) in [(1500, 1500), (1500, 3000), (1024, 1025), (5100, 5000), (10, 5000)] {
                let params = SearchParams::new(k).n_probe(8).n_rerank(n_rerank);
                let want = search(&index, Device::cpu(), queries.view(), params);
                let got = search(&index, gpu.clone().into(), queries.view(), params);
                assert_agree(&got, &want, spec, &format!("{metric} k={k} n_rerank={n_rerank}"));
            }
        }
    }
}

#[test]
fn as_many_candidates_as_points_in_several_rounds() {
    // Scratch so small that probes are cut into rounds, which then must leave room for what is kept.
    let Some(gpu) = gpu_with(GpuOptions { max_binding: Some(1 << 18), ..Default::default() }) else { return };
    let base = made(600, 40, 21);
    for rows in [5, 60] {
        let queries = made(rows, 40, 22);
        for (spec, k, n_rerank) in [
            ("IVF64,RRR32,Refine(f32)", 10, 600),
            ("IVF64,RRR32,Refine(f32)", 600, 600),
            ("IVF64,RRR32", 600, 600),
            ("IVF64,SQ8", 700, 700),
            ("IVF64(soar=2),PQ16x4", 700, 700),
            ("IVF64(soar=2),PQ16x8,Refine(f32)", 10, 600),
        ] {
            let index = build(spec, Metric::L2, base.view());
            let params = SearchParams::new(k).n_probe(64).n_rerank(n_rerank);
            let want = search(&index, Device::cpu(), queries.view(), params);
            let got = search(&index, gpu.clone().into(), queries.view(), params);
            assert_agree(&got, &want, spec, &format!("k={k}, {rows} queries"));
        }
    }
}

#[test]
fn one_long_list_among_short_ones() {
    let Some(gpu) = gpu() else { return };
    let mut base = made(209, 16, 5);
    let first = base.row(0).to_owned();
    for i in 0..200 {
        base.row_mut(i).assign(&first);
    }
    for i in 200..209 {
        base.row_mut(i).fill(0.0);
        base[[i, i - 200]] = 1000.0;
    }
    let queries = base.slice(s![199..209, ..]).to_owned();
    let index = build("IVF10,Flat", Metric::L2, base.view());
    let params = SearchParams::new(3).n_probe(3);
    let want = search(&index, Device::cpu(), queries.view(), params);
    assert_agree(&search(&index, gpu.into(), queries.view(), params), &want, "IVF10,Flat", "skewed lists");
}

#[test]
fn the_embedded_set_is_searched_alike_and_repeatedly() {
    let Some(gpu) = gpu() else { return };
    let (base, queries) = (embedded_array("base.i8bin"), embedded_array("query.i8bin"));
    for (spec, metric, floor) in [
        ("PCA128,IVF128,RRR32,Refine(f16)", Metric::Cosine, 0.96),
        ("PCA128,IVF128,RRR64x4,Refine(sq8)", Metric::Ip, 0.95),
        ("IVF128,RRR32,Refine(f32)", Metric::L2, 0.95),
        ("IVF128,SQ8,Refine(f32)", Metric::Cosine, 0.96),
        ("IVF128(soar),APQ96x4,Refine(f16)", Metric::Cosine, 0.95),
    ] {
        let index = build(spec, metric, base.view());
        let searcher = index.searcher(gpu.clone().into()).unwrap();
        let params = SearchParams::new(10).n_probe(16).n_rerank(100);
        let got = searcher.search(queries.view(), params).unwrap();
        assert_agree(&got, &search(&index, Device::cpu(), queries.view(), params), spec, "embedded");
        assert_eq!(searcher.search(queries.view(), params).unwrap(), got, "{spec}: repeated");
        let truth = eval::exact(&base.view(), &queries.view(), metric, 10, &|_, _| ()).unwrap();
        let recall = eval::Recall::new(&index, &queries.view(), truth.view(), 10).unwrap().of(got.ids.view());
        assert!(recall >= floor, "{spec}: recall {recall}");
    }
}

#[test]
fn chunks_equal_single_queries() {
    let Some(gpu) = gpu_with(GpuOptions { max_binding: Some(1 << 18), ..Default::default() }) else { return };
    let (base, queries) = (made(900, 24, 7), made(600, 24, 8));
    let index = build("PCA20,IVF16,RRR16,Refine(f16)", Metric::Cosine, base.view());
    let searcher = index.searcher(gpu.into()).unwrap();
    let params = SearchParams::new(10).n_probe(4).n_rerank(40);
    let all = searcher.search(queries.view(), params).unwrap();
    assert_agree(
        &all,
        &search(&index, Device::cpu(), queries.view(), params),
        "PCA20,IVF16,RRR16,Refine(f16)",
        "chunks",
    );
    for from in (0..600).step_by(37) {
        let rows = s![from..(from + 3).min(600), ..];
        let mut want = searcher.search(queries.slice(rows), params).unwrap();
        let got = nearfield::Hits {
            ids: all.ids.slice(rows).to_owned(),
            scores: all.scores.slice(rows).to_owned(),
        };
        // Other plans, other kernels: ids may differ where scores differ by rounding.
        assert_agree(&got, &want, "PCA20,IVF16,RRR16,Refine(f16)", "a part of the batch");
        want = searcher.search(queries.slice(rows), params).unwrap();
        assert_eq!(searcher.search(queries.slice(rows), params).unwrap(), want);
    }
}

#[test]
fn threads_share_a_searcher() {
    let Some(gpu) = gpu() else { return };
    let (base, queries) = (made(2000, 32, 10), made(64, 32, 11));
    let index = build("IVF16,RRR16,Refine(f32)", Metric::L2, base.view());
    let searcher = index.searcher(gpu.into()).unwrap();
    let ask = |t: usize| {
        let params = SearchParams::new(3 + t).n_probe(2 + t).n_rerank(50);
        searcher.search(queries.slice(s![..1 + t * 12, ..]), params).unwrap()
    };
    let alone: Vec<_> = (0..6).map(ask).collect();
    std::thread::scope(|scope| {
        for (t, alone) in alone.iter().enumerate() {
            let ask = &ask;
            scope.spawn(move || (0..10).for_each(|_| assert_eq!(ask(t), *alone)));
        }
    });
}

#[test]
fn wide_ids_come_back() {
    let Some(gpu) = gpu() else { return };
    let base = made(400, 20, 12);
    let ids: Vec<u64> = (0..400).map(|i| u64::MAX - 5 - i * 7).collect();
    let index =
        Index::builder("IVF4,RRR16,Refine(f32)".parse().unwrap()).ids(&ids).build(base.view()).unwrap();
    let params = SearchParams::new(5).n_probe(4).n_rerank(50);
    let got = search(&index, gpu.into(), base.view(), params);
    assert_eq!(got.ids, search(&index, Device::cpu(), base.view(), params).ids);
    assert!(got.ids.iter().all(|id| ids.contains(id)));
}

#[test]
fn bad_queries_are_refused_as_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let base = made(100, 20, 13);
    let index = build("IVF4,SQ8", Metric::Cosine, base.view());
    let mut queries = made(100, 20, 14);
    queries[[70, 3]] = f32::NAN;
    queries[[90, 3]] = f32::NAN;
    let params = SearchParams::new(5);
    let on = |device: Device| index.searcher(device).unwrap().search(queries.view(), params).unwrap_err();
    let error = on(gpu.clone().into());
    assert_eq!(error.to_string(), on(Device::cpu()).to_string());
    assert!(error.to_string().contains("row 70"), "{error}");
    let zero = ndarray::Array2::zeros((1, 20));
    let hits = index.searcher(gpu.into()).unwrap();
    // A zero query has no direction: k points at score 0.
    let found = hits.search(zero.view(), params).unwrap();
    assert!(
        found.scores.iter().all(|&score| score == 0.0) && found.ids.iter().all(|&id| id < 100),
        "{found:?}"
    );
    assert!(hits.search(base.view(), params).unwrap().ids.iter().all(|&id| id != NO_ID));
}

#[test]
fn a_lost_device_is_an_error_and_the_next_one_works() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let base = made(300, 20, 15);
    let index = build("IVF4,RRR16,Refine(f32)", Metric::L2, base.view());
    let searcher = index.searcher(gpu.clone().into()).unwrap();
    let params = SearchParams::new(5).n_probe(4).n_rerank(50);
    let want = searcher.search(base.view(), params).unwrap();
    gpu.destroy();
    let error = searcher.search(base.view(), params).unwrap_err();
    assert!(matches!(error, SearchError::Gpu(GpuError::Lost { .. })), "{error}");
    let error = index.searcher(gpu.into()).unwrap_err();
    assert!(matches!(error, DeviceError::Gpu(GpuError::Lost { .. })), "{error}");
    let again = gpu_with(GpuOptions::default()).unwrap();
    assert_eq!(search(&index, again.into(), base.view(), params), want);
}

#[test]
fn a_device_lost_under_running_searches_ends_them_with_its_name() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let (base, queries) = (made(3000, 32, 16), made(500, 32, 17));
    let index = build("IVF8,RRR16,Refine(f32)", Metric::L2, base.view());
    let searcher = index.searcher(gpu.clone().into()).unwrap();
    let params = SearchParams::new(5).n_probe(8).n_rerank(50);
    let want = searcher.search(queries.view(), params).unwrap();
    std::thread::scope(|scope| {
        let searches: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        if let Err(error) = searcher.search(queries.view(), params) {
                            return error;
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(100));
        gpu.destroy();
        for search in searches {
            let error = search.join().unwrap();
            assert!(matches!(error, SearchError::Gpu(GpuError::Lost { .. })), "{error}");
        }
    });
    let again = gpu_with(GpuOptions::default()).unwrap();
    assert_eq!(search(&index, again.into(), queries.view(), params), want);
}

#[test]
fn what_is_not_there_is_named() {
    let error =
        Gpu::open(&GpuOptions { name: Some("no such adapter".into()), ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("no such adapter"), "{error}");
    let error = Gpu::open(&GpuOptions { memory: Some(1000), ..Default::default() }).unwrap_err();
    assert!(matches!(error, GpuError::Budget { given: 1000, .. }), "{error}");
    for name in ["", " ", "0"] {
        let options = GpuOptions { name: Some(name.into()), ..Default::default() };
        assert!(matches!(Gpu::open(&options), Err(GpuError::NotFound { .. })), "{name}");
    }
    let index = build("Flat", Metric::L2, made(10, 8, 18).view());
    let base = made(10, 8, 18);
    let reference = index.searcher(Device::Reference).unwrap();
    let error = reference.profile(&base.view(), SearchParams::new(2)).unwrap_err();
    assert!(error.to_string().contains("reference"), "{error}");
    // Software is used only when asked for by name.
    let auto = index.searcher(Device::auto()).unwrap();
    match Gpu::adapters().first() {
        Some(adapter) if !adapter.is_software() => assert!(auto.device().name.starts_with("gpu:")),
        _ => {
            assert!(auto.device().name.starts_with("cpu:"), "{}", auto.device());
            assert!(auto.device().reason.contains("GPU"), "{}", auto.device());
        }
    }
    let Some(name) = gpu_name() else { return };
    let best = gpu().unwrap().adapter().tier;
    if best < Tier::SubgroupsF16 {
        let options = GpuOptions { name: Some(name), tier: Some(Tier::SubgroupsF16), ..Default::default() };
        assert!(matches!(Gpu::open(&options), Err(GpuError::Tier { .. })));
    }
}

#[test]
fn profiles_name_every_kernel() {
    let Some(gpu) = gpu() else { return };
    let (base, queries) = (made(2000, 32, 19), made(100, 32, 20));
    let index = build("PCA24,IVF8,RRR16,Refine(f32)", Metric::L2, base.view());
    let searcher = index.searcher(gpu.into()).unwrap();
    let params = SearchParams::new(5).n_probe(3).n_rerank(50);
    match searcher.profile(&queries.view(), params) {
        Ok((hits, profile)) => {
            assert_eq!(hits, searcher.search(queries.view(), params).unwrap());
            let text = profile.to_string();
            for kernel in [
                "transform_project",
                "quantise",
                "router_score",
                "pairs_count",
                "scorer_rrr_project",
                "scorer_run_score",
                "candidates_select",
                "rerank_score",
                "candidates_sort",
            ] {
                assert!(text.contains(kernel), "{kernel} in\n{text}");
            }
            assert!(profile.kernels.values().all(|time| time.dispatches > 0 && time.bytes > 0.0));
        }
        Err(error) => assert!(matches!(error, SearchError::NoProfile(_)), "{error}"),
    }
}
