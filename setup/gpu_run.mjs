// `bench/gpu-run`: packs this repository for a GPU machine that has neither Bun nor Zig nor a
// network. docs/gpu.md says how it is used. run.sh in the packed folder is setup/gpu_run.sh with
// the commands.

import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { spawnSync } from "node:child_process";
import { basename, dirname, join, relative, resolve } from "node:path";
import { ensureNative } from "./native.mjs";
import { findNvcc } from "./nvcc.mjs";
import { bun, bunVersion, ensurePackages } from "./packages.mjs";
import { capture, find, root, say, SetupError, show, tools, withErrors } from "./terminal.mjs";

const usage = `bench/gpu-run [--out FOLDER] [--add PATH]... [--no-build] COMMAND...

  COMMAND      a recipe with its settings (info, verify DIR, bench gpu --json), or "test gpu";
               a lone + starts the next one: info + test gpu + bench gpu
  --out        where run.sh and two archives go; default: .tools/gpu-run
  --add PATH   a file or folder to take along; lies in the unpacked tree under its own name
  --no-build   packs the native library as it is`;

const libraries = join("native", "zig-out", "lib");
/** The emulator goes along when it is there: it tells the kernels' faults from the GPU's. */
const optional = [join(libraries, "libxl_emulator.so"), "package-lock.json", "LICENSE"];
const sources = ["lib", "recipes", "test", "setup", "assets", "docs"];
const files = ["package.json", "tsconfig.json", "bunfig.toml", "README.md"];
/** What tests need besides the packages of recipes. */
const testPackages = ["fast-check"];
/** Parts of packages that nothing loads. */
const unused = /\.(d\.[cm]?ts|map|flow)$|(^|\/)zod\/src\//;

await withErrors(async () => {
  const { out, added, build, commands } = readArguments(process.argv.slice(2));
  await ensurePackages();
  if (build) await buildWithCuda();
  const library = join(root, libraries, "libxl.so");
  if (!existsSync(library)) throw new SetupError("the native library is not built.");
  warnAboutCuda();
  mkdirSync(out, { recursive: true });
  copyFileSync(compressedBun(), join(out, "bun.xz"));
  packTree(join(out, "tree.tar.xz"), added);
  writeScript(out, commands);
  const size = (name) => statSync(join(out, name)).size / 2 ** 20;
  const total = ["bun.xz", "tree.tar.xz"].reduce((sum, name) => sum + size(name), 0);
  say(`${total.toFixed(1)} MiB in ${out}; on the GPU machine: bash run.sh`);
});

function readArguments(words) {
  const read = { out: join(tools, "gpu-run"), added: [], build: true, commands: [] };
  while (words[0]?.startsWith("-")) {
    const flag = words.shift();
    if (flag === "--no-build") read.build = false;
    else if ((flag === "--out" || flag === "--add") && words.length > 0) {
      const path = resolve(words.shift());
      if (flag === "--out") read.out = path;
      else if (existsSync(path)) read.added.push(path);
      else throw new SetupError(`--add: ${path} does not exist.`);
    } else if (flag === "--help" || flag === "-h") {
      process.stdout.write(`${usage}\n`);
      process.exit(0);
    } else throw new SetupError(`${flag} is unknown or lacks its value.\n${usage}`);
  }
  if (words.length === 0) throw new SetupError(`a COMMAND is missing.\n${usage}`);
  read.commands = words;
  return read;
}

/** As `bun run setup --cuda` does where no CUDA toolkit is installed. */
async function buildWithCuda() {
  if (findNvcc()) return ensureNative();
  if (show(process.execPath, [join(root, "setup", "setup.mjs"), "--cuda"]) !== 0) process.exit(1);
}

/** A library without kernels serves the emulator only. */
function warnAboutCuda() {
  const program = `import { nativeFacts } from "./lib/native/library.ts";
    console.log(nativeFacts().cuda);`;
  const { status, output } = capture(bun, ["--eval", program]);
  if (status !== 0) throw new SetupError(`the native library does not load:\n${output.trim()}`);
  if (output.trim() !== "true") {
    say("warning: libxl.so was built without CUDA kernels: no GPU will be usable there");
  }
}

/** Compressing Bun takes a minute or two: once per version. */
function compressedBun() {
  const cached = join(tools, `bun-${bunVersion}.xz`);
  if (!existsSync(cached)) {
    say(`compressing Bun ${bunVersion} (once)`);
    writeFileSync(cached, xz(readFileSync(realpathSync(bun))));
  }
  return cached;
}

function packTree(archive, added) {
  const paths = [
    ...sources.flatMap((folder) => filesBelow(folder)),
    ...[...files, ...optional].filter((path) => existsSync(join(root, path))),
    join(libraries, "libxl.so"),
    ...packagesNeeded().flatMap((name) => filesBelow(join("node_modules", name))),
  ].filter((path) => !unused.test(path));
  const stage = join(tools, "gpu-run-stage");
  mkdirSync(stage, { recursive: true });
  writeFileSync(join(stage, "REVISION"), `${revision()}\n`);
  const outside = [join(stage, "REVISION"), ...added];
  const list = [
    ...paths,
    ...outside.flatMap((path) => [`-C${dirname(path)}`, basename(path)]),
  ].join("\n");
  const args = ["--create", "--owner=0", "--group=0", "--directory", root, "--files-from=-"];
  writeFileSync(archive, xz(run("tar", args, list)));
}

function xz(input) {
  return run("xz", ["-6", "--threads=0", "--stdout"], input);
}

function run(program, args, input) {
  if (!find(program)) throw new SetupError(`${program} is missing; install it to pack.`);
  const { status, stdout, stderr } = spawnSync(program, args, { input, maxBuffer: 2 ** 30 });
  if (status !== 0) throw new SetupError(`${program} failed: ${String(stderr).trim()}`);
  return stdout;
}

function filesBelow(folder) {
  const base = join(root, folder);
  return readdirSync(base, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort();
}

/** The packages of recipes and tests, and theirs in turn. */
function packagesNeeded() {
  const read = (path) => JSON.parse(readFileSync(join(root, path, "package.json"), "utf8"));
  const wanted = [...Object.keys(read(".").dependencies), ...testPackages];
  const found = new Set();
  for (let name = wanted.pop(); name !== undefined; name = wanted.pop()) {
    if (found.has(name)) continue;
    found.add(name);
    wanted.push(...Object.keys(read(join("node_modules", name)).dependencies ?? {}));
  }
  return [...found].sort();
}

function revision() {
  const git = (...args) => capture("git", args).stdout.trim();
  const changed = git("status", "--porcelain") === "" ? "" : "-changed";
  return `${git("rev-parse", "--short", "HEAD") || "unknown"}${changed}`;
}

function writeScript(out, commands) {
  const hash = createHash("sha256");
  for (const name of ["bun.xz", "tree.tar.xz"]) hash.update(readFileSync(join(out, name)));
  const quoted = commands.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
  const script = readFileSync(join(root, "setup", "gpu_run.sh"), "utf8")
    .replace("@STAMP@", () => hash.digest("hex"))
    .replace("@COMMANDS@", () => quoted);
  const path = join(out, "run.sh");
  writeFileSync(path, script);
  chmodSync(path, 0o755);
}
