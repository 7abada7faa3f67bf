//! An index file from elsewhere: opened, checked, searched on every instruction set, compressed with.

use std::{cell::RefCell, io::Write};

use ndarray::Array2;
use nearfield::{Compressor, Device, Index, SearchParams, Simd};

/// Values of queries, at most: of a file that claims a million dimensions a few queries are enough.
const VALUES: usize = 1 << 16;

thread_local! {
    static FILE: RefCell<tempfile::NamedTempFile> = RefCell::new(tempfile::NamedTempFile::new().expect("a temporary file"));
}

/// Four bytes of parameters, then the file.
pub fn run(data: &[u8]) {
    let Some((&[k, n_probe, n_rerank, how], file)) = data.split_first_chunk() else { return };
    FILE.with_borrow_mut(|temporary| {
        let out = temporary.as_file_mut();
        out.set_len(0).expect("a temporary file can be emptied");
        std::io::Seek::rewind(out).expect("a temporary file can be rewound");
        out.write_all(file).expect("a temporary file can be written");
        let path = temporary.path();
        let opened = if how % 2 == 0 { Index::open(path) } else { Index::load(path) };
        if let Ok(index) = opened {
            search(&index, [k, n_probe, n_rerank].map(usize::from));
        }
        if let Ok(compressor) = Compressor::open(path) {
            compress(&compressor);
        }
    });
}

/// Some queries: zeros, large, small.
fn queries(d: usize) -> Option<Array2<f32>> {
    (d <= VALUES / 5).then(|| {
        let value =
            |i: usize, j: usize| [0.0, 1e18, 1.0, 1e-30, -1.0][i] * (((i + j) * 37 % 19) as f32 - 9.0);
        Array2::from_shape_fn((5, d), |(i, j)| if j == 0 { 1.0 } else { value(i, j) })
    })
}

fn search(index: &Index, [k, n_probe, n_rerank]: [usize; 3]) {
    let _ = (index.verify(), index.tensors(), index.list_sizes(), index.tunings().len(), index.n_copies());
    let Some(queries) = queries(index.dim()) else { return };
    let params = SearchParams::new(k.max(1)).n_probe(n_probe.max(1)).n_rerank(n_rerank.max(1)).threads(1);
    let devices = Simd::available().into_iter().map(Device::CpuWith).chain([Device::Reference]);
    for device in devices {
        let searcher = index.searcher(device).expect("the CPU is always there");
        if let Ok(hits) = searcher.search(queries.view(), params) {
            assert_eq!(hits.ids.dim(), (queries.nrows(), k.max(1)));
        }
    }
    if let Some(compressor) = Compressor::of_index(index) {
        compress(&compressor);
    }
}

fn compress(compressor: &Compressor) {
    if let Some(queries) = queries(compressor.dim())
        && compressor.compressed_dim() <= VALUES / 5
    {
        let _ = compressor.compress(&queries.view());
    }
}
