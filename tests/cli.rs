//! The command: what it prints, where, and its exit codes.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ndarray::{Array2, Axis};
use nearfield::{Vectors, io::VectorFile};
use support::{embedded, made, npy, write_fbin};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes vectors as .fbin and returns the path.
    fn vectors(&self, name: &str, x: &Array2<f32>) -> PathBuf {
        let path = self.path(name);
        write_fbin(&path, x);
        path
    }
}

fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nearfield")).args(arguments).output().unwrap()
}

/// Builds an index of a file.
fn build(base: &Path, index: &Path, spec: &str, metric: &str) {
    json(&[&"build", &base, &"-o", &index, &"--spec", &spec, &"--metric", &metric, &"--no-tune", &"--json"]);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn fails(code: i32, says: &[&str], arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
    let output = run(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for part in says {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[track_caller]
fn json(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<serde_json::Value> {
    let output = run(arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Values as files hold them.
fn floats<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    values.into_iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn zero_vectors_under_cosine_are_noted() {
    let folder = Folder::new();
    let mut base = made(100, 8, 1);
    (0..100).step_by(20).for_each(|row| base.row_mut(row).fill(0.0));
    let (path, index) = (folder.vectors("base.fbin", &base), folder.path("index.nf"));
    for (metric, is_noted) in [("cosine", true), ("ip", false)] {
        let output = run(&[&"build", &path, &"-o", &index, &"--spec", &"Flat", &"--metric", &metric]);
        assert!(output.status.success());
        assert_eq!(text(&output.stderr).contains("note: 5 of 100 vectors are zero"), is_noted, "{metric}");
        let output = run(&[&"search", &index, &path, &"-k", &"3", &"--device", &"cpu"]);
        assert!(output.status.success());
        assert_eq!(text(&output.stderr).contains("note: 5 of 100 queries are zero"), is_noted, "{metric}");
        if is_noted {
            let first = text(&output.stdout).lines().next().unwrap().to_owned();
            assert_eq!(first, "0\t0:0.000000 1:0.000000 2:0.000000");
        }
    }
}

#[test]
fn from_vectors_to_recall() {
    let folder = Folder::new();
    let (index, truth) = (folder.path("words.nf"), folder.path("truth.npy"));
    let (base, queries) = (embedded("base.i8bin"), embedded("query.i8bin"));
    let built = json(&[
        &"build",
        &base,
        &"-o",
        &index,
        &"--spec",
        &"PCA128,IVF128,RRR32,Refine(f16)",
        &"--metric",
        &"cosine",
        &"--seed",
        &"7",
        &"--json",
    ]);
    assert_eq!((&built[0]["n"], &built[0]["d"]), (&11000.into(), &384.into()));
    assert_eq!(built[0]["index_bytes"].as_u64().unwrap(), fs::metadata(&index).unwrap().len());
    assert!(built[0]["stages"]["regressions"].as_f64().unwrap() > 0.0);
    json(&[&"truth", &base, &queries, &"-k", &"20", &"--metric", &"cosine", &"-o", &truth, &"--json"]);
    let rows = json(&[
        &"eval",
        &index,
        &queries,
        &"--truth",
        &truth,
        &"--n-probe",
        &"1,16,9999",
        &"--n-rerank",
        &"50,100",
        &"--json",
        &"--threads",
        &"1",
    ]);
    assert_eq!(rows.len(), 6);
    for row in &rows {
        for key in [
            "spec",
            "metric",
            "device",
            "k",
            "n_probe",
            "n_rerank",
            "batch",
            "threads",
            "recall",
            "qps",
            "p50_ms",
            "p99_ms",
            "index_bytes",
        ] {
            assert!(!row[key].is_null(), "{key} is missing in {row}");
        }
    }
    assert_eq!(rows[5]["n_probe"], 128);
    assert!(rows[0]["recall"].as_f64() < rows[3]["recall"].as_f64());
    assert!(rows[5]["recall"].as_f64().unwrap() > 0.97, "{}", rows[5]);
    let hits = json(&[&"search", &index, &queries, &"-k", &"3", &"--n-probe", &"16", &"--json"]);
    assert_eq!(hits.len(), 200);
    assert_eq!(hits[7]["query"], 7);
    assert_eq!(hits[7]["ids"].as_array().unwrap().len(), 3);
    let info = json(&[&"info", &index, &"--json"]);
    assert_eq!((&info[0]["n_lists"], &info[0]["seed"]), (&128.into(), &7.into()));
    assert_eq!(json(&[&"verify", &index, &"--json"])[0]["ok"], true);
    assert!(
        json(&[&"devices", &"--json"])[0]["devices"].as_array().unwrap().iter().any(|d| d["best"] == true)
    );
    for command in ["info", "verify"] {
        assert!(run(&[&command, &index]).status.success());
    }
}

#[test]
fn every_device_writes_the_same_ids() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(400, 20, 1));
    let queries = folder.vectors("queries.fbin", &made(30, 20, 2));
    let index = folder.path("index.nf");
    build(&base, &index, "PCA16,IVF8,RRR16,Refine(f32)", "ip");
    let mut files = Vec::new();
    let tokens = nearfield::Simd::available().into_iter().map(|t| format!("cpu:{}", t.name()));
    for device in tokens.chain(["auto".into(), "cpu".into(), "reference".into()]) {
        let (ids, scores) = (folder.path("ids.npy"), folder.path("scores.npy"));
        let output = run(&[
            &"search",
            &index,
            &queries,
            &"-k",
            &"5",
            &"--n-probe",
            &"3",
            &"--device",
            &device,
            &"-o",
            &ids,
            &"--scores",
            &scores,
        ]);
        assert!(output.status.success() && text(&output.stdout).contains("5 neighbours of 30 queries"));
        assert!(text(&output.stderr).contains("device: "), "{}", text(&output.stderr));
        assert_eq!(nearfield::io::read_ids(&ids).unwrap().dim(), (30, 5));
        files.push(fs::read(&ids).unwrap());
    }
    assert!(files.windows(2).all(|w| w[0] == w[1]));
}

/// A build ends with a table; but for it the file is that of a build without.
#[test]
fn a_build_ends_with_a_tuning() {
    let folder = Folder::new();
    let (base, queries) = (embedded("base.i8bin"), embedded("query.i8bin"));
    let [tuned, plain, ids, truth] = ["a.nf", "b.nf", "ids.npy", "truth.npy"].map(|name| folder.path(name));
    let built = &json(&[&"build", &base, &"-o", &tuned, &"--metric", &"cosine", &"--json"])[0];
    assert!(built["tune_s"].as_f64().unwrap() > 0.0);
    assert_eq!((&built["tuned"]["k"], &built["tuned"]["source"]), (&10.into(), &"rows".into()));
    assert!(built["tuned"]["recall"].as_f64().unwrap() >= 0.95, "{built}");
    assert_eq!(built["index_bytes"].as_u64().unwrap(), fs::metadata(&tuned).unwrap().len());
    let built = &json(&[&"build", &base, &"-o", &plain, &"--metric", &"cosine", &"--no-tune", &"--json"])[0];
    assert!(built["tuned"].is_null() && built["tune_s"].is_null());
    let [with, without] = [&tuned, &plain].map(|path| nearfield::Index::open(path).unwrap());
    assert_eq!(with.tensors(), without.tensors());
    for tensor in with.tensors() {
        let sum = format!("xxh3.{}", tensor.name);
        assert_eq!(with.metadata(&sum), without.metadata(&sum));
    }
    assert_eq!((with.tunings().len(), without.tunings().len()), (1, 0));

    // A search without numbers says what it does, and finds what it says.
    let found = &json(&[&"search", &tuned, &queries, &"-o", &ids, &"--device", &"cpu", &"--json"])[0];
    assert!(found["recall"].as_f64().unwrap() >= 0.95 && found["tuned_with"] == "rows", "{found}");
    json(&[&"truth", &base, &queries, &"-k", &"10", &"--metric", &"cosine", &"-o", &truth, &"--json"]);
    let row = &json(&[
        &"eval",
        &tuned,
        &queries,
        &"--truth",
        &truth,
        &"--base",
        &base,
        &"--device",
        &"cpu",
        &"--seconds",
        &"0",
        &"--json",
    ])[0];
    assert!(row["recall"].as_f64().unwrap() >= 0.95, "{row}");
    assert_eq!(row["n_probe"], found["n_probe"]);
    let output = run(&[&"search", &tuned, &queries, &"-o", &ids, &"--device", &"cpu"]);
    assert!(text(&output.stderr).contains("tuned: recall 0.9"), "{}", text(&output.stderr));
    let output = run(&[&"search", &plain, &queries, &"-o", &ids, &"--device", &"cpu"]);
    assert!(text(&output.stderr).contains("nearfield tune"), "{}", text(&output.stderr));
    assert!(text(&run(&[&"info", &tuned]).stdout).contains("rows as queries"));
    fails(
        3,
        &["--tune-queries", "384", "20"],
        &[
            &"build",
            &base,
            &"-o",
            &plain,
            &"--metric",
            &"cosine",
            &"--tune-queries",
            &folder.vectors("narrow.fbin", &made(9, 20, 1)),
        ],
    );
    fails(2, &["--up-to", "above 0"], &[&"tune", &tuned, &"--up-to", &"1.5"]);
    let table = &json(&[
        &"tune",
        &tuned,
        &queries,
        &"--base",
        &base,
        &"--up-to",
        &"0.9",
        &"--device",
        &"cpu",
        &"--json",
    ])[0];
    assert_eq!(table["source"], "given");
    let points = table["points"].as_array().unwrap();
    assert!(points.iter().filter(|point| point["recall"].as_f64().unwrap() >= 0.9).count() <= 2, "{table}");
    assert!(points.iter().all(|point| point["held_out"].is_number()));
}

/// An index that falls short of what is wanted says so, and what to change.
#[test]
fn builds_warn_where_the_index_falls_short() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(3000, 48, 1));
    let output =
        run(&[&"build", &base, &"-o", &folder.path("a.nf"), &"--metric", &"l2", &"--spec", &"IVF32,PQ4x4"]);
    assert!(output.status.success());
    let stderr = text(&output.stderr);
    assert!(stderr.contains("warning: recall is 0.") && stderr.contains("Refine(f16)"), "{stderr}");
}

#[test]
fn a_tuned_index_takes_a_recall() {
    let folder = Folder::new();
    let (index, truth) = (folder.path("words.nf"), folder.path("truth.npy"));
    let (base, queries) = (embedded("base.i8bin"), embedded("query.i8bin"));
    let spec = "PCA128x8,IVF128(soar),RRR32,Refine(f16)";
    build(&base, &index, spec, "cosine");
    let saved = fs::read(&index).unwrap();
    fails(3, &["not tuned", "nearfield tune"], &[&"search", &index, &queries, &"--recall", &"0.9"]);
    // Without queries the rows stored in the index stand in.
    let table = json(&[&"tune", &index, &"--device", &"cpu", &"--json"]);
    assert_eq!((&table[0]["k"], &table[0]["queries"]), (&10.into(), &1000.into()));
    assert!(table[0]["points"].as_array().unwrap().len() > 5);
    assert_ne!(fs::read(&index).unwrap(), saved);
    assert_eq!(json(&[&"verify", &index, &"--json"])[0]["ok"], true);
    // As good on the queries, which tuning has not seen.
    json(&[&"truth", &base, &queries, &"-k", &"10", &"--metric", &"cosine", &"-o", &truth, &"--json"]);
    let plot = folder.path("curve.svg");
    let rows = json(&[
        &"eval",
        &index,
        &queries,
        &"--truth",
        &truth,
        &"--base",
        &base,
        &"--recall",
        &"0.8,0.9,0.95",
        &"--device",
        &"cpu",
        &"--seconds",
        &"0",
        &"--plot",
        &plot,
        &"--json",
    ]);
    for (row, target) in rows.iter().zip([0.8, 0.9, 0.95]) {
        // 200 queries: two deviations are 0.02.
        assert!(row["recall"].as_f64().unwrap() >= target - 0.02, "{row}");
    }
    assert!(fs::read_to_string(&plot).unwrap().contains("prefers-color-scheme"));
    let output = run(&[&"search", &index, &queries, &"--recall", &"0.9", &"--device", &"cpu"]);
    assert!(text(&output.stderr).contains("effort: n_probe "), "{}", text(&output.stderr));
    fails(2, &["--n-probe"], &[&"search", &index, &queries, &"--recall", &"0.9", &"--n-probe", &"3"]);
    fails(3, &["at most 1", "1.5"], &[&"search", &index, &queries, &"--recall", &"1.5"]);
    fails(3, &["at most 0.9", "0.99999"], &[&"search", &index, &queries, &"--recall", &"0.99999"]);
    fails(3, &["k = 20", "up to 10"], &[&"search", &index, &queries, &"--recall", &"0.9", &"-k", &"20"]);
    // A plot of several results.
    let (first, second) = (folder.path("a.jsonl"), folder.path("b.jsonl"));
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    fs::write(&first, lines.join("\n")).unwrap();
    let peer =
        r#"{"engine": "other", "index": "x", "k": 10, "recall": 0.9, "qps_single": 10.0, "qps_batch": 20.0}"#;
    fs::write(&second, peer).unwrap();
    for axes in ["speed", "lists"] {
        let drawn = json(&[&"plot", &first, &second, &"-o", &plot, &"--axes", &axes, &"--json"]);
        let curves = if axes == "speed" { 3 } else { 1 };
        assert_eq!(drawn[0]["curves"], curves);
    }
    fails(2, &[".svg"], &[&"plot", &first, &"-o", &folder.path("curve.gif")]);
    // The same index in two files is two curves; what cannot be or cannot be compared is refused.
    fs::copy(&first, &second).unwrap();
    assert_eq!(json(&[&"plot", &first, &second, &"-o", &plot, &"--json"])[0]["curves"], 2);
    assert!(fs::read_to_string(&plot).unwrap().contains("b: PCA128x8"));
    fs::write(&second, lines[0].replace("\"k\":10", "\"k\":20")).unwrap();
    fails(3, &["line 1", "k = 10", "got 20"], &[&"plot", &first, &second, &"-o", &plot]);
    fs::write(&second, r#"{"recall": 5.5, "qps": 1.0}"#).unwrap();
    fails(3, &["line 1", "recall from 0 to 1", "5.5"], &[&"plot", &second, &"-o", &plot]);
    for qps in ["1.7e308", "0", "-1"] {
        fs::write(&second, format!("{{\"recall\": 0.5, \"qps\": {qps}}}")).unwrap();
        fails(3, &["line 1", "`qps` from"], &[&"plot", &second, &"-o", &plot]);
    }
    fs::write(&second, "no json").unwrap();
    fails(3, &["line 1", "JSON"], &[&"plot", &second, &"-o", &plot]);
}

#[test]
fn truth_of_another_metric_is_doubted() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(600, 20, 1));
    let queries = folder.vectors("queries.fbin", &made(50, 20, 2));
    let (index, truth) = (folder.path("index.nf"), folder.path("truth.npy"));
    build(&base, &index, "IVF8,RRR16,Refine(f16)", "l2");
    for (metric, is_doubted) in [("l2", false), ("ip", true)] {
        let output = run(&[&"truth", &base, &queries, &"-k", &"10", &"--metric", &metric, &"-o", &truth]);
        assert!(output.status.success());
        let output =
            run(&[&"eval", &index, &queries, &"--truth", &truth, &"--device", &"cpu", &"--seconds", &"0"]);
        let stderr = text(&output.stderr);
        assert_eq!(stderr.contains("is it of another metric"), is_doubted, "{metric}: {stderr}");
    }
    let output = run(&[&"truth", &base, &queries, &"-k", &"601", &"--metric", &"l2", &"-o", &truth]);
    assert!(text(&output.stderr).contains("601 given, there are 600 vectors"), "{}", text(&output.stderr));
}

#[test]
fn plans_are_printed_and_auto_says_why() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(600, 24, 1));
    let spec = "IVF16,RRR16,Refine(f16)";
    let plan =
        &json(&[&"plan", &base, &"--metric", &"ip", &"--spec", &spec, &"--batch", &"10", &"--json"])[0];
    for field in ["index_bytes", "build_bytes", "build_s", "search_cpu_bytes"] {
        assert!(plan[field].as_f64().unwrap() > 0.0, "{field}: {plan}");
    }
    assert_eq!(plan["search_gpu_bytes"].is_u64(), cfg!(feature = "gpu"), "{plan}");
    let output = run(&[&"plan", &base, &"--metric", &"ip", &"--spec", &"auto"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(err.contains("the fastest at recall 0.95"), "{err}");
    let chosen =
        err.lines().find_map(|line| line.strip_prefix("auto: ")?.split_once(": the smallest")).unwrap().0;
    assert!(out.starts_with(&format!("{chosen} (ip) over 600 × 24 f32")), "{out}");
    let index = folder.path("index.nf");
    let built = json(&[&"build", &base, &"-o", &index, &"--metric", &"ip", &"--spec", &"auto", &"--json"]);
    assert!(built[0]["spec"].is_string(), "{built:?}");

    fails(2, &["--batch", "got 0"], &[&"plan", &base, &"--metric", &"ip", &"--batch", &"0"]);
    fails(
        3,
        &["IVF", "at most one list a point, 600"],
        &[&"plan", &base, &"--metric", &"ip", &"--spec", &"IVF3000,Flat"],
    );
    fails(5, &["BASE", "missing.npy"], &[&"plan", &folder.path("missing.npy"), &"--metric", &"ip"]);
    let mut bad = made(300, 24, 1);
    bad[[211, 5]] = f32::NAN;
    let bad = folder.vectors("bad.fbin", &bad);
    for spec in ["auto", "Flat"] {
        fails(3, &["row 211", "column 5"], &[&"plan", &bad, &"--metric", &"ip", &"--spec", &spec]);
    }
    let few = folder.vectors("few.fbin", &made(9, 24, 1));
    fails(
        3,
        &["expected more than k = 10", "got 9"],
        &[&"plan", &few, &"--metric", &"ip", &"--spec", &"auto"],
    );
    let narrow = folder.vectors("narrow.fbin", &made(50, 23, 1));
    let given = ["--train-queries", narrow.to_str().unwrap(), "--spec", "auto"];
    fails(
        3,
        &["training queries", "24", "23"],
        &[&"plan", &base, &"--metric", &"ip", &given[0], &given[1], &given[2], &given[3]],
    );
}

/// Named pipes by their extension, others if a NumPy array comes out of them.
#[cfg(unix)]
#[test]
fn pipes_are_read() {
    use std::{io::Write, process::Stdio};
    let folder = Folder::new();
    let x = made(300, 24, 1);
    let base = folder.vectors("base.fbin", &x);
    let [array, ids, index, same] = ["q.npy", "ids.npy", "i.nf", "same.nf"].map(|name| folder.path(name));
    fs::write(&array, npy("<f4", "(300, 24)", &floats(&x))).unwrap();
    let numbers: Vec<u8> = (0..300_i64).flat_map(|i| (7 * i + 1).to_le_bytes()).collect();
    fs::write(&ids, npy("<i8", "(300,)", &numbers)).unwrap();
    // A pipe, and what is written to it once somebody reads.
    let pipe = |name: &str, bytes: Vec<u8>| {
        let path = folder.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let to = path.clone();
        std::thread::spawn(move || fs::write(to, bytes));
        path
    };
    let spec: [&dyn AsRef<std::ffi::OsStr>; 5] = [&"--metric", &"l2", &"--spec", &"Flat", &"--no-tune"];
    let fifo = pipe("pipe.fbin", fs::read(&base).unwrap());
    for (from, to) in [(&base, &index), (&fifo, &same)] {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"build", from, &"-o", to, &"--ids", &ids];
        arguments.extend(spec);
        let output = run(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(fs::read(&index).unwrap(), fs::read(&same).unwrap());

    let want = text(&run(&[&"search", &index, &array]).stdout);
    assert_eq!(want.lines().count(), 300);
    assert!(want.starts_with("0\t1:"), "{want}");
    let search = |stdin: Stdio, bytes: Option<&[u8]>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearfield"));
        command.args(["search".as_ref(), index.as_os_str(), "/dev/stdin".as_ref()]).stdin(stdin);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let (Some(bytes), Some(mut to)) = (bytes, child.stdin.take()) {
            // It may be refused before its end.
            let _ = to.write_all(bytes);
        }
        child.wait_with_output().unwrap()
    };
    let array_bytes = fs::read(&array).unwrap();
    assert_eq!(text(&search(Stdio::piped(), Some(&array_bytes)).stdout), want);
    // Redirected from a file, it is that file.
    assert_eq!(text(&search(fs::File::open(&array).unwrap().into(), None).stdout), want);
    for bytes in [&[][..], b"1 2 3\n", &array_bytes[..5]] {
        let output = search(Stdio::piped(), Some(bytes));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains("/dev/stdin: expected a NumPy array from a pipe"), "{stderr}");
        assert!(stderr.contains("give a regular file, or pipe a .npy"), "{stderr}");
    }
    let output = search(Stdio::piped(), Some(&array_bytes[..500]));
    assert!(text(&output.stderr).contains("300 rows of 24"), "{}", text(&output.stderr));
    assert_eq!(search(fs::File::open("/dev/zero").unwrap().into(), None).status.code(), Some(3));

    if let Ok(output) = Command::new("bash")
        .args(["-c", "\"$0\" search \"$1\" <(cat \"$2\")", env!("CARGO_BIN_EXE_nearfield")])
        .args([&index, &array])
        .output()
    {
        assert_eq!(text(&output.stdout), want, "{}", text(&output.stderr));
    }
    let nameless = pipe("nameless", fs::read(&base).unwrap());
    fails(3, &["expected a NumPy array from a pipe"], &[&"search", &index, &nameless]);
    fs::write(folder.path("text"), "some text").unwrap();
    fails(3, &["expected a file ending in .npy"], &[&"search", &index, &folder.path("text")]);
}

/// Results are i64, and an id that does not fit is found out before the work.
#[test]
fn ids_that_results_cannot_hold_are_refused_first() {
    let folder = Folder::new();
    let x = made(3, 24, 1);
    let base = folder.vectors("base.fbin", &x);
    let [ids, index, out] = ["ids.npy", "i.nf", "out.npy"].map(|name| folder.path(name));
    let limit = 1_u64 << 63;
    let wide = |last: u64| [5, 6, last].iter().flat_map(|id: &u64| id.to_le_bytes()).collect::<Vec<u8>>();
    let write = |last: u64| fs::write(&ids, npy("<u8", "(3,)", &wide(last))).unwrap();
    let metric = "--metric=ip";
    for id in [limit, u64::MAX - 1] {
        write(id);
        let says = ["--ids", "9223372036854775808", &id.to_string(), "row 2"];
        fails(3, &says, &[&"build", &base, &"-o", &index, &metric, &"--ids", &ids]);
        fails(3, &says, &[&"truth", &base, &base, &"-o", &out, &metric, &"--ids", &ids]);
    }
    write(u64::MAX);
    fails(3, &["missing neighbour"], &[&"build", &base, &"-o", &index, &metric, &"--ids", &ids]);
    write(limit - 1);
    json(&[&"build", &base, &"-o", &index, &metric, &"--spec", &"Flat", &"--ids", &ids, &"--json"]);
    assert!(run(&[&"search", &index, &base, &"-o", &out]).status.success());
    // The library has ids of 64 bits, and what it writes stays readable.
    let wide = [5, 6, limit];
    let built = nearfield::Index::builder("Flat".parse().unwrap()).ids(&wide).build(x.view()).unwrap();
    built.save(&index).unwrap();
    let output = text(&run(&[&"search", &index, &base]).stdout);
    assert!(output.contains("9223372036854775808:"), "{output}");
    fails(3, &["below 2⁶³", "9223372036854775808"], &[&"search", &index, &base, &"-o", &out]);
}

/// A vector as NumPy saves it, `x[0]`, is the query that `x[:1]` is.
#[test]
fn an_array_of_one_dimension_is_one_query() {
    let folder = Folder::new();
    let x = made(300, 24, 1);
    let base = folder.vectors("base.fbin", &x);
    let [index, flat, row, short] =
        ["i.nf", "flat.npy", "row.npy", "short.npy"].map(|name| folder.path(name));
    build(&base, &index, "Flat", "ip");
    fs::write(&flat, npy("<f4", "(24,)", &floats(x.row(5)))).unwrap();
    fs::write(&row, npy("<f4", "(1, 24)", &floats(x.row(5)))).unwrap();
    fs::write(&short, npy("<f4", "(23,)", &floats(x.slice(ndarray::s![5, ..23])))).unwrap();
    let found = json(&[&"search", &index, &flat, &"--json"]);
    assert_eq!(found.len(), 1);
    assert_eq!(found, json(&[&"search", &index, &row, &"--json"]));
    fails(3, &["queries: expected 24 dimensions, got 23"], &[&"search", &index, &short]);
    let [a, b] = ["a.npy", "b.npy"].map(|name| folder.path(name));
    for (queries, truth) in [(&flat, &a), (&row, &b)] {
        json(&[&"truth", &base, queries, &"-k", &"10", &"--metric", &"ip", &"-o", truth, &"--json"]);
    }
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    assert_eq!(
        json(&[&"eval", &index, &flat, &"--truth", &a, &"--seconds", &"0", &"--json"])[0]["recall"],
        1.0
    );
    assert_eq!(json(&[&"tune", &index, &flat, &"--json"])[0]["queries"], 1);
    for command in ["build", "plan"] {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&command, &flat, &"--metric", &"ip"];
        if command == "build" {
            arguments.extend([&"-o" as &dyn AsRef<std::ffi::OsStr>, &index]);
        }
        fails(3, &["BASE", "x.reshape(1, -1)", "x.reshape(-1, 1)"], &arguments);
    }
}

#[cfg(unix)]
#[test]
fn pipes_of_other_formats_are_refused_and_text_of_files_is_harmless() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(300, 24, 1));
    let (index, pipe) = (folder.path("index.nf"), folder.path("pipe.fbin"));
    assert!(run(&[&"build", &base, &"-o", &index, &"--metric", &"ip", &"--spec", &"SQ8"]).status.success());
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // None of these opens the pipe, which would wait for a writer.
    fails(3, &["not a regular file", "save it to a file"], &[&"search", &pipe, &base]);
    for extension in ["hdf5", "h5", "parquet", "arrow", "feather", "ipc"] {
        let pipe = folder.path(&format!("pipe.{extension}"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fails(3, &["QUERIES", "expected a regular file", extension], &[&"search", &index, &pipe]);
        #[cfg(feature = "hdf5")]
        fails(3, &["expected a regular file"], &[&"eval", &"--hdf5", &pipe, &"--spec", &"Flat"]);
    }
    fails(5, &["not a regular file"], &[&"convert", &base, &"-o", &pipe]);

    let good = fs::read(&index).unwrap();
    let forge = |old: &[u8], new: &[u8]| {
        let at = good.windows(old.len()).position(|bytes| bytes == old).unwrap();
        let mut bad = good.clone();
        bad[at..at + new.len()].copy_from_slice(new);
        fs::write(&index, bad).unwrap();
    };
    forge(b"nearfield 0.", b"\\u001b[2J\\n\\n");
    let shown = run(&[&"info", &index]);
    assert!(shown.status.success() && !shown.stdout.contains(&0x1b), "{}", text(&shown.stdout));
    forge(br#""metric":"ip""#, br#""metric":"\n""#);
    fails(3, &["got \\n"], &[&"info", &index]);
}

#[test]
fn a_tuned_index_may_have_ids_of_its_own() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(1500, 20, 1));
    let (index, tuned, ids) = (folder.path("index.nf"), folder.path("tuned.nf"), folder.path("ids.npy"));
    let names = Array2::from_shape_fn((1500, 1), |(i, _)| 1499 - i as u64);
    nearfield::io::write_ids(&ids, names.view()).unwrap();
    let spec = "IVF8,RRR16,Refine(f16)";
    json(&[&"build", &base, &"--ids", &ids, &"-o", &index, &"--spec", &spec, &"--metric", &"l2", &"--json"]);
    fails(3, &["--base", "--ids"], &[&"tune", &index, &"--base", &base, &"-o", &tuned]);
    assert!(!tuned.exists());
    let table = json(&[&"tune", &index, &"--base", &base, &"--ids", &ids, &"-o", &tuned, &"--json"]);
    assert!(table[0]["points"].as_array().unwrap().last().unwrap()["recall"].as_f64().unwrap() > 0.95);
    let narrow = folder.vectors("narrow.fbin", &made(1500, 19, 1));
    fails(3, &["--base", "1500 × 20", "1500 × 19"], &[&"tune", &index, &"--base", &narrow]);
    // Rows in bytes do not judge themselves.
    let spec = "IVF8,RRR16,Refine(sq8)";
    build(&base, &index, spec, "l2");
    fails(2, &["--base", "rows in bytes"], &[&"tune", &index]);
    let one = folder.vectors("one.fbin", &made(1, 20, 1));
    let output = run(&[&"tune", &index, &one, &"--base", &base, &"-o", &tuned]);
    assert!(text(&output.stderr).contains("QUERIES: 1 given"), "{}", text(&output.stderr));
    fails(2, &["--n-probe", "-3"], &[&"search", &index, &base, &"--n-probe", &"-3"]);
}

#[test]
fn an_input_named_with_its_part_is_not_overwritten() {
    let folder = Folder::new();
    let copy = folder.path("three.safetensors");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats/three.safetensors"), &copy)
        .unwrap();
    let part = format!("{}:a", copy.display());
    fails(2, &["--output", "is an input"], &[&"convert", &part, &"-o", &copy]);
    fails(3, &["out.par", ".parquet"], &[&"convert", &part, &"-o", &folder.path("out.par")]);
}

#[test]
fn tuning_wants_something_to_compare_with() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(400, 20, 1));
    let index = folder.path("index.nf");
    build(&base, &index, "IVF8,RRR16", "l2");
    fails(2, &["--base", "stores no rows"], &[&"tune", &index]);
    fails(3, &["-k", "399", "400"], &[&"tune", &index, &"--base", &base, &"-k", &"400"]);
    let half = folder.vectors("half.fbin", &made(200, 20, 1));
    fails(3, &["--base", "400", "200"], &[&"tune", &index, &"--base", &half]);
    let other = folder.path("tuned.nf");
    json(&[&"tune", &index, &"--base", &base, &"-k", &"5", &"-o", &other, &"--json"]);
    assert!(run(&[&"search", &other, &base, &"-k", &"5", &"--recall", &"0.3"]).status.success());
}

#[test]
fn vectors_are_compressed_alike_by_all_ways() {
    let folder = Folder::new();
    // Without a common part, which an index for cosine would take from its points alone.
    let mean = made(900, 24, 1).mean_axis(Axis(0)).unwrap();
    let (x, q) = (made(900, 24, 1) - &mean, made(30, 24, 2) - &mean);
    let (base, queries) = (folder.vectors("base.fbin", &x), folder.vectors("queries.fbin", &q));
    let [out, again, whole, transform] = ["a.npy", "b.npy", "c.npy", "lin.nf"].map(|name| folder.path(name));
    let found = &json(&[
        &"compress",
        &base,
        &"--lin",
        &"6",
        &"--metric",
        &"cosine",
        &"--steps",
        &"60",
        &"--save",
        &transform,
        &"-o",
        &out,
        &"--json",
    ])[0];
    assert_eq!((&found["transform"], &found["n"], &found["s"]), (&"LIN6".into(), &900.into(), &6.into()));
    assert!(found["training"].as_str().unwrap().starts_with("60 steps"), "{found}");
    let file = VectorFile::open(&out).unwrap();
    assert_eq!((file.n_rows(), file.dim(), file.dtype()), (900, 6, "f32"));
    let mut row = [0.0; 6];
    for i in 0..900 {
        file.read(i, &mut row);
        let length: f32 = row.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-4, "row {i} of length {length}");
    }
    // By the transform's own file, and by that of an index with the same transform.
    json(&[&"compress", &base, &"--with", &transform, &"-o", &again, &"--json"]);
    assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap());
    let index = folder.path("index.nf");
    json(&[
        &"build",
        &base,
        &"-o",
        &index,
        &"--spec",
        &"LIN6,IVF4,SQ8",
        &"--metric",
        &"cosine",
        &"--steps",
        &"60",
        &"--json",
    ]);
    json(&[&"compress", &queries, &"--with", &index, &"-o", &again, &"--json"]);
    json(&[&"compress", &queries, &"--with", &transform, &"-o", &whole, &"--json"]);
    assert_eq!(fs::read(&again).unwrap(), fs::read(&whole).unwrap());
    assert!(text(&run(&[&"info", &index]).stdout).contains("60 steps"));

    // A training keeps its state, which any other is refused.
    let state = folder.path("state.safetensors");
    let train = |s: &'static str| -> Vec<String> {
        ["compress", "--lin", s, "--steps", "40", "--checkpoint"].map(str::to_owned).to_vec()
    };
    let mut first = train("6");
    first.extend([&state, &base].map(|path| path.display().to_string()));
    first.extend(["-o".to_owned(), out.display().to_string()]);
    let first: Vec<&dyn AsRef<std::ffi::OsStr>> = first.iter().map(|part| part as _).collect();
    assert!(run(&first).status.success());
    assert!(state.exists());
    fails(
        3,
        &["checkpoint", "LIN7", "LIN6"],
        &[&"compress", &base, &"--lin", &"7", &"--steps", &"40", &"--checkpoint", &state, &"-o", &out],
    );

    let flat = folder.path("flat.nf");
    build(&base, &flat, "Flat", "l2");
    fails(2, &["--lin", "--with"], &[&"compress", &base, &"-o", &out]);
    let pca = ["--steps", "PCA6"];
    fails(2, &pca, &[&"compress", &base, &"--pca", &"6", &"--steps", &"9", &"-o", &out]);
    fails(2, &["--steps"], &[&"build", &base, &"--spec", &"IVF4,SQ8", &"--steps", &"9", &"-o", &index]);
    fails(2, &["--pca", "x7"], &[&"compress", &base, &"--pca", &"6x7", &"-o", &out]);
    fails(2, &["--output", ".npy"], &[&"compress", &base, &"--pca", &"6", &"-o", &folder.path("a.fbin")]);
    fails(3, &["LIN", "at most", "25"], &[&"compress", &base, &"--lin", &"25", &"-o", &out]);
    fails(3, &["--with", "transform", "Flat"], &[&"compress", &base, &"--with", &flat, &"-o", &out]);
    let wide = folder.vectors("wide.fbin", &made(5, 25, 1));
    fails(3, &["24", "25"], &[&"compress", &wide, &"--with", &transform, &"-o", &out]);
    assert!(text(&run(&[&"info", &transform]).stdout).contains("LIN6 (cosine), 24 to 6 dimensions"));
    assert_eq!(json(&[&"verify", &transform, &"--json"])[0]["tensors"], 1);
    let mut damaged = fs::read(&transform).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let bad = folder.path("bad.nf");
    fs::write(&bad, damaged).unwrap();
    fails(3, &["bad.nf", "transform.w"], &[&"verify", &bad]);
}

#[test]
fn files_convert() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(40, 6, 1));
    let (tensors, back) = (folder.path("base.safetensors"), folder.path("back.fbin"));
    let done = json(&[&"convert", &base, &"-o", &tensors, &"--json"]);
    assert_eq!((&done[0]["n"], &done[0]["d"], &done[0]["dtype"]), (&40.into(), &6.into(), &"f32".into()));
    assert!(run(&[&"convert", &tensors, &"-o", &back]).status.success());
    assert_eq!(fs::read(&base).unwrap(), fs::read(&back).unwrap());
    fails(3, &["u8 does not hold"], &[&"convert", &base, &"-o", &folder.path("base.u8bin")]);
    assert!(!folder.path("base.u8bin").exists());
}

#[cfg(feature = "hdf5")]
#[test]
fn an_hdf5_file_is_all_that_eval_takes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats/l2.hdf5");
    let rows = json(&[&"eval", &"--hdf5", &file, &"--spec", &"Flat", &"--seconds", &"0", &"--json"]);
    assert_eq!((&rows[0]["recall"], &rows[0]["metric"]), (&1.0.into(), &"l2".into()));
    fails(2, &["--spec"], &[&"eval", &"--hdf5", &file]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_half_file() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(40_000, 128, 1));
    let output = folder.path("out");
    fs::create_dir(&output).unwrap();
    let index = output.join("index.nf");
    let files = || fs::read_dir(&output).unwrap().map(|f| f.unwrap().file_name()).collect::<Vec<_>>();
    let mut interrupted = 0;
    for _ in 0..8 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearfield"));
        command.arg("build").arg(&base).arg("-o").arg(&index).args(["--spec", "Flat", "--metric", "l2"]);
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Until the temporary file is there, or the build is over.
        while child.try_wait().unwrap().is_none() && !files().iter().any(|f| f != "index.nf") {
            std::thread::yield_now();
        }
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        interrupted += i32::from(child.wait().unwrap().code() == Some(130));
        let left = files();
        assert!(left.iter().all(|f| f == "index.nf"), "{left:?}");
        if index.exists() {
            assert_eq!(json(&[&"verify", &index, &"--json"])[0]["ok"], true);
        }
    }
    assert!(interrupted > 0, "eight interrupts came too late");
}

#[test]
fn mistakes_are_named() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(60, 20, 1));
    let index = folder.path("index.nf");
    build(&base, &index, "IVF4,SQ8,Refine(f32)", "l2");
    let before = fs::read(&index).unwrap();

    let mut bad = made(60, 20, 1);
    bad[[17, 3]] = f32::NAN;
    let nan = folder.vectors("nan.fbin", &bad);
    let narrow = folder.vectors("narrow.fbin", &made(10, 19, 1));
    let empty = folder.vectors("empty.fbin", &Array2::zeros((0, 20)));
    let few = folder.vectors("few.fbin", &Array2::zeros((5, 20)));
    let missing = folder.path("missing.fbin");
    let cut = folder.path("cut.fbin");
    fs::write(&cut, &fs::read(&base).unwrap()[..999]).unwrap();
    let cut_index = folder.path("cut.nf");
    fs::write(&cut_index, &before[..before.len() / 2]).unwrap();

    let build = |base: &Path, spec: &str, metric: &str, code: i32, says: &[&str]| {
        fails(code, says, &[&"build", &base, &"-o", &index, &"--spec", &spec, &"--metric", &metric]);
    };
    build(&nan, "Flat", "l2", 3, &["NaN", "row 17", "column 3"]);
    build(&empty, "Flat", "l2", 3, &["at least one row"]);
    build(&cut, "Flat", "l2", 3, &["BASE", "cut.fbin", "999 bytes"]);
    build(&missing, "Flat", "l2", 5, &["missing.fbin"]);
    build(&base, "IVF61,Flat", "l2", 3, &["IVF", "60", "61"]);
    build(&base, "IVF4,RRR32", "l2", 3, &["RRR", "20", "32"]);
    build(&base, "IVF4,Flut", "l2", 2, &["--spec", "Flut", "scorer"]);
    build(&base, "Flat", "l3", 2, &["--metric", "l3", "cosine"]);
    fails(2, &["--metric"], &[&"build", &base, &"-o", &index]);
    let text_file = folder.path("base.txt");
    fs::write(&text_file, "1 2 3").unwrap();
    build(&text_file, "Flat", "l2", 3, &["base.txt", ".npy"]);
    fails(
        2,
        &["--output", "is an input"],
        &[&"build", &base, &"-o", &base, &"--spec", &"Flat", &"--metric", &"l2"],
    );
    let (nested, hollow) = (folder.path("nested.npy"), folder.path("hollow.npy"));
    let npy = |descr: &str, shape: &str| {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat()
    };
    fs::write(&nested, npy(&format!("{}{}", "[".repeat(40), "]".repeat(40)), "(0, 1)")).unwrap();
    fs::write(&hollow, npy("'<f4'", "(9223372036854775807, 0)")).unwrap();
    build(&nested, "Flat", "l2", 3, &["nested.npy", "structured"]);
    build(&hollow, "Flat", "l2", 3, &["hollow.npy", "empty rows"]);
    let huge = "18446744073709551615";
    fails(
        3,
        &["k: expected"],
        &[&"truth", &base, &base, &"-k", &huge, &"--metric", &"l2", &"-o", &folder.path("t.npy")],
    );
    fails(3, &["k: expected"], &[&"search", &index, &base, &"-k", &huge]);
    fails(
        3,
        &["--train-queries", "999"],
        &[&"build", &base, &"-o", &index, &"--metric", &"l2", &"--train-queries", &cut],
    );
    fails(
        5,
        &["nowhere"],
        &[&"build", &base, &"-o", &folder.path("nowhere/index.nf"), &"--spec", &"Flat", &"--metric", &"l2"],
    );
    fails(
        5,
        &["folder"],
        &[&"build", &base, &"-o", &folder.0.path(), &"--spec", &"Flat", &"--metric", &"l2"],
    );
    assert_eq!(fs::read(&index).unwrap(), before, "a failed build changed the index");

    fails(3, &["queries", "20", "19"], &[&"search", &index, &narrow]);
    fails(3, &["queries", "row 17"], &[&"search", &index, &nan]);
    fails(3, &["queries", "at least one"], &[&"search", &index, &empty]);
    fails(3, &["k: expected at least 1, got 0"], &[&"search", &index, &base, &"-k", &"0"]);
    fails(3, &["truncated"], &[&"search", &cut_index, &base]);
    fails(3, &["truncated"], &[&"verify", &cut_index]);
    fails(3, &["truncated"], &[&"info", &base]);
    fails(5, &["missing.fbin"], &[&"info", &missing]);
    fails(4, &["no such", "GPU"], &[&"search", &index, &base, &"--device", &"gpu:no such"]);
    fails(4, &["quantum", "auto"], &[&"search", &index, &base, &"--device", &"quantum"]);
    fails(
        3,
        &["k: expected at least 1, got 0"],
        &[&"truth", &base, &base, &"-k", &"0", &"--metric", &"l2", &"-o", &folder.path("t.npy")],
    );

    let truth = folder.path("truth.npy");
    json(&[&"truth", &base, &base, &"-k", &"5", &"--metric", &"l2", &"-o", &truth, &"--json"]);
    fails(3, &["truth", "10"], &[&"eval", &index, &base, &"--truth", &truth, &"-k", &"10"]);
    fails(3, &["truth"], &[&"eval", &index, &few, &"--truth", &truth, &"-k", &"5"]);

    // Clamped and padded, and said.
    let output = run(&[&"search", &index, &base, &"-k", &"100", &"--n-probe", &"50", &"--json"]);
    assert!(output.status.success());
    let stderr = text(&output.stderr);
    assert!(stderr.contains("50 given, the index has 4 lists") && stderr.contains("60 points"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_old_file() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(2000, 64, 1));
    let index = folder.path("index.nf");
    json(&[
        &"build",
        &folder.vectors("small.fbin", &made(10, 64, 1)),
        &"-o",
        &index,
        &"--spec",
        &"Flat",
        &"--metric",
        &"l2",
        &"--json",
    ]);
    let before = fs::read(&index).unwrap();
    // A limit on file size fails writes as a full disk does: 200 blocks of 512 bytes or 1 KiB.
    let script = r#"trap '' XFSZ; ulimit -f 200; exec "$0" build "$1" -o "$2" --spec Flat --metric l2"#;
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_nearfield")])
        .args([&base, &index])
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("cannot save") && stderr.contains("unchanged"), "{stderr}");
    assert_eq!(fs::read(&index).unwrap(), before);
    let left: Vec<_> = fs::read_dir(folder.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn vector_files_of_every_format_agree() {
    let folder = Folder::new();
    let (n, d) = (40, 12);
    // Small whole numbers: exact in every type.
    let x = Array2::from_shape_fn((n, d), |(i, j)| ((i * 7 + j * j * 3 + i * j) % 100) as f32);
    let row_wise = |head: &dyn Fn() -> Vec<u8>, value: &dyn Fn(f32) -> Vec<u8>| {
        x.outer_iter()
            .flat_map(|r| [head(), r.iter().flat_map(|&v| value(v)).collect()].concat())
            .collect::<Vec<u8>>()
    };
    let length = || 12_i32.to_le_bytes().to_vec();
    let nothing = Vec::new;
    let counts = || [40_u32.to_le_bytes(), 12_u32.to_le_bytes()].concat();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers below 100")]
    let whole = |v: f32| v as u8;
    let f32s = |v: f32| v.to_le_bytes().to_vec();
    let bytes = |v: f32| vec![whole(v)];
    let i32s = |v: f32| i32::from(whole(v)).to_le_bytes().to_vec();
    let npy = |descr: &str, values: Vec<u8>| {
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n}, {d}), }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &values].concat()
    };
    let files = [
        ("a.npy", npy("<f4", row_wise(&nothing, &f32s))),
        ("b.npy", npy("<f2", row_wise(&nothing, &|v| half::f16::from_f32(v).to_le_bytes().to_vec()))),
        ("c.npy", npy("|u1", row_wise(&nothing, &bytes))),
        ("d.npy", npy("|i1", row_wise(&nothing, &bytes))),
        ("e.fvecs", row_wise(&length, &f32s)),
        ("f.bvecs", row_wise(&length, &bytes)),
        ("g.ivecs", row_wise(&length, &i32s)),
        ("h.fbin", [counts(), row_wise(&nothing, &f32s)].concat()),
        ("i.u8bin", [counts(), row_wise(&nothing, &bytes)].concat()),
        ("j.i8bin", [counts(), row_wise(&nothing, &bytes)].concat()),
        ("k.ibin", [counts(), row_wise(&nothing, &i32s)].concat()),
    ];
    let mut indexes = Vec::new();
    for (name, contents) in files {
        let (path, index) = (folder.path(name), folder.path("index.nf"));
        fs::write(&path, &contents).unwrap();
        build(&path, &index, "IVF4,Flat", "l2");
        indexes.push(fs::read(&index).unwrap());
        for cut in [0, 1, 5, 9, 60, contents.len() - 1] {
            fs::write(&path, &contents[..cut.min(contents.len() - 1)]).unwrap();
            let output = run(&[
                &"build",
                &path,
                &"-o",
                &folder.path("cut.nf"),
                &"--spec",
                &"Flat",
                &"--metric",
                &"l2",
            ]);
            assert_eq!(output.status.code(), Some(3), "{name} cut at {cut}: {}", text(&output.stderr));
        }
    }
    assert!(indexes.windows(2).all(|w| w[0] == w[1]), "formats differ");
}

#[test]
fn bench_puts_devices_side_by_side() {
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(500, 20, 1));
    let queries = folder.vectors("queries.fbin", &made(30, 20, 2));
    let rows = json(&[
        &"bench",
        &base,
        &queries,
        &"--spec",
        &"IVF8,RRR16,Refine(f32)",
        &"--metric",
        &"l2",
        &"--n-probe",
        &"8",
        &"--batch",
        &"1,50",
        &"--device",
        &"cpu,reference",
        &"--json",
    ]);
    assert_eq!(rows.len(), 4);
    assert_eq!(rows.iter().map(|r| r["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 1, 50, 50]);
    assert!(rows.iter().all(|r| r["agree"].as_f64().unwrap() > 0.99 && r["recall"].as_f64().unwrap() > 0.95));
    fails(2, &["--batch"], &[&"bench", &"--batch", &"0"]);
    for batch in ["10000000000000", "18446744073709551615"] {
        fails(2, &["--batch", "at most", batch], &[&"bench", &"--batch", &batch]);
    }
    fails(4, &["tpu"], &[&"bench", &"--device", &"cpu,tpu"]);
    let index = folder.path("index.nf");
    build(&base, &index, "Flat", "l2");
    fails(3, &["BASE", "500", "30"], &[&"bench", &queries, &queries, &"--index", &index]);
    fails(2, &["--spec"], &[&"bench", &base, &queries, &"--index", &index, &"--spec", &"Flat"]);
    let ids = folder.path("ids.npy");
    fails(2, &["--output", "--scores"], &[&"search", &index, &queries, &"-o", &ids, &"--scores", &ids]);
    let output = run(&[&"search", &index, &queries, &"-k", &"600"]);
    assert!(text(&output.stderr).contains("padding"), "{}", text(&output.stderr));
}

#[test]
#[cfg(feature = "gpu")]
fn gpus_are_listed_and_searched() {
    let Some(name) = support::gpu_name() else { return };
    let folder = Folder::new();
    let base = folder.vectors("base.fbin", &made(500, 20, 1));
    let index = folder.path("index.nf");
    build(&base, &index, "IVF8,RRR16,Refine(f16)", "l2");
    let listed = json(&[&"devices", &"--json"]);
    let device = listed[0]["gpus"][0]["device"].as_str().unwrap().to_owned();
    assert_eq!(device, format!("gpu:{name}"));
    assert!(text(&run(&[&"devices"]).stdout).contains(&device));
    let on = |device: &str, extra: &[&str]| {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"search", &index, &base, &"--device"];
        arguments.push(&device);
        arguments.extend(extra.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
        run(&arguments)
    };
    let want = text(&on("cpu", &[]).stdout);
    for extra in [&[][..], &["--gpu-tier", "floor"], &["--gpu-memory", "8MiB"]] {
        let output = on(&device, extra);
        assert!(output.status.success(), "{}", text(&output.stderr));
        // Ids are equal, scores to six places may differ by rounding.
        let ids = |t: &str| -> Vec<String> {
            t.split_whitespace().map(|w| w.split(':').next().unwrap().to_owned()).collect()
        };
        let (got, want) = (ids(&text(&output.stdout)), ids(&want));
        let same = got.iter().zip(&want).filter(|(a, b)| a == b).count();
        assert!(same * 100 >= want.len() * 99, "{same} of {} alike", want.len());
    }
    let profiled = on(&device, &["--profile"]);
    let said = text(&profiled.stderr);
    assert!(said.contains("scorer_run_score") || said.contains("timestamps"), "{said}");
    for (extra, words) in [
        (["--gpu-memory", "1KiB"], "at least 8 MiB"),
        (["--gpu-memory", "lots"], "512MiB"),
        (["--gpu-tier", "top"], "floor"),
    ] {
        let output = on(&device, &extra);
        assert!(!output.status.success() && text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    let rows = json(&[
        &"bench",
        &"--device",
        &format!("cpu,{device}").as_str(),
        &"--batch",
        &"4",
        &"--json",
        &"--profile",
    ]);
    assert!(rows[1]["agree"].as_f64().unwrap() > 0.98, "{}", rows[1]);
}

#[test]
fn the_demo_finds_what_exact_search_finds() {
    let row = &json(&[&"demo", &"--json"])[0];
    assert!(row["recall"].as_f64().unwrap() > 0.96, "{row}");
    let shown = text(&run(&[&"demo"]).stdout);
    assert!(shown.contains("recall@10") && shown.contains("the same"), "{shown}");
}

#[test]
fn help_teaches() {
    let help = text(&run(&[&"--help"]).stdout);
    for command in ["build", "search", "truth", "eval", "bench", "info", "verify", "devices", "demo"] {
        assert!(help.contains(command), "{command} is not in the help");
        assert!(run(&[&command, &"--help"]).status.success());
    }
    for (command, says) in [
        ("build", ["APQ<M>x4|x8", "soar[=1..7]"]),
        ("eval", ["recall@k", "1@k"]),
        ("bench", ["p50", "agree"]),
    ] {
        let help = text(&run(&[&command, &"--help"]).stdout);
        assert!(says.iter().all(|word| help.contains(word)), "{command} --help does not explain {says:?}");
    }
}
