//! A vector file from elsewhere, in every format: opened, read, and read as ids.

use std::path::PathBuf;

#[cfg(feature = "hdf5")]
use nearfield::io::hdf5_metric;
use nearfield::{
    Vectors,
    io::{VectorFile, read_ids},
};

/// The formats, as files are named.
pub const EXTENSIONS: [&str; 15] = [
    "npy",
    "fvecs",
    "bvecs",
    "ivecs",
    "fbin",
    "u8bin",
    "i8bin",
    "ibin",
    "safetensors",
    "hdf5",
    "h5",
    "parquet",
    "arrow",
    "feather",
    "ipc",
];

/// Parts of files that hold several, as those in `tests/data/formats` name them.
pub const PARTS: [Option<&str>; 8] =
    [None, Some("a"), Some("train"), Some("f32"), Some("f16"), Some("large"), Some("id"), Some("embedding")];

/// Values read of a file, at most: rows far apart tell as much as all.
const VALUES: usize = 1 << 16;

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
}

/// A byte for the format, one for the part of the file, then the file.
pub fn run(data: &[u8]) {
    let Some((&[format, part], file)) = data.split_first_chunk() else { return };
    let extension = EXTENSIONS[usize::from(format) % EXTENSIONS.len()];
    FOLDER.with(|folder| {
        let path = folder.path().join(format!("file.{extension}"));
        std::fs::write(&path, file).expect("a temporary file can be written");
        let part = PARTS[usize::from(part) % PARTS.len()];
        let named = part.map_or(path.clone(), |part| PathBuf::from(format!("{}:{part}", path.display())));
        if let Ok(vectors) = VectorFile::open(&named)
            && vectors.dim() <= VALUES
        {
            let (n, mut row) = (vectors.n_rows(), vec![0.0; vectors.dim()]);
            let step = n.div_ceil((VALUES / vectors.dim().max(1)).max(1)).max(1);
            (0..n).step_by(step).chain(n.checked_sub(1)).for_each(|i| vectors.read(i, &mut row));
        }
        let _ = (read_ids(&named), VectorFile::open_queries(&named).map(|queries| queries.n_rows()));
        #[cfg(feature = "hdf5")]
        if extension == "hdf5" {
            let _ = hdf5_metric(&path);
        }
    });
}
