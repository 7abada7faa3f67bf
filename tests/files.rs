//! Index files: whole, checked, versioned, reproducible.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, path::Path};

use ndarray::{Array2, Axis};
use nearfield::{Device, Index, Metric, OpenError, SearchParams, Training};
use proptest::prelude::*;
use support::{
    FRAMED, METRICS, NETWORKS, SPECS, build, framed, kept, made, search, v1, with_random_networks,
};

#[test]
fn a_saved_index_answers_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    let (base, queries) = (made(200, 20, 1), made(10, 20, 2));
    for spec in SPECS {
        for metric in METRICS {
            let index = build(spec, metric, base.view());
            index.save(&path).unwrap();
            let opened = Index::open(&path).unwrap();
            opened.verify().unwrap();
            assert_eq!(
                (opened.spec(), opened.metric(), opened.len(), opened.dim()),
                (index.spec(), metric, 200, 20)
            );
            assert_eq!(opened.n_bytes() as u64, fs::metadata(&path).unwrap().len());
            let params = SearchParams::new(7).n_probe(3);
            let want = search(&index, Device::cpu(), queries.view(), params);
            for opened in [opened, Index::load(&path).unwrap()] {
                assert_eq!(search(&opened, Device::cpu(), queries.view(), params), want, "{spec} {metric}");
            }
        }
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "temporary files are left: {left:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_index_survives_saving(n in 1_usize..120, d in 1_usize..40, which in 0..SPECS.len(), seed in 0_u64..99) {
        let spec: nearfield::IndexSpec = SPECS[which].parse().unwrap();
        prop_assume!(spec.resolve(n, d).is_ok());
        let base = made(n, d, seed);
        let index = Index::builder(spec).metric(Metric::L2).seed(seed).build(base.view()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.nf");
        index.save(&path).unwrap();
        let opened = Index::open(&path).unwrap();
        opened.verify().unwrap();
        let params = SearchParams::new(5).n_probe(2);
        prop_assert_eq!(
            search(&opened, Device::cpu(), base.view(), params),
            search(&index, Device::cpu(), base.view(), params)
        );
    }
}

#[test]
fn builds_are_reproducible_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (base, train) = (made(3000, 40, 1), made(900, 40, 9));
    let train = train.view();
    for spec in [
        "PCA24,IVF32,RRR16x4,Refine(f16)",
        "IVF20,SQ8,Refine(sq8)",
        "PCA20,IVF10,Flat",
        "IVF10(soar,T=0.1),APQ9x4",
        "LIN10,IVF10,SQ8",
        "PCA20,IVF16(soar,router=linear),APQ5x4",
    ] {
        for queries in [false, true] {
            let files: Vec<Vec<u8>> = [1, 2, 7, 1]
                .iter()
                .enumerate()
                .map(|(i, &threads)| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let training = Training { steps: 30, ..Default::default() };
                    let mut builder = Index::builder(spec.parse().unwrap()).metric(Metric::Cosine).seed(5);
                    builder = builder.training(training);
                    if queries {
                        builder = builder.train_queries(&train);
                    }
                    let index = pool.install(|| builder.build(base.view())).unwrap();
                    let path = folder.path().join(format!("{i}.nf"));
                    index.save(&path).unwrap();
                    fs::read(path).unwrap()
                })
                .collect();
            assert!(files.windows(2).all(|w| w[0] == w[1]), "{spec}, training queries: {queries}");
        }
    }
    let seeds: Vec<_> = [1, 2]
        .map(|seed| {
            let builder = Index::builder("IVF32,Flat".parse().unwrap()).seed(seed);
            builder.build(base.view()).unwrap().list_sizes()
        })
        .to_vec();
    assert_ne!(seeds[0], seeds[1], "seeds make no difference");
}

#[test]
fn ids_are_kept() {
    let base = made(100, 16, 1);
    for offset in [1_u64 << 20, 1 << 40] {
        let ids: Vec<u64> = (0..100).map(|i| offset + i * 3).collect();
        for spec in ["Flat", "IVF4,RRR16,Refine(f32)"] {
            let index = Index::builder(spec.parse().unwrap()).ids(&ids).build(base.view()).unwrap();
            let hits = search(&index, Device::cpu(), base.view(), SearchParams::new(1).n_probe(4));
            assert_eq!(hits.ids.column(0).to_vec(), ids, "{spec}");
        }
    }
}

/// Opens bytes as a file and searches whatever opens; must not panic.
fn try_file(path: &Path, bytes: &[u8], queries: &Array2<f32>) -> Result<(), OpenError> {
    fs::write(path, bytes).unwrap();
    let index = Index::open(path)?;
    if index.dim() == queries.ncols() {
        let params = SearchParams::new(3).n_probe(2).threads(1);
        let _ = index.searcher(Device::cpu()).unwrap().search(queries.view(), params);
    }
    index.verify()
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.nf");
    let queries = made(2, 20, 2);
    for spec in [
        "PCA16,IVF3,RRR16,Refine(sq8)",
        "IVF3,SQ8,Refine(f16)",
        "IVF3(soar=1),APQ7x4",
        "IVF2,PQ5x8,Refine(f32)",
    ] {
        let index = build(spec, Metric::L2, made(60, 20, 1).view());
        index.save(&path).unwrap();
        let good = fs::read(&path).unwrap();
        let header = 8 + usize::try_from(u64::from_le_bytes(good[..8].try_into().unwrap())).unwrap();
        // Cut short: at every length of the header, and around every tensor's edge.
        let mut cuts: Vec<usize> = (0..header).step_by(7).collect();
        let mut edge = header;
        for tensor in index.tensors() {
            edge += tensor.bytes;
            cuts.extend([edge.saturating_sub(tensor.bytes), edge - 1]);
        }
        for cut in cuts {
            assert!(
                try_file(&path, &good[..cut], &queries).is_err(),
                "{spec}: cut at {cut} of {}",
                good.len()
            );
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(try_file(&path, &longer, &queries).is_err(), "{spec}: a byte too many");
        // Every byte of the header changed; a changed space or seed may still open.
        for at in 0..header {
            for flip in [1_u8, 0x10, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let _ = try_file(&path, &bad, &queries);
            }
        }
        // Every byte of the tensors matters to `verify`.
        for at in (header..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            assert!(try_file(&path, &bad, &queries).is_err(), "{spec}: byte {at} changed unseen");
        }
    }
    for (bytes, what) in [
        (Vec::new(), "empty"),
        (b"PK\x03\x04 something else entirely".to_vec(), "foreign"),
        (u64::MAX.to_le_bytes().to_vec(), "huge header"),
        (vec![0; 4096], "zeros"),
    ] {
        assert!(try_file(&path, &bytes, &queries).is_err(), "{what}");
    }
    assert!(matches!(Index::open(folder.path()), Err(OpenError::Foreign { .. } | OpenError::Io { .. })));
    assert!(matches!(Index::open(folder.path().join("none.nf")), Err(OpenError::Io { .. })));
}

/// Rewrites the header of an index with `change`, lengths kept right.
fn with_header(good: &[u8], change: impl Fn(String) -> String) -> Vec<u8> {
    let header = usize::try_from(u64::from_le_bytes(good[..8].try_into().unwrap())).unwrap();
    let text = String::from_utf8(good[8..8 + header].to_vec()).unwrap();
    let changed = change(text).into_bytes();
    [&(changed.len() as u64).to_le_bytes()[..], &changed, &good[8 + header..]].concat()
}

#[test]
fn metadata_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    build("PCA16,IVF3,RRR16,Refine(f32)", Metric::L2, made(60, 20, 1).view()).save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for (from, to, expected) in [
        (r#""version":"2""#, r#""version":"3""#, "version"),
        (r#""format":"nearfield""#, r#""format":"nearfiell""#, "format"),
        (r#""metric":"l2""#, r#""metric":"xx""#, "metric"),
        (r#""n":"60""#, r#""n":"61""#, "tensor"),
        (r#""n":"60""#, r#""n":"18446744073709551615""#, "`n`"),
        (r#""n":"60""#, r#""n":"0""#, "`n`"),
        (r#""dim":"20""#, r#""dim":"24""#, "tensor"),
        (r#""dim":"20""#, r#""dim":"0""#, "`dim`"),
        ("PCA16,IVF3,RRR16", "PCA16,IVF4,RRR16", "tensor"),
        ("PCA16,IVF3,RRR16", "PCA16,IVF3,RRR32", "spec"),
        ("PCA16,IVF3,RRR16", "PCA16,IVF,RRR16", "spec"),
    ] {
        let bad = with_header(&good, |text| {
            assert!(text.contains(from), "{from} not in the header");
            text.replace(from, to)
        });
        fs::write(&path, bad).unwrap();
        let error = Index::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn tensors_at_odd_addresses_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    let queries = made(2, 20, 2);
    for spec in ["PCA16,IVF3,RRR16,Refine(f32)", "Flat", "SQ8"] {
        build(spec, Metric::L2, made(60, 20, 1).view()).save(&path).unwrap();
        let good = fs::read(&path).unwrap();
        for spaces in 1..8 {
            let shifted = with_header(&good, |text| text + &" ".repeat(spaces));
            // Four bytes on, f32 stands aligned again: such a file may open, and searching it is safe.
            match try_file(&path, &shifted, &queries) {
                Ok(()) => assert_eq!(spaces, 4, "{spec}"),
                Err(error) => assert!(error.to_string().contains("not aligned"), "{spec}: {error}"),
            }
        }
    }
}

#[test]
fn offsets_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    let index = build("IVF3,Flat", Metric::L2, made(60, 20, 1).view());
    index.save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let sizes = index.list_sizes();
    let offsets: Vec<u8> =
        [0, sizes[0], sizes[0] + sizes[1], 60].iter().flat_map(|&o| (o as u64).to_le_bytes()).collect();
    let at = good.windows(offsets.len()).position(|w| w == offsets).unwrap();
    for (entry, value) in [(0, 1_u64), (1, 61), (1, u64::MAX), (3, 59), (3, u64::MAX)] {
        let mut bad = good.clone();
        bad[at + entry * 8..at + entry * 8 + 8].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, bad).unwrap();
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Value { name, .. } if name == "lists.offsets"), "{error}");
    }
}

/// Where a tensor begins in an index file.
fn tensor_at(file: &[u8], name: &str) -> usize {
    let header = 8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
    header + usize::try_from(json[name]["data_offsets"][0].as_u64().unwrap()).unwrap()
}

#[test]
fn copies_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    let index = build("IVF6(soar=2),SQ8", Metric::L2, made(60, 20, 1).view());
    index.save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let at = tensor_at(&good, "lists.points");
    let first = u32::from_le_bytes(good[at..at + 4].try_into().unwrap());
    // Past the last point, and a point once too often, at the cost of another.
    for (value, expected) in [(60, "below 60"), (u32::MAX, "below 60"), ((first + 1) % 60, "3 times")] {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, bad).unwrap();
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Value { name, .. } if name == "lists.points"), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Files of version 1 that must open for ever, and what they answered when they were written.
/// `BLESS=1 cargo test --test files` writes those that do not exist.
#[test]
fn files_of_version_1_open() {
    files_open(1, SPECS.into_iter().chain(NETWORKS), &made(120, 20, 1), &made(5, 20, 2));
}

#[test]
fn files_of_version_2_open() {
    files_open(2, FRAMED.into_iter(), &framed(120, 20, 1), &framed(5, 20, 2));
    // What needs no newer reader is written for older ones.
    let centred = made(120, 20, 1) - made(120, 20, 1).mean_axis(Axis(0)).unwrap();
    for (base, version) in [(centred, "1"), (framed(120, 20, 1), "2")] {
        let index = build("IVF5,SQ8,Refine(sq8)", Metric::L2, base.view());
        assert_eq!(index.metadata("version"), Some(version));
    }
}

fn files_open(
    version: u32,
    specs: impl Iterator<Item = &'static str>,
    base: &Array2<f32>,
    queries: &Array2<f32>,
) {
    for spec in specs {
        for metric in METRICS {
            let file = kept(version, spec, metric);
            let (name, answers) = (file.display(), file.with_extension("npy"));
            let params = SearchParams::new(5).n_probe(2).n_rerank(20);
            if !file.exists() && std::env::var("BLESS").is_ok() {
                let index = build(spec, metric, base.view());
                index.save(&file).unwrap();
                if NETWORKS.contains(&spec) {
                    fs::write(&file, with_random_networks(&fs::read(&file).unwrap())).unwrap();
                }
                let index = Index::open(&file).unwrap();
                let hits = search(&index, Device::Reference, queries.view(), params);
                nearfield::io::write_ids(&answers, hits.ids.view()).unwrap();
            }
            let index = Index::open(&file).unwrap();
            index.verify().unwrap();
            assert_eq!((index.spec().to_string(), index.metric()), (spec.to_owned(), metric));
            let want = nearfield::io::read_ids(&answers).unwrap();
            for device in [Device::Reference, Device::cpu()] {
                let hits = search(&index, device.clone(), queries.view(), params);
                assert_eq!(hits.ids, want, "{name} on {device:?}");
            }
        }
    }
}

#[test]
fn networks_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    let good = fs::read(v1(NETWORKS[2], Metric::Ip)).unwrap();
    for (name, bytes) in [("cnt.weights", &[0x00, 0x7c][..]), ("cnt.biases", &f32::NAN.to_le_bytes())] {
        let mut bad = good.clone();
        let at = tensor_at(&good, name);
        bad[at + bytes.len()..at + 2 * bytes.len()].copy_from_slice(bytes);
        fs::write(&path, bad).unwrap();
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Value { name: n, .. } if n == name), "{error}");
    }
    for (spec, name) in [(NETWORKS[4], "router.network_biases"), (NETWORKS[7], "cnn.biases")] {
        let mut bad = fs::read(v1(spec, Metric::Ip)).unwrap();
        let at = tensor_at(&bad, name);
        bad[at + 8..at + 12].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&path, bad).unwrap();
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Value { name: n, .. } if n == name), "{error}");
    }
    // As many weights as another shape has.
    let at = good.windows(8).position(|text| text == b"tokens=3").unwrap();
    let mut bad = good.clone();
    bad[at..at + 8].copy_from_slice(b"tokens=5");
    fs::write(&path, bad).unwrap();
    let error = Index::open(&path).unwrap_err();
    assert!(matches!(&error, OpenError::Tensor { name, .. } if name == "cnt.weights"), "{error}");
}

#[test]
fn axes_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    let index = build("PCA17x8,SQ8", Metric::L2, made(60, 20, 1).view());
    index.save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let run = tensor_at(&good, "transform.axes");
    // Two blocks of 19 codes in 5 groups of 4; then a component 0 for each place, then the scales in bf16.
    let (firsts, scales) = (run + 2 * 5 * 64, run + 2 * 5 * 64 + 32 * 4);
    for (at, bytes) in [
        (firsts, &f32::NAN.to_le_bytes()[..]),
        (firsts + 31 * 4, &f32::INFINITY.to_le_bytes()),
        (scales, &[0x80, 0x7f]),
        (scales + 31 * 2, &[0xff, 0xff]),
    ] {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, bad).unwrap();
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Value { name, .. } if name == "transform.axes"), "{error}");
    }
}
