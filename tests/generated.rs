//! Random specifications of random shapes: every device answers as the reference, and builds are the same bytes on any number of
//! threads. `NEARFIELD_CASES` says how many (of 1 000 each has a seed; `NEARFIELD_SEED` runs one).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nearfield::{Index, IndexSpec, SearchParams, Training};
use support::{METRICS, Numbers, assert_devices_agree, made};

/// Cases where nothing else is said.
const CASES: u64 = 60;

/// A number below `n`.
fn below(numbers: &mut Numbers, n: usize) -> usize {
    usize::try_from(numbers.bits() >> 8).unwrap() % n
}

fn one_of<'a>(numbers: &mut Numbers, words: &[&'a str]) -> &'a str {
    words[below(numbers, words.len())]
}

/// Dimensions at least, of points and of what they are reduced to: in fewer, points tie in int8 by the hundred, and the last bit of a
/// product says which are found.
const DIMENSIONS: usize = 4;

/// A specification that points of `n` × `d` may be indexed by.
fn specification(numbers: &mut Numbers, n: usize, d: usize) -> IndexSpec {
    loop {
        let mut words = Vec::new();
        let s = DIMENSIONS + below(numbers, d - DIMENSIONS + 1);
        let transform = one_of(numbers, &["", "", "PCA", "PCA", "LIN", "SRP"]);
        if !transform.is_empty() {
            words.push(format!("{transform}{s}{}", one_of(numbers, &["", "x8"])));
        }
        if below(numbers, 4) > 0 {
            let options = one_of(
                numbers,
                &["", "(soar=1)", "(router=linear)", "(soar=2,lambda=1.5)", "(soar=1,router=linear)"],
            );
            words.push(format!("IVF{}{options}", 1 + below(numbers, 1 + n / 4)));
        }
        let m = 1 + below(numbers, s);
        words.push(match below(numbers, 6) {
            0 => "Flat".to_owned(),
            1 => "SQ8".to_owned(),
            2 => format!("RRR{}{}", 16 * (1 + below(numbers, 3)), one_of(numbers, &["", "x4", "x4x8"])),
            3 => format!("PQ{m}x{}", one_of(numbers, &["4", "8"])),
            _ => format!("APQ{m}x4"),
        });
        let refine = one_of(numbers, &["", "Refine(f32)", "Refine(f16)", "Refine(sq8)"]);
        if !refine.is_empty() {
            words.push(refine.to_owned());
        }
        if let Ok(spec) = words.join(",").parse::<IndexSpec>()
            && spec.resolve(n, d).is_ok()
        {
            return spec;
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, got {text}")))
}

#[test]
fn any_specification_means_the_same_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let several = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    let training = Training { steps: 20, batch: 64, ..Default::default() };
    let seeds = match number("NEARFIELD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("NEARFIELD_CASES").unwrap_or(CASES),
    };
    for seed in seeds {
        let mut numbers = Numbers::new(seed);
        let (n, d) = (20 + below(&mut numbers, 600), DIMENSIONS + below(&mut numbers, 48));
        let spec = specification(&mut numbers, n, d);
        let metric = METRICS[below(&mut numbers, METRICS.len())];
        let (base, queries) = (made(n, d, seed), made(1 + below(&mut numbers, 90), d, seed + 7));
        eprintln!("seed {seed}: {spec} {metric} over {n} × {d}, {} queries", queries.nrows());
        let bytes = |pool: &rayon::ThreadPool, name: &str| {
            let builder = Index::builder(spec).metric(metric).seed(seed).training(training.clone());
            let index = pool.install(|| builder.build(base.view())).unwrap();
            index.save(folder.path().join(name)).unwrap();
            (std::fs::read(folder.path().join(name)).unwrap(), index)
        };
        let ((first, index), (second, _)) = (bytes(&one, "one.nf"), bytes(&several, "several.nf"));
        assert!(first == second, "seed {seed}: {spec}: files differ by the number of threads");
        // So many places that one of equals does not count.
        let k = 1 + below(&mut numbers, 30);
        let k = k.max(200_usize.div_ceil(queries.nrows()).min(n));
        let params =
            SearchParams::new(k).n_probe(1 + below(&mut numbers, 12)).n_rerank(k + below(&mut numbers, 60));
        assert_devices_agree(&index, queries.view(), params, &format!("seed {seed}: {spec}"));
    }
}
