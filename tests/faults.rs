//! What goes wrong outside: processes killed, disks full, folders read-only, files cut short, several writers. Nothing is lost.
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::Read,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nearfield::{Compressor, Device, Index, Metric, OpenError, SearchError, SearchParams, VectorError};
use support::{build, made, write_fbin};

/// The command that builds `base` into `index`.
fn builder(base: &Path, index: &Path, seed: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearfield"));
    command.arg("build").arg(base).arg("-o").arg(index);
    command.args([
        "--spec",
        "IVF64,SQ8,Refine(f32)",
        "--metric",
        "l2",
        "--threads",
        "1",
        "--seed",
        &seed.to_string(),
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The user without rights.
const NOBODY: u32 = 65534;

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Killed at many moments of a build and its save, no file is ever half an index.
#[test]
fn a_killed_save_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let (base, index) = (folder.path().join("base.fbin"), folder.path().join("index.nf"));
    write_fbin(&base, &made(20_000, 64, 1));
    let since = Instant::now();
    assert!(builder(&base, &index, 0).status().unwrap().success());
    let whole = since.elapsed();
    let seeds = Index::open(&index).unwrap().seed();
    assert_eq!(seeds, 0);
    let (mut old, mut killed, mut in_save) = (0, 0, 0);
    for attempt in 1..=60 {
        let mut child = builder(&base, &index, attempt).spawn().unwrap();
        // First anywhere, then as soon as the temporary file is there, and some moments later.
        if attempt % 3 == 0 {
            thread::sleep(whole.mul_f64(attempt as f64 / 60.0));
        } else {
            let is_saving = || names(folder.path()).iter().any(|name| name.ends_with(".tmp"));
            while !is_saving() && child.try_wait().unwrap().is_none() {
                thread::yield_now();
            }
            thread::sleep(Duration::from_micros(attempt as u64 * 100));
        }
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        // What is there is whole, and old or new.
        let found = Index::open(&index).unwrap();
        found.verify().unwrap();
        let seed = usize::try_from(found.seed()).unwrap();
        assert!(seed == old || seed == attempt, "of build {seed}, after {old} and {attempt}");
        old = seed;
        // What the killed process left behind is named so that nobody takes it for an index.
        for name in names(folder.path()) {
            if !["base.fbin", "index.nf"].contains(&name.as_str()) {
                assert!(name.starts_with(".nearfield-") && name.ends_with(".tmp"), "{name}");
                in_save += 1;
                fs::remove_file(folder.path().join(name)).unwrap();
            }
        }
    }
    eprintln!("{killed} of 60 builds killed, {in_save} of them in their save");
    assert!(killed >= 20 && in_save >= 3, "{killed} of 60 builds killed, {in_save} of them in their save");
}

#[test]
fn a_file_cut_short_while_open_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.nf");
    let base = made(3000, 24, 1);
    build("PCA20,IVF16,SQ8,Refine(f32)", Metric::L2, base.view()).save(&path).unwrap();
    let params = SearchParams::new(5).n_probe(16);
    let (mapped, loaded) = (Index::open(&path).unwrap(), Index::load(&path).unwrap());
    let search = |index: &Index| index.searcher(Device::cpu()).unwrap().search(base.view(), params);
    let want = search(&mapped).unwrap();
    let compressor = Compressor::of_index(&mapped).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for short in [length - 1, length / 2, 8, 0] {
        file.set_len(short).unwrap();
        // Lengths are looked at every hundredth of a second.
        thread::sleep(Duration::from_millis(20));
        match search(&mapped) {
            Err(SearchError::Truncated(found)) => assert_eq!((found.expected, found.got), (length, short)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(mapped.verify(), Err(OpenError::Truncated(_))));
        let compressed = compressor.compress(&base.view());
        assert!(matches!(compressed, Err(VectorError::Truncated(_))), "{compressed:?}");
        assert!(mapped.save(folder.path().join("copy.nf")).unwrap_err().to_string().contains("cut short"));
        assert_eq!(search(&loaded).unwrap(), want);
    }
    assert_eq!(names(folder.path()), ["index.nf"]);
    // Replaced by renaming, the old bytes stay for whoever has them open.
    loaded.save(&path).unwrap();
    let mapped = Index::open(&path).unwrap();
    build("Flat", Metric::L2, base.view()).save(&path).unwrap();
    assert_eq!(search(&mapped).unwrap(), want);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("index.nf");
    let base = made(100, 8, 1);
    let index = build("Flat", Metric::L2, base.view());
    index.save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o555)).unwrap();
    // The superuser may write anywhere: the command then runs as nobody.
    let vectors = folder.path().join("base.fbin");
    write_fbin(&vectors, &base);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = builder(&vectors, &path, 1);
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(5), "{error}");
            assert!(error.contains("cannot write to folder"), "{error}");
        }
        Err(error) => eprintln!("skipped: nobody may not run the command: {error}"),
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(names(&inner), ["index.nf"]);
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
    for path in ["/proc/index.nf", "/nowhere/index.nf"] {
        let error = index.save(path).unwrap_err().to_string();
        assert!(error.contains("cannot save") && error.contains(path), "{error}");
    }
    assert!(index.save(&inner).unwrap_err().to_string().contains("folder"));
}

#[test]
fn two_builders_of_one_path_leave_one_whole_index() {
    let folder = tempfile::tempdir().unwrap();
    let (base, index) = (folder.path().join("base.fbin"), folder.path().join("index.nf"));
    write_fbin(&base, &made(4000, 32, 1));
    for round in 0..6 {
        let builders: Vec<_> =
            (0..3).map(|i| builder(&base, &index, 3 * round + i).spawn().unwrap()).collect();
        for mut child in builders {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(child.wait().unwrap().success(), "{said}");
            Index::open(&index).unwrap().verify().unwrap();
        }
        let seed = usize::try_from(Index::open(&index).unwrap().seed()).unwrap();
        assert!((3 * round..3 * round + 3).contains(&seed), "round {round}: of build {seed}");
    }
    let mut left: Vec<PathBuf> = names(folder.path()).into_iter().map(PathBuf::from).collect();
    left.sort();
    assert_eq!(left, [Path::new("base.fbin"), Path::new("index.nf")]);
}

/// A disk of two megabytes, where this user may mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_file_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&disk).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: this user may not mount a disk (a limit on file size stands in for one in tests/cli.rs)"
        );
        return;
    }
    let tried = std::panic::catch_unwind(|| {
        let path = disk.join("index.nf");
        build("Flat", Metric::L2, made(1000, 64, 1).view()).save(&path).unwrap();
        let before = fs::read(&path).unwrap();
        let large = build("Flat", Metric::L2, made(10_000, 64, 2).view());
        for _ in 0..10 {
            let error = large.save(&path).unwrap_err().to_string();
            assert!(error.contains("cannot save") && error.contains("unchanged"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), before);
            assert_eq!(names(&disk), ["index.nf"]);
        }
        Index::open(&path).unwrap().verify().unwrap();
    });
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    tried.unwrap();
}
