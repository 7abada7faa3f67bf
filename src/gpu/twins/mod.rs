//! Kernels beside their twins, one at a time. Integer stages must be equal; so must scores of small integers, which f32
//! holds exactly in any order.

mod blocks;
mod candidates;
mod rows;

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    Buffer, Gpu, GpuError, GpuOptions, Tier,
    kernel::{Kernel, Tile},
    pages::upload,
    recording::{Cost, Grid, Recording, read_back},
};

/// The first GPU in every tier it has; none where there is none, unless `REQUIRE` names `gpu`.
fn gpus() -> Vec<Gpu> {
    let Some(adapter) = Gpu::adapters().into_iter().next() else {
        let required = std::env::var("REQUIRE").unwrap_or_default().split(',').any(|name| name == "gpu");
        assert!(!required, "REQUIRE: this machine has no GPU, not even in software");
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
    let bytes = read_back(gpu, &read, buffer.size()).unwrap();
    bytemuck::pod_collect_to_vec(&bytes[..n * size_of::<T>()])
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
