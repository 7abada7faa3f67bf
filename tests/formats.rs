//! Files of vectors and ids as other programs write them (`tests/data/formats/make.py`), and back again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use nearfield::{
    Vectors,
    io::{self, VectorFile},
};
use support::npy;

const N: usize = 40;
const D: usize = 6;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats").join(name)
}

/// What every file holds at a row and a column.
fn value(row: usize, column: usize) -> f32 {
    ((row * 7 + column * 3) % 61) as f32 / 2.0 - 15.0
}

#[track_caller]
fn holds(path: &Path, n: usize, first: usize, factor: f32) {
    let vectors = VectorFile::open(path).unwrap();
    assert_eq!((vectors.n_rows(), vectors.dim()), (n, D), "{}", path.display());
    let mut row = [0.0; D];
    for i in 0..n {
        vectors.read(i, &mut row);
        let want: Vec<f32> = (0..D).map(|j| factor * value(first + i, j)).collect();
        assert_eq!(row[..], want, "{} row {i}", path.display());
    }
}

#[track_caller]
fn refuses(path: &Path, says: &[&str]) {
    let error = VectorFile::open(path).err().unwrap().to_string();
    for part in says {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn safetensors_are_read() {
    holds(&file("three.safetensors:a"), N, 0, 1.0);
    holds(&file("three.safetensors:b"), N, 0, 2.0);
    holds(&file("three.safetensors:half"), N, 0, 1.0);
    holds(&file("one.safetensors"), N, 0, 1.0);
    holds(&file("f64.npy"), N, 0, 1.0);
    refuses(&file("three.safetensors"), &["file.safetensors:name", "a, b, half"]);
    refuses(&file("three.safetensors:c"), &["`c`", "a, b, half"]);
}

#[cfg(feature = "arrow")]
#[test]
fn columns_are_read() {
    for compression in ["snappy", "zstd", "gzip", "lz4", "none"] {
        for column in ["f32", "f16", "f64", "large"] {
            holds(&file(&format!("{compression}.parquet:{column}")), N, 0, 1.0);
        }
        let ids = io::read_ids(file(&format!("{compression}.parquet:id"))).unwrap();
        assert_eq!(ids.dim(), (N, 1));
        assert!(ids.iter().enumerate().all(|(i, &id)| id == i as u64 * 11 + 5));
    }
    for name in ["file.arrow", "stream.arrow", "lz4.feather"] {
        for column in ["f32", "f16", "f64", "large"] {
            holds(&file(&format!("{name}:{column}")), N, 0, 1.0);
        }
    }
    // The only list, and the only integers.
    holds(&file("plain.parquet"), N, 0, 1.0);
    refuses(&file("snappy.parquet"), &["file.parquet:name", "f32", "large", "text"]);
    refuses(&file("snappy.parquet:nothing"), &["`nothing`", "large"]);
    refuses(&file("snappy.parquet:text"), &["column of numbers", "Utf8"]);
    refuses(&file("snappy.parquet:id"), &["i64"]);
    refuses(&file("brotli.parquet:f32"), &["brotli"]);
    refuses(&file("ragged.parquet"), &["one length", "row 1"]);
    refuses(&file("null.parquet"), &["none in row 1"]);
}

/// Lists of no values take no bytes, however many a file says there are.
#[cfg(feature = "arrow")]
#[test]
fn empty_lists_without_end_are_refused() {
    use std::sync::Arc;

    use arrow_array::{Array, FixedSizeListArray, Float32Array, RecordBatch};
    use arrow_schema::{DataType, Field, Schema};
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    let values = Arc::new(Float32Array::from(Vec::<f32>::new()));
    let lists = FixedSizeListArray::try_new_with_length(item, 0, values, None, 1 << 45).unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("a", lists.data_type().clone(), false)]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endless.arrow");
    let mut writer =
        arrow_ipc::writer::FileWriter::try_new(std::fs::File::create(&path).unwrap(), &schema).unwrap();
    writer.write(&RecordBatch::try_new(schema, vec![Arc::new(lists)]).unwrap()).unwrap();
    writer.finish().unwrap();
    refuses(&path, &["at least one value"]);
}

#[cfg(feature = "hdf5")]
#[test]
fn datasets_are_read() {
    for (name, metric) in [("l2.hdf5", nearfield::Metric::L2), ("chunked.hdf5", nearfield::Metric::Cosine)] {
        holds(&file(&format!("{name}:train")), 30, 0, 1.0);
        holds(&file(&format!("{name}:test")), 10, 30, 1.0);
        assert_eq!(io::read_ids(file(&format!("{name}:neighbors"))).unwrap().dim(), (10, 10));
        assert_eq!(io::hdf5_metric(file(name)).unwrap(), metric);
    }
    refuses(&file("l2.hdf5"), &["file.hdf5:train", "distances, neighbors, test, train"]);
    refuses(&file("l2.hdf5:base"), &["`base`"]);
}

#[test]
fn every_format_converts_to_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut names = vec!["a.npy", "a.fvecs", "a.fbin", "a.safetensors"];
    if cfg!(feature = "arrow") {
        names.extend(["a.parquet", "a.arrow", "a.feather"]);
    }
    if cfg!(feature = "hdf5") {
        names.push("a.hdf5");
    }
    let mut at = file("f64.npy");
    for from in &names {
        let first = folder.path().join(from);
        let (n, d, _) = io::convert(&at, &first, Some("f32"), &|_, _| ()).unwrap();
        assert_eq!((n, d), (N, D));
        holds(&first, N, 0, 1.0);
        for to in &names {
            let second = folder.path().join(format!("b{}", &to[1..]));
            io::convert(&first, &second, None, &|_, _| ()).unwrap();
            holds(&second, N, 0, 1.0);
        }
        at = first;
    }
}

#[test]
fn types_hold_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let to = |name: &str| folder.path().join(name);
    // Bytes by way of i8 and back; halves are not whole.
    let (_, _, dtype) = io::convert(&file("three.safetensors:b"), &to("b.i8bin"), None, &|_, _| ()).unwrap();
    assert_eq!(dtype, "i8");
    holds(&to("b.i8bin"), N, 0, 2.0);
    let error = io::convert(&file("one.safetensors"), &to("c.i8bin"), None, &|_, _| ()).unwrap_err();
    assert!(error.to_string().contains("row 0, column 1: i8 does not hold -13.5"), "{error}");
    assert!(!to("c.i8bin").exists());
    let error = io::convert(&file("three.safetensors:b"), &to("d.u8bin"), None, &|_, _| ()).unwrap_err();
    assert!(error.to_string().contains("u8 does not hold -30"), "{error}");
    for (name, dtype, says) in [
        ("e.fvecs", Some("f16"), "a .fvecs file holds f32, got f16"),
        ("e.npy", Some("f128"), "expected a type of f32, f16"),
        ("e.csv", None, ".npy, .fvecs"),
    ] {
        let error = io::convert(&file("one.safetensors"), &to(name), dtype, &|_, _| ()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    io::convert(&file("one.safetensors"), &to("half.npy"), Some("f16"), &|_, _| ()).unwrap();
    assert_eq!(VectorFile::open(to("half.npy")).unwrap().dtype(), "f16");
    holds(&to("half.npy"), N, 0, 1.0);
}

/// Writes a file to a folder and returns its path.
fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Values of 16 bits of both signs, in every format that keeps its type.
#[test]
fn sixteen_bit_integers_are_read_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<i16> = vec![-32768, -1, 0, 1, 2, 32767];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let first = write(&folder, "a.npy", &npy("<i2", "(2, 3)", &bytes));
    let mut names = vec!["b.npy", "b.safetensors", "b.fvecs"];
    if cfg!(feature = "arrow") {
        names.extend(["b.parquet", "b.arrow"]);
    }
    if cfg!(feature = "hdf5") {
        names.push("b.hdf5");
    }
    for name in names {
        let to = folder.path().join(name);
        let (n, d, dtype) = io::convert(&first, &to, None, &|_, _| ()).unwrap();
        assert_eq!((n, d, dtype), (2, 3, if name == "b.fvecs" { "f32" } else { "i16" }), "{name}");
        let vectors = VectorFile::open(&to).unwrap();
        assert_eq!(vectors.dtype(), dtype, "{name}");
        let mut row = [0.0; 3];
        for (i, want) in values.chunks(3).enumerate() {
            vectors.read(i, &mut row);
            assert!(row.iter().zip(want).all(|(v, w)| *v == f32::from(*w)), "{name} row {i}: {row:?}");
        }
    }
    let error = io::convert(&first, &folder.path().join("c.i8bin"), None, &|_, _| ()).unwrap_err();
    assert!(error.to_string().contains("i8 does not hold -32768"), "{error}");
    let ids = io::read_ids(&first).unwrap_err().to_string();
    assert!(ids.contains("expected i32, i64, u32 or u64 ids, got i16"), "{ids}");
}

/// An error of types says what to do.
#[test]
fn types_that_are_not_read_are_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    for (descr, bytes, says) in [
        ("<i8", 8, &["got i64", "x.astype(\"float32\")"][..]),
        ("<u8", 8, &["got u64", "x.astype(\"float32\")"]),
        ("<u4", 4, &["got u32", "--dtype f32"]),
        ("<u2", 2, &["<u2", "bfloat16", "x.astype(\"float32\")", "ml_dtypes.bfloat16"]),
        ("|V2", 2, &["V2", "bfloat16", "ml_dtypes.bfloat16"]),
        ("<V2", 2, &["V2", "bfloat16", "ml_dtypes.bfloat16"]),
        (">f4", 4, &["little-endian", ">f4", "x.astype(\"float32\")"]),
        ("<c8", 8, &["f32, f16, f64, u8, i8, i16 or i32", "<c8", "x.astype(\"float32\")"]),
    ] {
        refuses(&write(&folder, "a.npy", &npy(descr, "(2, 3)", &vec![0; 6 * bytes])), says);
    }
    // What the message says does it.
    let wide: Vec<u8> = (0..6_i64).flat_map(i64::to_le_bytes).collect();
    let path = write(&folder, "a.npy", &npy("<i8", "(2, 3)", &wide));
    io::convert(&path, &folder.path().join("b.npy"), Some("f32"), &|_, _| ()).unwrap();
    assert_eq!(VectorFile::open(folder.path().join("b.npy")).unwrap().dtype(), "f32");
    for (name, feature, says) in [
        ("c.safetensors", true, "save the tensor as float32"),
        ("c.parquet", cfg!(feature = "arrow"), "cast the column to lists of float32"),
        ("c.arrow", cfg!(feature = "arrow"), "cast the column to lists of float32"),
        ("c.hdf5", cfg!(feature = "hdf5"), "store the dataset as float32"),
    ] {
        if feature {
            io::convert(&path, &folder.path().join(name), None, &|_, _| ()).unwrap();
            refuses(&folder.path().join(name), &["got i64", says]);
        }
    }
    let head = br#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let file = [&(head.len() as u64).to_le_bytes()[..], head, &[0; 12]].concat();
    refuses(&write(&folder, "d.safetensors", &file), &["f32, f16", "BF16", "float32"]);
}

/// Columns of lists of every other type of numbers: Int16 is read, the rest is refused by name.
#[cfg(feature = "arrow")]
#[test]
fn columns_of_other_types_are_refused_by_name() {
    use std::{fs::File, sync::Arc};

    use arrow_array::{
        Array, ArrayRef, BooleanArray, FixedSizeListArray, Int8Array, Int16Array, RecordBatch, StringArray,
        UInt16Array,
    };
    use arrow_schema::{Field, Schema};
    let folder = tempfile::tempdir().unwrap();
    let columns: [(&str, ArrayRef); 5] = [
        ("i8", Arc::new(Int8Array::from(vec![1, -2, 3, 4]))),
        ("i16", Arc::new(Int16Array::from(vec![1, -2, 3, 4]))),
        ("UInt16", Arc::new(UInt16Array::from(vec![1, 2, 3, 4]))),
        ("Boolean", Arc::new(BooleanArray::from(vec![true, false, true, true]))),
        ("Utf8", Arc::new(StringArray::from(vec!["1", "2", "3", "4"]))),
    ];
    for (kind, values) in columns {
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), false));
        let lists = FixedSizeListArray::try_new(item, 2, values, None).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("v", lists.data_type().clone(), false)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(lists)]).unwrap();
        let (arrow, parquet) = (folder.path().join("a.arrow"), folder.path().join("a.parquet"));
        let file = File::create(&arrow).unwrap();
        let mut writer = arrow_ipc::writer::FileWriter::try_new(file, &schema).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let file = File::create(&parquet).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        for path in [arrow, parquet] {
            if kind.starts_with('i') {
                let vectors = VectorFile::open(&path).unwrap();
                assert_eq!((vectors.n_rows(), vectors.dim(), vectors.dtype()), (2, 2, kind));
                let mut row = [0.0; 2];
                vectors.read(0, &mut row);
                assert_eq!(row, [1.0, -2.0]);
            } else {
                refuses(&path, &["f32, f16, f64, u8, i8, i16 or i32", kind, "cast it to float32"]);
            }
        }
    }
}

/// One query; as vectors to index it could mean two things.
#[test]
fn an_array_of_one_dimension_is_one_query() {
    let folder = tempfile::tempdir().unwrap();
    let values = [1.0_f32, -2.0, 3.0, 4.0];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let head = br#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let tensor = [&(head.len() as u64).to_le_bytes()[..], head, &bytes].concat();
    for path in
        [write(&folder, "a.npy", &npy("<f4", "(4,)", &bytes)), write(&folder, "a.safetensors", &tensor)]
    {
        refuses(&path, &["expected two dimensions", "x.reshape(1, -1)", "x.reshape(-1, 1)"]);
        let queries = VectorFile::open_queries(&path).unwrap();
        assert_eq!((queries.n_rows(), queries.dim(), queries.n_bytes()), (1, 4, 16));
        let mut row = [0.0; 4];
        queries.read(0, &mut row);
        assert_eq!(row, values);
    }
    let none = write(&folder, "none.npy", &npy("<f4", "(0,)", &[]));
    assert_eq!(VectorFile::open_queries(&none).unwrap().n_rows(), 0);
    // Two dimensions are what they were, and ids have one a row.
    let column = write(&folder, "column.npy", &npy("<f4", "(4, 1)", &bytes));
    for vectors in [VectorFile::open(&column).unwrap(), VectorFile::open_queries(&column).unwrap()] {
        assert_eq!((vectors.n_rows(), vectors.dim()), (4, 1));
    }
    let ids = write(&folder, "ids.npy", &npy("<i4", "(2,)", &[7, 0, 0, 0, 9, 0, 0, 0]));
    assert_eq!(io::read_ids(&ids).unwrap(), ndarray::array![[7], [9]]);
}

#[cfg(not(feature = "arrow"))]
#[test]
fn a_missing_feature_is_named() {
    refuses(&file("snappy.parquet:f32"), &["feature `arrow`", "--features arrow"]);
}

/// Files of which bytes are changed or that end early: an error, or whatever they then hold; never a panic, nor memory
/// that a length alone asks for.
#[test]
fn damaged_files_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 7_u64;
    let mut number = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for entry in std::fs::read_dir(file("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let good = std::fs::read(&path).unwrap();
        if name.ends_with(".py") || good.is_empty() {
            continue;
        }
        let damaged = folder.path().join(&name);
        for round in 0..500 {
            let mut bytes = good.clone();
            match round % 3 {
                0 => bytes.truncate(number(good.len())),
                1 => bytes[number(good.len())] = [0, 0x7f, 0x80, 0xff][number(4)],
                _ => {
                    let at = number(good.len().saturating_sub(8).max(1));
                    let wild = [u64::MAX, 1 << 62, 1 << 42, 1 << 31, 0][number(5)].to_le_bytes();
                    let end = good.len().min(at + 8);
                    bytes[at..end].copy_from_slice(&wild[..end - at]);
                }
            }
            std::fs::write(&damaged, &bytes).unwrap();
            for part in ["", ":f32", ":a", ":train"] {
                let Ok(vectors) = VectorFile::open(format!("{}{part}", damaged.display())) else { continue };
                let mut row = vec![0.0; vectors.dim()];
                (0..vectors.n_rows().min(100)).for_each(|i| vectors.read(i, &mut row));
            }
        }
    }
}
