//! Files and words from elsewhere: what the fuzzers run (`fuzz/`), on mutated copies of every file there is, and on those that failed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/src/index.rs"]
mod index;
#[path = "../fuzz/src/spec.rs"]
mod spec;
mod support;
#[path = "../fuzz/src/vectors.rs"]
mod vectors;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

#[cfg(feature = "hdf5")]
use nearfield::io::hdf5_metric;
use nearfield::io::{VectorFile, read_ids};
use proptest::prelude::*;
use rayon::prelude::*;
use support::Numbers;

/// Memory as the system gives it, but nothing for requests that no file here accounts for: who does not expect that ends the process.
struct Bounded;

/// Bytes of a request, at most.
const REQUEST_MAX: usize = 1 << 30;

// SAFETY: all is left to the system's allocator, but for requests answered with null, as any may be.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > REQUEST_MAX {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > REQUEST_MAX {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > REQUEST_MAX {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn folder(name: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let entries = fs::read_dir(&root).into_iter().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} holds no file");
    files
}

/// What a fuzzer found once, by target.
#[test]
fn what_failed_once_fails_no_more() {
    for (target, run) in [("vectors", vectors::run as fn(&[u8])), ("spec", spec::run)] {
        for path in folder(&format!("fuzz/regressions/{target}")) {
            eprintln!("{}", path.display());
            run(&fs::read(path).unwrap());
        }
    }
}

/// HDF5 files that lie, of which some were read as other values than they hold.
#[test]
#[cfg(feature = "hdf5")]
fn datasets_that_lie_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("lies.h5");
    for path in folder("fuzz/regressions/vectors") {
        let name = path.file_name().unwrap().to_string_lossy();
        if name.starts_with("hdf5-") {
            fs::write(&file, &fs::read(&path).unwrap()[2..]).unwrap();
            let is_read = if name.contains("attribute") {
                hdf5_metric(&file).is_ok()
            } else {
                VectorFile::open(&file).is_ok()
            };
            assert!(!is_read, "{name}");
        }
    }
}

/// Parameters ahead of a file, as `index::run` takes them.
fn with_parameters(file: &[u8], how: u8) -> Vec<u8> {
    [&[7, 3, 20, how], file].concat()
}

/// Where each tensor begins and ends, from the file's start.
fn edges(file: &[u8]) -> Vec<usize> {
    let header = 8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
    let tensors = json.as_object().unwrap().values().filter_map(|tensor| tensor["data_offsets"].as_array());
    let mut edges: Vec<usize> =
        tensors.flatten().map(|at| header + usize::try_from(at.as_u64().unwrap()).unwrap()).collect();
    edges.push(header);
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// The header with one number in it replaced, its own length kept right.
fn with_number(file: &[u8], which: usize, number: &str) -> Option<Vec<u8>> {
    let header = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let text = std::str::from_utf8(&file[8..8 + header]).unwrap();
    let starts: Vec<usize> = text
        .char_indices()
        .filter(|&(i, c)| c.is_ascii_digit() && !text[..i].ends_with(|c: char| c.is_ascii_alphanumeric()))
        .map(|(i, _)| i)
        .collect();
    let start = *starts.get(which)?;
    let end = start + text[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(header - start);
    let changed = [&text[..start], number, &text[end..]].concat();
    Some([&(changed.len() as u64).to_le_bytes()[..], changed.as_bytes(), &file[8 + header..]].concat())
}

/// Of so many files one is also searched on a GPU, which may be one in software.
const ON_GPU: usize = 500;

#[cfg(not(feature = "gpu"))]
fn on_gpu(_: &[u8]) {}

/// Searches a file on the GPU, if it opens.
#[cfg(feature = "gpu")]
fn on_gpu(file: &[u8]) {
    use nearfield::{Index, SearchParams};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    fs::write(&path, file).unwrap();
    let (Some(gpu), Ok(index)) = (support::gpu(), Index::open(&path)) else { return };
    if let Ok(searcher) = index.searcher(gpu.into()) {
        let queries = support::made(3, index.dim(), 1);
        let _ = searcher.search(queries.view(), SearchParams::new(20).n_probe(3).n_rerank(30));
    }
}

/// Every byte of the header flipped, every number in it made large, every tensor's edge cut or moved, the tensors' bytes replaced
/// by what is largest and by noise: of each index file there is. Whatever opens is searched on every instruction set.
#[test]
fn mutated_index_files_do_no_harm() {
    let tried = AtomicUsize::new(0);
    ["tests/data/v1", "tests/data/v2"]
        .map(folder)
        .concat()
        .par_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "nf"))
        .for_each(|path| {
            let good = fs::read(path).unwrap();
            let edges = edges(&good);
            let header = edges[0];
            let mut how = 0_u8;
            let mut run = |file: &[u8]| {
                how = how.wrapping_add(1);
                index::run(&with_parameters(file, how));
                if tried.fetch_add(1, Ordering::Relaxed).is_multiple_of(ON_GPU) {
                    on_gpu(file);
                }
            };
            for at in 0..header {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                run(&bad);
            }
            for number in [
                "0",
                "1",
                "65535",
                "4294967295",
                "9223372036854775807",
                "18446744073709551615",
                "99999999999999999999",
            ] {
                for which in 0.. {
                    let Some(bad) = with_number(&good, which, number) else { break };
                    run(&bad);
                }
            }
            for length in [0, 1, header as u64, u64::MAX / 2, u64::MAX - 8, u64::MAX] {
                let mut bad = good.clone();
                bad[..8].copy_from_slice(&length.to_le_bytes());
                run(&bad);
            }
            for &edge in &edges {
                for cut in [edge.saturating_sub(1), edge, edge + 1] {
                    run(&good[..cut.min(good.len())]);
                }
            }
            // Tensors of ids, offsets, codes, weights, scales: all ones, the largest numbers, not numbers, noise.
            let mut numbers = Numbers::new(9);
            for pair in edges.windows(2) {
                let of = |fill: &mut dyn FnMut(usize) -> u8| {
                    let mut bad = good.clone();
                    bad[pair[0]..pair[1]].iter_mut().enumerate().for_each(|(i, byte)| *byte = fill(i));
                    bad
                };
                for bytes in [
                    [0; 4],
                    [0xff; 4],
                    [0, 0, 0x80, 0x7f],
                    [0, 0, 0xc0, 0x7f],
                    [0, 0x7c, 0, 0x7c],
                    [0xff, 0x7b, 0xff, 0x7b],
                ] {
                    run(&of(&mut |i| bytes[i % 4]));
                }
                for _ in 0..4 {
                    run(&of(&mut |_| numbers.bits().to_le_bytes()[0]));
                }
                for at in [pair[0], (pair[0] + pair[1]) / 2, pair[1] - 1] {
                    let mut bad = good.clone();
                    bad[at] ^= 0x80;
                    run(&bad);
                }
            }
        });
    eprintln!("{} files tried", tried.into_inner());
}

/// Counts panics of our own code, which readers of other people's formats turn into errors.
fn count_own_panics() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", |place| place.file());
        OWN_PANICS.fetch_add(usize::from(file.starts_with("src/")), Ordering::Relaxed);
        say(panic);
    }));
}

static OWN_PANICS: AtomicUsize = AtomicUsize::new(0);

/// Whether a file has such a part.
fn has(named: &Path) -> bool {
    VectorFile::open(named).is_ok() || read_ids(named).is_ok()
}

/// Files of vectors likewise: bytes flipped, cut short, large numbers written over them.
#[test]
fn mutated_vector_files_do_no_harm() {
    let tried = AtomicUsize::new(0);
    let files = folder("tests/data/formats");
    count_own_panics();
    files.par_iter().for_each(|path| {
        let extension = path.extension().unwrap().to_str().unwrap();
        let Some(format) = vectors::EXTENSIONS.iter().position(|&e| e == extension) else { return };
        let good = fs::read(path).unwrap();
        // Each part that the file has, in turn.
        let named =
            |part: Option<&str>| part.map_or(path.clone(), |p| format!("{}:{p}", path.display()).into());
        let mut parts: Vec<u8> =
            (0..).zip(vectors::PARTS).filter(|&(_, p)| has(&named(p))).map(|(at, _)| at).collect();
        if parts.is_empty() {
            parts.push(0);
        }
        let mut turns = parts.iter().cycle();
        let mut run = |file: &[u8]| {
            vectors::run(&[&[u8::try_from(format).unwrap(), *turns.next().unwrap()][..], file].concat());
            tried.fetch_add(1, Ordering::Relaxed);
        };
        let step = good.len().div_ceil(100);
        for at in (0..good.len()).step_by(step) {
            run(&good[..at]);
            for value in [0, 0x7f, 0xff, good[at] ^ 1] {
                let mut bad = good.clone();
                bad[at] = value;
                run(&bad);
            }
            let mut bad = good.clone();
            bad[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff);
            run(&bad);
        }
    });
    assert_eq!(OWN_PANICS.load(Ordering::Relaxed), 0, "panics of this crate's own readers");
    eprintln!("{} files tried", tried.into_inner());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_bytes_are_no_index(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        index::run(&bytes);
    }

    #[test]
    fn any_bytes_are_no_vectors(bytes in proptest::collection::vec(any::<u8>(), 2..400)) {
        vectors::run(&bytes);
    }

    #[test]
    fn tables_with_headers_that_lie(format in 0_u8..8, head in proptest::collection::vec(any::<u8>(), 8), rest in 0_usize..200) {
        // Small numbers mostly, which files of so few bytes may hold.
        let head: Vec<u8> = head.iter().enumerate().map(|(i, &b)| if i % 4 == 0 { b % 12 } else { b / 250 }).collect();
        vectors::run(&[&[format, 0][..], &head, &vec![0x3f; rest]].concat());
    }

    #[test]
    fn words_of_the_grammar_in_any_order(sizes in any::<[u8; 8]>(), words in proptest::collection::vec(0..WORDS.len(), 0..12)) {
        let text: String = words.into_iter().map(|word| WORDS[word]).collect();
        spec::run(&[&sizes[..], text.as_bytes()].concat());
    }
}

/// What specifications are made of.
const WORDS: [&str; 44] = [
    "PCA",
    "LIN",
    "SRP",
    "CNT",
    "IVF",
    "RRR",
    "PQ",
    "APQ",
    "SQ8",
    "Flat",
    "CNN",
    "Refine",
    "(",
    ")",
    ",",
    "=",
    "x4",
    "x8",
    "x",
    "soar",
    "lambda",
    "T",
    "router",
    "linear",
    "cnn",
    "labels",
    "width",
    "tokens",
    "heads",
    "stages",
    "expansion",
    "f32",
    "f16",
    "sq8",
    "0",
    "1",
    "16",
    "128",
    "0.2",
    ".",
    "-",
    " ",
    "18446744073709551616",
    "é",
];
