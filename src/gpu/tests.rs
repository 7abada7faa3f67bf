//! Kernels without a device: they compose, validate, translate to every back end, and fit their bindings.

use std::path::Path;

use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::{Tier, kernel::Access, kernel::Kernel, layout};

/// Whether `REQUIRE` names what a test would rather skip without.
pub(super) fn required(name: &str) -> bool {
    std::env::var("REQUIRE").unwrap_or_default().split(',').any(|required| required == name)
}

fn validated(kernel: Kernel, tier: Tier) -> (naga::Module, naga::valid::ModuleInfo) {
    let source = kernel.source(tier);
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{kernel} {tier}: {}", e.emit_to_string(&source)));
    let mut capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if tier >= Tier::Subgroups {
        capabilities |= Capabilities::SUBGROUP;
    }
    if tier >= Tier::SubgroupsF16 {
        capabilities |= Capabilities::SHADER_FLOAT16;
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{kernel} {tier}: {}", e.emit_to_string(&source)));
    (module, info)
}

#[test]
fn layout_is_committed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/shared/layout.wgsl");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, layout::WGSL).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), layout::WGSL, "stale: run BLESS=1 cargo test");
}

#[test]
fn kernels_validate_and_have_the_bindings_of_the_table() {
    for tier in Tier::ALL {
        for kernel in Kernel::all() {
            let (module, _) = validated(kernel, tier);
            assert_eq!(module.entry_points.len(), 1, "{kernel}");
            assert_eq!(module.entry_points[0].name, kernel.name());
            let expected = kernel.bindings();
            for (_, global) in module.global_variables.iter() {
                let Some(binding) = &global.binding else { continue };
                let name = global.name.as_deref().unwrap_or_default();
                assert_eq!(binding.group, 0, "{kernel} {name}");
                match global.space {
                    naga::AddressSpace::Uniform => assert_eq!(binding.binding, 0, "{kernel} {name}"),
                    naga::AddressSpace::Storage { access } => {
                        let at = binding.binding as usize - 1;
                        let writes = access.contains(naga::StorageAccess::STORE);
                        let want = if writes { Access::Write } else { Access::Read };
                        assert_eq!(expected.get(at), Some(&want), "{kernel} {name}");
                    }
                    other => panic!("{kernel} {name}: {other:?}"),
                }
            }
            // The floor: 8 storage buffers, 16 KiB of workgroup memory, 256 invocations.
            assert!(expected.len() <= 8, "{kernel}");
            let mut layouter = naga::proc::Layouter::default();
            layouter.update(module.to_ctx()).unwrap();
            let shared: u32 = module
                .global_variables
                .iter()
                .filter(|(_, g)| g.space == naga::AddressSpace::WorkGroup)
                .map(|(_, g)| layouter[g.ty].size.next_multiple_of(16))
                .sum();
            assert!(shared <= 16384, "{kernel}: {shared} bytes of workgroup memory");
            assert!(module.entry_points[0].workgroup_size.iter().product::<u32>() <= 256);
        }
    }
}

#[test]
fn kernels_translate_to_every_back_end() {
    use naga::back::{hlsl, msl, spv};
    for tier in Tier::ALL {
        for kernel in Kernel::all() {
            let (module, info) = validated(kernel, tier);
            let context = format!("{kernel} {tier}");
            let options = spv::Options { lang_version: (1, 3), ..Default::default() };
            let words = spv::write_vec(&module, &info, &options, None).expect(&context);
            assert!(words.len() > 100);
            let mut options =
                msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
            options.spirv_cross_compatibility = false;
            let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
                .expect(&context);
            assert!(text.contains("kernel void"), "{context}");
            let mut text = String::new();
            let options = hlsl::Options {
                shader_model: hlsl::ShaderModel::V6_2,
                fake_missing_bindings: true,
                ..Default::default()
            };
            hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
                .write(&module, &info, None)
                .expect(&context);
            assert!(text.contains("numthreads"), "{context}");
        }
    }
}

/// Tint, the compiler of Chromium and of Dawn, is stricter than naga: barriers and subgroup operations must be in
/// uniform control flow. `npm install --prefix target/tint webgpu` brings it.
#[test]
fn kernels_pass_tint() {
    use std::{io::Write, process::*};
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/tint");
    if !folder.join("node_modules/webgpu").is_dir() {
        assert!(!required("tint"), "REQUIRE: no Tint; npm install --prefix target/tint webgpu");
        eprintln!("skipped: no Tint; npm install --prefix target/tint webgpu");
        return;
    }
    let modules: Vec<serde_json::Value> = Tier::ALL
        .into_iter()
        .flat_map(|tier| Kernel::all().into_iter().map(move |kernel| (tier, kernel)))
        .map(|(tier, kernel)| {
            // naga takes subgroup builtins as they are, Tint wants them enabled.
            let uses_subgroups = kernel.source(tier).contains("subgroup_id");
            let enable = if uses_subgroups { "enable subgroups;\n" } else { "" };
            let mut needs = Vec::new();
            if uses_subgroups {
                needs.push("subgroups");
            }
            if kernel.source(tier).contains("enable f16;") {
                needs.push("shader-f16");
            }
            let source = format!("{enable}{}", kernel.source(tier));
            serde_json::json!({"name": format!("{kernel} {tier}"), "source": source, "needs": needs})
        })
        .collect();
    let script = folder.join("validate.mjs");
    std::fs::copy(root.join("tests/tint/validate.mjs"), &script).unwrap();
    let mut node = Command::new("node")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = serde_json::json!({"modules": modules}).to_string();
    node.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}
