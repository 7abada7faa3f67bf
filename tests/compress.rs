//! Transforms by themselves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use nearfield::{
    BuildError, Compressor, Index, IndexBuilder, Metric, OpenError, SearchParams, Training,
    io::{self, FileError, VectorFile},
};
use support::{METRICS, assert_devices_agree, made};

const TRANSFORMS: [&str; 6] = ["PCA7", "PCA7x8", "LIN7", "LIN7x8", "SRP7", "SRP7x8"];

fn builder<'a>(spec: &str, metric: Metric, queries: Option<&'a ArrayView2<'a, f32>>) -> IndexBuilder<'a> {
    let builder = Index::builder(format!("{spec},Flat").parse().unwrap()).metric(metric).seed(5);
    let builder = builder.training(Training { steps: 20, batch: 64, ..Default::default() });
    match queries {
        Some(queries) => builder.train_queries(queries),
        None => builder,
    }
}

/// Queries that lie elsewhere than the points.
fn strange(n: usize) -> Array2<f32> {
    let mut queries = made(n, 24, 2);
    queries.slice_mut(s![.., ..12]).mapv_inplace(|v| v * 0.1);
    queries
}

#[test]
fn a_saved_transform_and_that_of_an_index_compress_as_the_first_did() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("transform.nf");
    let (base, queries) = (made(300, 24, 1), strange(200));
    for spec in TRANSFORMS {
        for metric in METRICS {
            for queries in [None, Some(&queries.view())] {
                let first = builder(spec, metric, queries).compressor(base.view()).unwrap();
                let want = first.compress(&base.view()).unwrap();
                assert_eq!(want.dim(), (300, 7));
                first.save(&path).unwrap();
                let saved = Compressor::open(&path).unwrap();
                let context = format!("{spec} {metric}, training queries: {}", queries.is_some());
                assert_eq!(saved.compress(&base.view()).unwrap(), want, "{context}");
                assert_eq!((saved.spec(), saved.metric(), saved.dim()), (first.spec(), metric, 24));
                assert_eq!(saved.training(), first.training());
                // Saved again, and once more out of an index.
                saved.save(&path).unwrap();
                assert_eq!(
                    Compressor::open(&path).unwrap().compress(&base.view()).unwrap(),
                    want,
                    "{context}"
                );
                let index = builder(spec, metric, queries).build(base.view()).unwrap();
                index.save(&path).unwrap();
                if metric != Metric::L2 && index.metadata("version") == Some("2") {
                    // Its points lack what they have in common, its queries do not.
                    assert!(Compressor::open(&path).is_err(), "{context}");
                    continue;
                }
                let of_index = Compressor::open(&path).unwrap();
                assert_eq!(of_index.compress(&base.view()).unwrap(), want, "{context}");
                of_index.save(&path).unwrap();
                assert_eq!(
                    Compressor::open(&path).unwrap().compress(&base.view()).unwrap(),
                    want,
                    "{context}"
                );
            }
        }
    }
}

/// Rows mirrored, so that no coordinate stays by itself.
fn mirrored(rows: &Array2<f32>) -> Array2<f32> {
    let normal: Array1<f32> = (0..rows.ncols()).map(|i| 1.0 + (i * i % 7) as f32).collect();
    let along = rows.dot(&normal) * 2.0 / normal.dot(&normal);
    rows - &(along.insert_axis(Axis(1)) * &normal.insert_axis(Axis(0)))
}

fn keeps_lengths(spec: &str, base: &Array2<f32>, queries: Option<&ArrayView2<f32>>) -> bool {
    let small = builder(spec, Metric::Ip, queries).compressor(base.view()).unwrap().compress(&base.view());
    small.unwrap().outer_iter().zip(base.outer_iter()).all(|(small, given)| {
        let ratio = (small.dot(&small) / given.dot(&given)).sqrt();
        (ratio - 1.0).abs() < 1e-4
    })
}

#[test]
fn lengths_are_kept_where_that_finds_more() {
    // Of unit length, in directions that matter less and less, as those of embeddings do.
    let mut even = made(2000, 24, 1);
    even.indexed_iter_mut().for_each(|((_, i), v)| *v /= (1 + i) as f32);
    even.outer_iter_mut().for_each(|mut row| row /= row.dot(&row).sqrt());
    // Points near a subspace, and a few long ones that hardly lie in it.
    let mut uneven = made(2000, 24, 1);
    uneven.slice_mut(s![.., 7..]).mapv_inplace(|v| v * 1e-3);
    uneven.slice_mut(s![..;20, ..]).assign(&(made(100, 24, 3) * 2.0));
    uneven.slice_mut(s![..;20, ..7]).mapv_inplace(|v| v * 0.3);
    let queries = mirrored(&uneven).slice(s![1..;20, ..]).to_owned();
    for spec in TRANSFORMS {
        let is_pca = spec.starts_with("PCA");
        assert!(keeps_lengths(spec, &even, None), "{spec}");
        assert_eq!(keeps_lengths(spec, &mirrored(&uneven), Some(&queries.view())), !is_pca, "{spec}");
    }
}

#[test]
fn what_a_transform_leaves_nothing_of_is_not_made_longer() {
    // Points in a subspace around the origin, and a query at right angles to it.
    let mut base = made(300, 24, 1);
    base -= &base.mean_axis(Axis(0)).unwrap();
    base.slice_mut(s![.., 7..]).fill(0.0);
    let base = mirrored(&base);
    let mut blind = Array2::zeros((1, 24));
    blind[[0, 20]] = 1.0;
    let blind = mirrored(&blind);
    let queries = concatenate![Axis(0), blind, made(3, 24, 2)];
    for spec in ["LIN7,Flat", "LIN7x8,IVF4,SQ8", "PCA7,IVF4,PQ2x4"] {
        for metric in METRICS {
            let builder = Index::builder(spec.parse().unwrap()).metric(metric);
            let training = Training { steps: 0, ..Default::default() };
            let index = builder.training(training).build(base.view()).unwrap();
            assert_devices_agree(&index, queries.view(), SearchParams::new(5).n_probe(4), spec);
            let small = Compressor::of_index(&index).unwrap().compress(&blind.view()).unwrap();
            assert!(small.iter().all(|v| v.abs() < 1.0 / 64.0), "{spec} {metric}: {small}");
        }
    }
}

#[test]
fn trainings_that_cannot_be_are_named() {
    let base = made(100, 24, 1);
    let usual = Training::default;
    for (training, expected) in [
        (Training { batch: 1, ..usual() }, ["batch", "2 to", "1"]),
        (Training { batch: 1 << 20, ..usual() }, ["batch", "2 to", "1048576"]),
        (Training { rate: f32::NAN, ..usual() }, ["rate", "number", "NaN"]),
        (Training { direct_rate: -1.0, ..usual() }, ["direct_rate", "from 0", "-1"]),
        (Training { averaging: 1.5, ..usual() }, ["averaging", "share", "1.5"]),
        (Training { averaged_from: -0.5, ..usual() }, ["averaged_from", "share", "-0.5"]),
        (Training { evaluate_every: 0, ..usual() }, ["evaluate_every", "at least 1", "0"]),
    ] {
        let builder = Index::builder("LIN7,Flat".parse().unwrap()).training(training);
        let error = builder.build(base.view()).unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn damaged_transforms_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("transform.nf");
    for spec in TRANSFORMS {
        builder(spec, Metric::Cosine, None).compressor(made(100, 24, 1).view()).unwrap().save(&path).unwrap();
        let good = fs::read(&path).unwrap();
        for cut in (0..good.len()).step_by(5) {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(Compressor::open(&path).is_err(), "{spec}: cut at {cut} of {}", good.len());
        }
        let header = 8 + usize::try_from(u64::from_le_bytes(good[..8].try_into().unwrap())).unwrap();
        for at in 0..good.len() {
            for flip in [1, 0x10, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                fs::write(&path, &bad).unwrap();
                let opened = Compressor::open(&path);
                assert!(at < header || opened.is_err(), "{spec}: byte {at} changed unseen");
                if let Ok(opened) = opened {
                    let _ = opened.compress(&Array2::zeros((1, opened.dim())).view());
                }
            }
        }
        fs::write(&path, &good).unwrap();
        assert!(matches!(Index::open(&path), Err(OpenError::Metadata { key: "spec", .. })));
    }
}

#[test]
fn what_cannot_be_compressed_is_named() {
    let base = made(100, 24, 1);
    let none = Index::builder("IVF4,Flat".parse().unwrap()).compressor(base.view()).map(|_| ());
    assert!(matches!(none, Err(BuildError::NoTransform)), "{none:?}");

    let compressor = builder("PCA7", Metric::Cosine, None).compressor(base.view()).unwrap();
    for (rows, expected) in [
        (made(3, 23, 1), "expected 24"),
        (Array2::from_elem((3, 24), f32::NAN), "row 0"),
        (Array2::zeros((0, 24)), "row"),
    ] {
        let error = compressor.compress(&rows.view()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let zeros = Array2::zeros((3, 24));
    assert_eq!(compressor.compress(&zeros.view()).unwrap(), Array2::<f32>::zeros((3, 7)));
    let plain = Index::builder("Flat".parse().unwrap()).build(base.view()).unwrap();
    assert!(Compressor::of_index(&plain).is_none());
}

#[test]
fn an_interrupted_file_of_vectors_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vectors.npy");
    let shape = (1500, 1024);
    io::write_vectors(&path, shape, |first, rows| {
        rows.iter_mut().enumerate().for_each(|(i, v)| *v = (first * 1024 + i) as f32);
        Ok::<_, FileError>(())
    })
    .unwrap();
    let file = VectorFile::open(&path).unwrap();
    let mut row = [0.0; 1024];
    nearfield::Vectors::read(&file, 1499, &mut row);
    assert_eq!((row[0], row[1023]), (1499.0 * 1024.0, 1499.0 * 1024.0 + 1023.0));
    let old = fs::read(&path).unwrap();
    let failed = io::write_vectors(&path, shape, |first, _| {
        let error = FileError::Extension { path: "a reason".into(), expected: "another" };
        if first == 0 { Ok(()) } else { Err(error) }
    });
    assert!(failed.unwrap_err().to_string().contains("a reason"));
    assert_eq!(fs::read(&path).unwrap(), old);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
