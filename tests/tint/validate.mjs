// Compiles shaders with Tint (Dawn for node, without any GPU) and prints what it objects to.
//
// stdin: {"modules": [{"name", "source"}]}; exit code 0 when all compile, none left out.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
const { modules } = JSON.parse(readFileSync(0, "utf8"));
// Dawn's objects are freed with the last reference to them: both must outlive the loop.
globalThis.gpu = create(["backend=null"]);
globalThis.adapter = await gpu.requestAdapter();
if (!adapter) {
  console.error("Dawn has no null adapter");
  process.exit(2);
}
const features = ["subgroups", "shader-f16"].filter((name) => adapter.features.has(name));
globalThis.device = await adapter.requestDevice({ requiredFeatures: features });
let failed = 0;
let compiled = 0;
for (const { name, source, needs } of modules) {
  if (needs.some((feature) => !features.includes(feature))) continue;
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: source });
  const info = await module.getCompilationInfo();
  const error = await device.popErrorScope();
  const errors = info.messages.filter((message) => message.type === "error");
  if (error || errors.length) {
    failed += 1;
    for (const e of errors) console.error(`${name}:${e.lineNum}:${e.linePos}: ${e.message}`);
    if (!errors.length) console.error(`${name}: ${error.message}`);
  }
  compiled += 1;
}
console.log(`${compiled} of ${modules.length} modules compiled with features [${features}], ${failed} refused`);
process.exit(failed || compiled < modules.length ? 1 : 0);
