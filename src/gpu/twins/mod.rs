//! Kernels beside their twins, one at a time. Integer stages must be equal; so must scores of small integers, which f32
//! holds exactly in any order.

mod blocks;
mod candidates;
mod networks;
mod pq;
mod rows;

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    Buffer, Gpu, GpuError, GpuOptions, Tier,
    kernel::{Kernel, Plan, TILE_POINTS, Tile},
    layout::{RowState, ScanParams, narrow},
    pages::upload,
    recording::{Cost, Grid, Recording, read_back},
    tests::required,
};

/// The first GPU in every tier it has; none where there is none, unless `REQUIRE` names `gpu`.
fn gpus() -> Vec<Gpu> {
    let Some(adapter) = Gpu::adapters().into_iter().next() else {
        assert!(!required("gpu"), "REQUIRE: this machine has no GPU, not even in software");
        eprintln!("skipped: no GPU, not even in software");
        return Vec::new();
    };
    let tiers = Tier::ALL.into_iter().filter(|tier| *tier <= adapter.tier);
    tiers
        .map(|tier| {
            let name = Some(adapter.name.clone());
            Gpu::open(&GpuOptions { name, tier: Some(tier), ..Default::default() }).unwrap()
        })
        .collect()
}

fn random(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn held<T: bytemuck::Pod>(gpu: &Gpu, values: &[T]) -> Buffer {
    upload(gpu, "input", bytemuck::cast_slice(values)).unwrap()
}

fn room(gpu: &Gpu, bytes: usize) -> Buffer {
    upload(gpu, "output", &vec![0; bytes]).unwrap()
}

fn run(gpu: &Gpu, kernel: Kernel, params: &impl bytemuck::Pod, bindings: &[&Buffer], groups: usize) {
    let mut recording = Recording::new(gpu);
    recording.dispatch(kernel, params, bindings, Grid::Groups(groups as u64), Cost::default());
    recording.submit(&mut None, None).unwrap();
}

fn values<T: bytemuck::Pod>(gpu: &Gpu, buffer: &Buffer, n: usize) -> Vec<T> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let read = gpu.create("read", buffer.size(), usage).unwrap();
    let mut recording = Recording::new(gpu);
    recording.copy(buffer, &read, buffer.size());
    recording.submit(&mut None, None).unwrap();
    read_back(gpu, &read, n).unwrap()
}

/// A scan of one list of `n` points for `n_queries` queries: its parameters, its groups and its grid.
fn one_list(gpu: &Gpu, plan: Plan, n: usize, n_queries: usize) -> (ScanParams, [u32; 4], usize) {
    let tiles = n.div_ceil(TILE_POINTS);
    let params = ScanParams {
        grid_width: gpu.grid_width(),
        n_lists: 1,
        n_probe: 1,
        n_probes: 1,
        n_slots: narrow(n_queries),
        max_tiles: narrow(tiles),
        tile_points: narrow(TILE_POINTS),
        page_to: narrow(n),
        round_to: narrow(n),
        stride: narrow(n),
        ..Default::default()
    };
    let work = n_queries.div_ceil(8) * tiles;
    let grid = if plan == Plan::QueryMajor { n_queries * tiles } else { work };
    (params, [0, narrow(n_queries), 0, narrow(work)], grid)
}

/// Slots of `n` queries that all probe list 0: as routed, or the queries in reverse, so that slot and query differ.
fn slots(plan: Plan, n: usize) -> Vec<[u32; 2]> {
    match plan {
        Plan::QueryMajor => vec![[0, 0]; n],
        Plan::ClusterMajor => (0..n).rev().map(|query| [narrow(query), 0]).collect(),
    }
}

/// The query of a slot of [`slots`].
fn row_of(plan: Plan, n: usize, slot: usize) -> usize {
    match plan {
        Plan::QueryMajor => slot,
        Plan::ClusterMajor => n - 1 - slot,
    }
}

/// Asserts that exactly these candidates survived for a query, in any order; `stride` places a query.
fn assert_survivors(
    (found, states): (&[[u32; 2]], &[RowState]),
    (row, stride): (usize, usize),
    mut want: Vec<[u32; 2]>,
    context: &str,
) {
    let mut got = found[row * stride..row * stride + states[row].count as usize].to_vec();
    want.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, want, "{context}, query {row}");
}

#[test]
fn a_refused_kernel_is_an_error_with_its_name() {
    let Some(floor) = gpus().into_iter().next() else { return };
    // Opened without the f16 type, which this variant needs.
    let kernel = Kernel::Project(Tile::Many);
    let Err(error) = floor.compiled(kernel, Tier::SubgroupsF16) else { panic!("compiled without f16") };
    assert!(matches!(&error, GpuError::Shader { kernel, .. } if kernel == "transform_project"), "{error}");
    assert!(floor.pipeline(kernel).is_ok(), "the device stays usable");
}
