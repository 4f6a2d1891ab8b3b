// `bun run test [tier...]`: runs the tiers one after the other and closes with one line,
// "N passed, N failed", summed over all of them. Tiers that this machine cannot run say why.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { closest } from "../lib/config/suggest.ts";
import { checkCells, checkKernels } from "./kernels.mjs";
import { ensureEmulator, runNativeTests, testEmulator } from "./native.mjs";
import { findNvcc, gpuDevice } from "./nvcc.mjs";
import { bun } from "./packages.mjs";
import { ensureNvcc } from "./python.mjs";
import { root, SetupError, show, tail, tools, withErrors } from "./terminal.mjs";

const folders = (...names) => names.map((name) => `./test/${name}`);

const tiers = {
  native: () => nativeTier("safe"),
  pure: () => bunTier("pure", folders("pure", "tidy.test.ts")),
  cpu: () => bunTier("cpu", folders("cpu")),
  kernels: kernelTier,
  gpu: gpuTier,
  multi: () => bunTier("multi", folders("multi")),
};
// Not part of a run without names: the same tests as `native`, in builds that are slow to run.
const extra = {
  "native-debug": () => nativeTier("debug"),
  "native-fast": () => nativeTier("fast"),
};

await withErrors(async () => {
  const results = [];
  for (const name of chosenTiers()) {
    process.stdout.write(`\n--- ${name}\n`);
    results.push({ name, ...(await (tiers[name] ?? extra[name])()) });
  }
  process.stdout.write("\n");
  for (const result of results) process.stdout.write(`${describe(result)}\n`);
  const sum = (key) => results.reduce((total, result) => total + (result[key] ?? 0), 0);
  process.stdout.write(`\n${sum("passed")} passed, ${sum("failed")} failed\n`);
  process.exitCode = sum("failed") > 0 || sum("passed") === 0 ? 1 : 0;
});

function chosenTiers() {
  const names = process.argv.slice(2);
  const all = Object.keys({ ...tiers, ...extra });
  for (const name of names.filter((word) => !all.includes(word))) {
    const near = closest(name, all);
    const known = near ? `did you mean "${near}"?` : `there are ${all.join(", ")}.`;
    throw new SetupError(`"${name}" is no tier of tests; ${known}`);
  }
  return names.length > 0 ? names : Object.keys(tiers);
}

function nativeTier(mode) {
  const seed = `0x${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
  process.stdout.write(`zig build test -Doptimize=${mode} -- --seed=${seed}\n`);
  const { status, output } = runNativeTests(mode, seed);
  if (status !== 0) process.stdout.write(`${tail(output, 200)}\n`);
  const [, passed, total] = /(\d+)\/(\d+) tests passed/.exec(output) ?? [];
  if (passed === undefined) {
    return { passed: 0, failed: 1, note: "the tests did not run; the errors are above" };
  }
  const skipped = Number(/\((\d+) skipped/.exec(output)?.[1] ?? 0);
  const failed = Number(total) - Number(passed) - skipped;
  // A failed status without a failed test is a crash, a leak, or a test program that did not build.
  return { passed: Number(passed), failed: status === 0 ? failed : Math.max(failed, 1), skipped };
}

/**
 * Every CUDA unit must compile, whether there is a GPU or not; the Hopper kernels must compute what
 * they should on an emulated one, and the emulator of the driver must see what it should.
 */
async function kernelTier() {
  const nvcc = findNvcc() ?? (await ensureNvcc().catch((error) => error));
  if (nvcc instanceof Error) return { skipped: nvcc.message };
  const results = [...(await checkKernels(nvcc)), ...(await checkCells()), testEmulator()];
  for (const { unit, problems } of results) {
    for (const problem of problems) process.stdout.write(`${unit}: ${problem}\n`);
  }
  const failed = results.filter(({ problems }) => problems.length > 0).length;
  return { passed: results.length - failed, failed };
}

/** On the GPU; where there is none the same tests run on the emulator, and the line says so. */
async function gpuTier() {
  if (existsSync(gpuDevice)) return bunTier("gpu", folders("gpu"));
  await ensureEmulator();
  const note = `on the emulator: no NVIDIA GPU here (${gpuDevice} is missing)`;
  return { note, ...bunTier("gpu", folders("gpu")) };
}

function bunTier(name, paths) {
  const present = paths.filter((path) => holdsTests(join(root, path)));
  if (present.length === 0) return { skipped: `${paths.join(", ")} holds no tests` };
  const report = join(tools, "reports", `${name}.xml`);
  mkdirSync(join(tools, "reports"), { recursive: true });
  rmSync(report, { force: true });
  const output = ["--only-failures", "--reporter=junit", `--reporter-outfile=${report}`];
  const status = show(bun, ["test", "--timeout=60000", ...output, ...present], { stdout: 1 });
  if (!existsSync(report)) {
    return { passed: 0, failed: 1, note: "the test process died before its report" };
  }
  const [header] = /<testsuites [^>]*>/.exec(readFileSync(report, "utf8"));
  const count = (key) => Number(new RegExp(` ${key}="(\\d+)"`).exec(header)[1]);
  const failed = count("failures");
  return {
    passed: count("tests") - failed - count("skipped"),
    failed: status === 0 ? failed : Math.max(failed, 1),
    skipped: count("skipped"),
  };
}

function holdsTests(path) {
  if (path.endsWith(".test.ts")) return existsSync(path);
  if (!existsSync(path)) return false;
  return readdirSync(path, { recursive: true }).some((file) => String(file).endsWith(".test.ts"));
}

function describe({ name, passed, failed, skipped, note }) {
  const title = name.padEnd(12);
  if (passed === undefined) return `${title} SKIPPED: ${skipped}`;
  const rest = [skipped ? `${skipped} skipped` : "", note ?? ""].filter(Boolean);
  return [`${title} passed ${passed}, failed ${failed}`, ...rest].join(", ");
}
