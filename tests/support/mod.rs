//! Data for the tests: made sets, and the embedded real one.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView2};
use nearfield::{
    Device, Hits, Index, IndexSpec, Metric, SearchParams, Simd, Training, Vectors, io::VectorFile,
};

pub const METRICS: [Metric; 3] = [Metric::Ip, Metric::Cosine, Metric::L2];

/// Every kind of stage, small.
pub const SPECS: [&str; 28] = [
    "Flat",
    "SQ8",
    "IVF6,Flat",
    "PCA16,Flat,Refine(f32)",
    "PCA12,IVF4,SQ8,Refine(f16)",
    "IVF5,SQ8,Refine(sq8)",
    "IVF6,RRR16",
    "PCA17x8,IVF6,RRR16,Refine(f16)",
    "PCA9x8,SQ8",
    "PCA17,IVF6,RRR16,Refine(f32)",
    "PCA18,IVF6,RRR16x4,Refine(f16)",
    "IVF3,RRR16x4x8,Refine(sq8)",
    "PCA16,IVF1,RRR16x8x4,Refine(f32)",
    "PQ5x4",
    "IVF6,PQ8x8",
    "PCA15,IVF5,APQ7x4,Refine(f16)",
    "IVF7(T=0.3),APQ3x8(T=0.4),Refine(f32)",
    "IVF6(soar=1),RRR16,Refine(f16)",
    "IVF5(soar=2,lambda=0.5),SQ8",
    "PCA10,IVF8(soar=3),Flat,Refine(sq8)",
    "IVF9(soar=1,T=0.2),APQ6x4",
    "LIN8,Flat,Refine(f32)",
    "LIN16,IVF6,RRR16,Refine(f32)",
    "LIN17x8,IVF5(soar=1),RRR16,Refine(f16)",
    "SRP9x8,IVF4,PQ4x4,Refine(f32)",
    "IVF6(router=linear),RRR16,Refine(f32)",
    "PCA12x8,IVF5(soar=1,router=linear),SQ8,Refine(f16)",
    "IVF4(soar=1,router=linear),APQ6x4",
];

/// Networks, which take the feature `neural` to train and nothing to search.
pub const NETWORKS: [&str; 8] = [
    "CNT5,Flat",
    "CNT16(tokens=2,heads=1,expansion=1),IVF6,RRR16",
    "CNT7(tokens=3,stages=2),IVF5,SQ8,Refine(f16)",
    "CNT12(tokens=5,heads=3,stages=3),PQ4x8,Refine(f32)",
    "IVF6(router=cnn,width=4),RRR16,Refine(f16)",
    "PCA13,IVF5(soar=1,router=cnn,labels,width=3),APQ4x4",
    "PCA9x8,IVF4(router=cnn,width=2),CNN(width=2)",
    "IVF5(soar=1),CNN(width=7),Refine(sq8)",
];

/// Numbers that look random, the same everywhere.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Roughly normal, by a sum of uniforms.
    pub fn normal(&mut self) -> f32 {
        (0..4).map(|_| (self.bits() >> 40) as f32 / (1_u32 << 24) as f32 - 0.5).sum::<f32>() * 1.73
    }
}

/// Clustered rows around an offset mean, spectrum decaying with the dimension.
pub fn made(n: usize, d: usize, seed: u64) -> Array2<f32> {
    let mut numbers = Numbers::new(11);
    let centres =
        Array2::from_shape_fn((8, d), |(_, j)| 1.0 + numbers.normal() * 3.0 / (1.0 + j as f32).sqrt());
    let mut numbers = Numbers::new(seed + 1);
    Array2::from_shape_fn((n, d), |(i, j)| {
        centres[[(i * 5 + i / 8) % 8, j]] + numbers.normal() / (1.0 + j as f32).sqrt()
    })
}

pub fn build(spec: &str, metric: Metric, base: ArrayView2<'_, f32>) -> Index {
    // Few steps, and long ones, so that every part of a network does something.
    let training = Training { steps: 40, batch: 32, rate: 0.03, averaged_from: 0.9, ..Default::default() };
    let spec: IndexSpec = spec.parse().unwrap();
    Index::builder(spec).metric(metric).seed(3).training(training).build(base).unwrap()
}

/// An index file with other values, that look random, in the networks that are nothing where training found nothing better.
pub fn with_random_networks(file: &[u8]) -> Vec<u8> {
    let header = 8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
    let (mut numbers, mut out) = (Numbers::new(5), file.to_vec());
    for name in ["router.network", "cnn.weights", "router.network_biases", "cnn.biases"] {
        let Some(offsets) = json[name]["data_offsets"].as_array() else { continue };
        let [from, to] = [0, 1].map(|i| header + usize::try_from(offsets[i].as_u64().unwrap()).unwrap());
        if name.ends_with("biases") {
            // Deviations and their inverses, zeros in networks that are nothing.
            let row = 4 * usize::try_from(json[name]["shape"][1].as_u64().unwrap()).unwrap();
            for row in out[from..to].chunks_exact_mut(row) {
                row[..8].copy_from_slice(bytemuck::cast_slice(&[1.5_f32, 1.0 / 1.5]));
            }
        } else {
            for bytes in out[from..to].chunks_exact_mut(2) {
                bytes.copy_from_slice(&half::f16::from_f32(0.1 * numbers.normal()).to_le_bytes());
            }
        }
        let sum = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&out[from..to]));
        json["__metadata__"][format!("xxh3.{name}")] = sum.into();
    }
    let mut text = json.to_string().into_bytes();
    text.resize(header - 8, b' ');
    out[8..header].copy_from_slice(&text);
    out
}

/// The kept file of version 1 of this specification, made of 120 rows of 20 dimensions.
pub fn v1(spec: &str, metric: Metric) -> PathBuf {
    kept(1, spec, metric)
}

/// The kept file of a version of this specification.
pub fn kept(version: u32, spec: &str, metric: Metric) -> PathBuf {
    let name = spec.replace(',', "-").replace(['(', ')'], "");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/v{version}/{name}-{metric}.nf"))
}

/// Specifications of files with a frame and, for rows in bytes, with scales.
pub const FRAMED: [&str; 8] = [
    "IVF6,Flat",
    "PCA12,IVF4,SQ8,Refine(f16)",
    "IVF5,SQ8,Refine(sq8)",
    "PCA17,IVF6,RRR16,Refine(f32)",
    "PCA15,IVF5,APQ7x4,Refine(f16)",
    "IVF6(soar=1),RRR16,Refine(f16)",
    "IVF6(T=0),RRR16,Refine(sq8)",
    "LIN8,Flat,Refine(f32)",
];

/// [`made`] rows with a large common part, of which one is fifty times as long; the same part for queries.
pub fn framed(n: usize, d: usize, seed: u64) -> Array2<f32> {
    let mut base = made(n, d, seed);
    base += 8.0;
    if n > 50 {
        base.row_mut(33).mapv_inplace(|v| v * 50.0);
    }
    base
}

pub fn search(index: &Index, device: Device, queries: ArrayView2<'_, f32>, params: SearchParams) -> Hits {
    index.searcher(device).unwrap().search(queries, params).unwrap()
}

/// All devices that must agree with the reference; `REQUIRE=avx2,avx512-vnni,gpu` fails where one is missing.
pub fn devices() -> Vec<Device> {
    for name in std::env::var("REQUIRE").unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        assert!(
            ["gpu", "tint"].contains(&name) || Simd::by_name(name).is_some(),
            "REQUIRE: this machine has no {name}"
        );
    }
    let cpus = Simd::available().into_iter().map(Device::CpuWith);
    #[cfg(feature = "gpu")]
    return cpus.chain(gpu().map(Device::from)).collect();
    #[cfg(not(feature = "gpu"))]
    cpus.collect()
}

/// The name of the first GPU, in hardware or software. Says so where there is none; fails if `REQUIRE` wants one.
#[cfg(feature = "gpu")]
pub fn gpu_name() -> Option<String> {
    let name = nearfield::Gpu::adapters().into_iter().next().map(|adapter| adapter.name);
    if name.is_none() {
        let required = std::env::var("REQUIRE").unwrap_or_default().split(',').any(|name| name == "gpu");
        assert!(!required, "REQUIRE: this machine has no GPU, not even in software");
        eprintln!("skipped: no GPU, not even in software (Mesa's lavapipe is one)");
    }
    name
}

/// A GPU of these options, the name filled in.
#[cfg(feature = "gpu")]
pub fn gpu_with(options: nearfield::GpuOptions) -> Option<nearfield::Gpu> {
    let name = Some(gpu_name()?);
    Some(nearfield::Gpu::open(&nearfield::GpuOptions { name, ..options }).unwrap())
}

/// The GPU that tests share, so that kernels are compiled once.
#[cfg(feature = "gpu")]
pub fn gpu() -> Option<nearfield::Gpu> {
    static SHARED: std::sync::OnceLock<Option<nearfield::Gpu>> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| gpu_with(nearfield::GpuOptions::default())).clone()
}

/// A GPU of each tier that this one has; says which it lacks.
#[cfg(feature = "gpu")]
pub fn every_tier() -> Vec<nearfield::Gpu> {
    let best = gpu().map(|gpu| gpu.adapter().tier);
    let open = |tier| {
        if best.is_none_or(|best| tier > best) {
            eprintln!("skipped: tier {tier}");
            return None;
        }
        let gpu = gpu_with(nearfield::GpuOptions { tier: Some(tier), ..Default::default() })?;
        assert_eq!(gpu.tier(), tier);
        Some(gpu)
    };
    nearfield::Tier::ALL.into_iter().filter_map(open).collect()
}

pub fn embedded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/wordnet").join(name)
}

/// Writes vectors as .fbin.
pub fn write_fbin(path: &Path, x: &Array2<f32>) {
    let mut bytes = Vec::new();
    for n in [x.nrows(), x.ncols()] {
        bytes.extend(u32::try_from(n).unwrap().to_le_bytes());
    }
    bytes.extend(x.iter().flat_map(|v| v.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

pub fn embedded_array(name: &str) -> Array2<f32> {
    let file = VectorFile::open(embedded(name)).unwrap();
    let mut out = Array2::zeros((file.n_rows(), file.dim()));
    for (i, mut row) in out.outer_iter_mut().enumerate() {
        file.read(i, row.as_slice_mut().unwrap());
    }
    out
}

/// Asserts that every device finds what the reference does.
pub fn assert_devices_agree(index: &Index, queries: ArrayView2<'_, f32>, params: SearchParams, spec: &str) {
    let want = search(index, Device::Reference, queries, params);
    let (n, d, metric) = (index.len(), index.dim(), index.metric());
    for device in devices() {
        let got = search(index, device.clone(), queries, params);
        assert_agree(&got, &want, spec, &format!("{metric} {n} × {d} {device:?} {params:?}"));
    }
}

/// Asserts that two results agree within budgets: scores to a relative error, ranks all but a few. Where lookup tables
/// make the scores, sums in another order may round a byte of a table the other way, which moves every score that reads it
/// by a step, 1/255 of the widest table: usually a thousandth of the largest score, in few places up to a hundredth.
pub fn assert_agree(got: &Hits, want: &Hits, spec: &str, context: &str) {
    let by_tables = spec.contains("PQ") && !spec.contains("Refine");
    let error = if by_tables { 1e-3 } else { 1e-4 };
    let context = format!("{spec} {context}");
    let top = want.scores.iter().filter(|s| s.is_finite()).fold(1e-6_f32, |m, s| m.max(s.abs()));
    let (mut differ, mut far, mut stepped) = (0, 0, 0);
    for (query, (g, w)) in got.scores.outer_iter().zip(want.scores.outer_iter()).enumerate() {
        for (rank, (g, w)) in g.iter().zip(w).enumerate() {
            let off = if g == w { 0.0 } else { (g - w).abs() };
            let by_a_step = by_tables && off > error * top && off <= 10.0 * error * top;
            stepped += usize::from(by_a_step);
            assert!(
                off <= error * top || by_a_step,
                "{context}: query {query}, rank {rank}: score {g} instead of {w}"
            );
            let (gi, wi) = (got.ids[[query, rank]], want.ids[[query, rank]]);
            if gi != wi {
                differ += 1;
                let near = rank.saturating_sub(1)..(rank + 2).min(want.ids.ncols());
                if !near.into_iter().any(|r| want.ids[[query, r]] == gi) {
                    far += 1;
                }
            }
        }
    }
    let places = want.ids.len();
    assert!(differ * 50 <= places, "{context}: {differ} of {places} ranks differ");
    assert!(
        stepped * 200 <= places,
        "{context}: {stepped} of {places} scores are off by a step of the tables"
    );
    assert!(far * 200 <= places, "{context}: {far} of {places} ranks are off by more than one");
    for (query, ids) in got.ids.outer_iter().enumerate() {
        let mut ids: Vec<u64> = ids.iter().copied().filter(|&id| id != nearfield::NO_ID).collect();
        let n = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), n, "{context}: query {query} has an id twice");
    }
}

/// An `.npy` file, as NumPy writes version 1.
pub fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), values].concat()
}
