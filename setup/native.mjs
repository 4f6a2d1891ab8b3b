// Builds the native library when its sources or options changed since the last build.

import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { chooseNvcc } from "./nvcc.mjs";
import { ensureZig, zig, zigEnvironment } from "./python.mjs";
import { capture, exclusively, root, say, SetupError, show } from "./terminal.mjs";

const folder = join(root, "native");
const library = join(folder, "zig-out", "lib", "libxl.so");
const stampPath = join(folder, "zig-out", ".xlstm-build");
const generated = join(folder, "zig-out", "abi", "symbols.ts");
const committed = join(root, "lib", "native", "symbols.ts");
const generatedHeader = join(folder, "zig-out", "abi", "args.h");
const committedHeader = join(folder, "src", "kernels", "args.h");

/** Builds libxl.so unless it is up to date. `force` builds always; `nvcc` names the compiler. */
export async function ensureNative({ force = false, nvcc } = {}) {
  const options = buildOptions(await chooseNvcc(nvcc));
  if (!force && isCurrent(options)) return;
  await ensureZig();
  await exclusively(() => {
    if (!force && isCurrent(options)) return;
    say(
      `building the native library (zig build ${options.join(" ")}); the first time takes minutes`,
    );
    const began = performance.now();
    const before = sources();
    runZig(["build", ...options], "the native library does not build; the errors are above.");
    writeStamp(options, before);
    say(`built in ${((performance.now() - began) / 1000).toFixed(0)} s`);
  });
}

/** Builds the emulator of the CUDA driver that tests use where there is no GPU. */
export async function ensureEmulator() {
  await ensureZig();
  runZig(["build", "emulator"], "the CUDA emulator does not build; the errors are above.");
}

/** The emulator's own tests, as one result. */
export function testEmulator() {
  const { status, output } = capture(zig, ["build", "emulator-test"], {
    cwd: folder,
    env: zigEnvironment,
  });
  return { unit: "the emulator", problems: status === 0 ? [] : [output.trim()] };
}

/**
 * Writes what is generated from the native sources: lib/native/symbols.ts, the TypeScript table of
 * the exported functions, and native/src/kernels/args.h, the structs that kernels take.
 */
export async function writeBindings() {
  await ensureZig();
  generateBindings();
  mkdirSync(dirname(committed), { recursive: true });
  copyFileSync(generated, committed);
  copyFileSync(generatedHeader, committedHeader);
  say("wrote lib/native/symbols.ts and native/src/kernels/args.h");
}

/** Whether symbols.ts and args.h are what the native sources generate. */
export async function areBindingsCurrent() {
  await ensureZig();
  generateBindings();
  const isSame = (path, made) => existsSync(path) && readFileSync(path).equals(readFileSync(made));
  return isSame(committed, generated) && isSame(committedHeader, generatedHeader);
}

function generateBindings() {
  runZig(["build", "bindings", "args"], "the binding table does not build; the errors are above.");
}

function runZig(args, failure) {
  if (show(zig, args, { cwd: folder, env: zigEnvironment }) !== 0) throw new SetupError(failure);
}

function buildOptions(nvcc) {
  return ["-Doptimize=safe", ...(nvcc ? ["-Dcuda=true", `-Dnvcc=${nvcc}`] : ["-Dcuda=false"])];
}

/**
 * First by size and time of every file, which costs milliseconds; then by content, so that a fresh
 * checkout of the same sources builds nothing.
 */
function isCurrent(options) {
  if (!existsSync(stampPath) || !existsSync(library)) return false;
  const stamp = JSON.parse(readFileSync(stampPath, "utf8"));
  if (stamp.options !== options.join(" ")) return false;
  const files = sources();
  if (stamp.times === timesOf(files)) return true;
  if (stamp.content !== contentOf(files)) return false;
  writeStamp(options, files);
  return true;
}

function writeStamp(options, files) {
  const stamp = { options: options.join(" "), times: timesOf(files), content: contentOf(files) };
  writeFileSync(stampPath, JSON.stringify(stamp));
}

function sources() {
  const inside = readdirSync(join(folder, "src"), { recursive: true }).map((path) =>
    join(folder, "src", path),
  );
  const all = [join(folder, "build.zig"), join(folder, "build.zig.zon"), ...inside];
  return all.filter((path) => statSync(path).isFile()).sort();
}

function timesOf(files) {
  const hash = createHash("sha256");
  for (const file of files) {
    const { size, mtimeMs } = statSync(file);
    hash.update(`${file} ${size} ${mtimeMs}\n`);
  }
  return hash.digest("hex");
}

function contentOf(files) {
  const hash = createHash("sha256");
  for (const file of files) hash.update(file.slice(folder.length)).update(readFileSync(file));
  return hash.digest("hex");
}

/**
 * Runs the native unit tests. The seed is new in every run: it varies the random tests, and keeps
 * Zig from answering with the silent "cached" of an earlier run, which names no counts.
 */
export function runNativeTests(mode, seed) {
  const args = ["build", "test", `-Doptimize=${mode}`, "--summary", "all", "--", `--seed=${seed}`];
  return capture(zig, args, { cwd: folder, env: zigEnvironment });
}

/** Whether the native sources are formatted; prints the files that are not. */
export function isNativeFormatted() {
  const args = ["fmt", "--check", "src", "build.zig", "build.zig.zon"];
  return show(zig, args, { cwd: folder, env: zigEnvironment }) === 0;
}
