//! Compression networks: searched by every build, trained by those with the feature `neural`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nearfield::{Device, Index, SearchParams};
use support::{METRICS, NETWORKS, assert_agree, devices, made, search, v1};

#[test]
fn networks_agree_with_the_reference() {
    let queries = made(37, 20, 2);
    for spec in NETWORKS {
        for metric in METRICS {
            let index = Index::open(v1(spec, metric)).unwrap();
            for (n_probe, n_rerank, k) in [(1, 1, 1), (2, 20, 10), (100, 300, 20)] {
                let params = SearchParams::new(k).n_probe(n_probe).n_rerank(n_rerank);
                let want = search(&index, Device::Reference, queries.view(), params);
                for device in devices() {
                    let got = search(&index, device.clone(), queries.view(), params);
                    assert_agree(&got, &want, spec, &format!("{metric} {device:?} {params:?}"));
                }
            }
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn networks_agree_on_every_tier() {
    use nearfield::{GpuOptions, Tier};
    let queries = made(150, 20, 2);
    for tier in Tier::ALL {
        if support::gpu().is_none_or(|gpu| tier > gpu.adapter().tier) {
            eprintln!("skipped: tier {tier}");
            continue;
        }
        // Chunks of few queries, too.
        for max_binding in [None, Some(1 << 16)] {
            let options = GpuOptions { tier: Some(tier), max_binding, ..Default::default() };
            let gpu = support::gpu_with(options).unwrap();
            for spec in NETWORKS {
                for metric in METRICS {
                    let index = Index::open(v1(spec, metric)).unwrap();
                    let params = SearchParams::new(10).n_probe(2).n_rerank(30);
                    let want = search(&index, Device::Reference, queries.view(), params);
                    let got = search(&index, gpu.clone().into(), queries.view(), params);
                    assert_agree(&got, &want, spec, &format!("{metric} tier {tier} {max_binding:?}"));
                }
            }
        }
    }
}

#[cfg(not(feature = "neural"))]
#[test]
fn training_wants_the_feature() {
    let base = made(50, 20, 1);
    let error = Index::builder("CNT5,Flat".parse().unwrap()).build(base.view()).unwrap_err();
    assert!(error.to_string().contains("feature `neural`"), "{error}");
}
