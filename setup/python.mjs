// Tools that come from PyPI: the Zig compiler, and optionally a BLAS. Each one is installed into a
// folder of its own under .tools, by pip, and never into the user's Python.

import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  capture,
  exclusively,
  find,
  isOffline,
  say,
  SetupError,
  tail,
  tools,
} from "./terminal.mjs";

const oldest = [3, 11];
const interpreters = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"];

const zigVersion = "0.17.0";
const zigFolder = join(tools, `ziglang-${zigVersion}`);
const blasVersion = "0.3.34.481.3";
const blasFolder = join(tools, `openblas-${blasVersion}`);

/** The Zig compiler. */
export const zig = join(zigFolder, "ziglang", "zig");
/** Keeps Zig's global cache inside the repository. */
export const zigEnvironment = { ZIG_GLOBAL_CACHE_DIR: join(tools, "zig-cache") };

/** Installs the pinned Zig when it is not there. */
export async function ensureZig() {
  if (existsSync(zig)) return;
  await install([`ziglang==${zigVersion}`], zigFolder, "the Zig compiler");
  const { status, output } = capture(zig, ["version"], { env: zigEnvironment });
  if (status === 0 && output.trim() === zigVersion) return;
  rmSync(zigFolder, { recursive: true, force: true });
  const have = status === 0 ? `is version ${output.trim()}` : "does not start on this machine";
  throw new SetupError(`Zig ${zigVersion} is needed, and the installed one ${have}.`);
}

const cudaVersion = "13.0.88";
/** All five by version: the compiler's package names its parts without one, and pip would mix. */
const cudaPackages = [
  `nvidia-cuda-nvcc==${cudaVersion}`,
  `nvidia-nvvm==${cudaVersion}`,
  `nvidia-cuda-crt==${cudaVersion}`,
  "nvidia-cuda-cccl==13.0.85",
  "nvidia-cuda-runtime==13.0.96",
];
const cudaFolder = join(tools, `cuda-${cudaVersion}`);

/** The CUDA compiler from PyPI, whether it is installed or not. */
export const wheelNvcc = join(cudaFolder, "nvidia", "cu13", "bin", "nvcc");

/** Installs the CUDA compiler (270 MB). */
export async function ensureNvcc() {
  if (!existsSync(wheelNvcc)) await install(cudaPackages, cudaFolder, "the CUDA compiler");
  return wheelNvcc;
}

/** Installs a BLAS to compare our own matrix product with, and says where it lies. */
export async function ensureBlas() {
  if (!existsSync(blasFolder)) {
    await install([`scipy-openblas32==${blasVersion}`], blasFolder, "OpenBLAS");
  }
  return join(blasFolder, "scipy_openblas32", "lib");
}

async function install(packages, folder, what) {
  await exclusively(() => {
    if (existsSync(folder)) return;
    const python = findPython();
    const shown = packages[0].replace("==", " ");
    say(`installing ${what} (${shown} from PyPI) into .tools (once)`);
    const partial = `${folder}.partial`;
    rmSync(partial, { recursive: true, force: true });
    mkdirSync(partial, { recursive: true });
    const args = ["-m", "pip", "install", "--target", partial, "--no-deps", "--no-cache-dir"];
    const { status, output } = capture(python, [...args, "--quiet", ...packages]);
    if (status === 0) return renameSync(partial, folder);
    rmSync(partial, { recursive: true, force: true });
    throw new SetupError(explain(output, packages.join(" "), python));
  });
}

function explain(output, wanted, python) {
  if (isOffline(output)) {
    return `PyPI cannot be reached for ${wanted}; check network and proxy, then run this again.`;
  }
  if (/No matching distribution/.test(output)) {
    return `${python} -m pip finds no ${wanted}; check pip's index setting (pip config list).`;
  }
  return `\`${python} -m pip install ${wanted}\` failed:\n${tail(output)}`;
}

/** A Python that is new enough and has pip. */
function findPython() {
  const wanted = oldest.join(".");
  const refused = [];
  for (const name of interpreters.filter((candidate) => find(candidate))) {
    const { status, stdout } = capture(name, ["-c", "import sys; print(*sys.version_info[:2])"]);
    if (status !== 0) continue;
    const [major, minor] = stdout.trim().split(" ").map(Number);
    if (major < oldest[0] || (major === oldest[0] && minor < oldest[1])) {
      refused.push(`${name} is ${major}.${minor}, and ${wanted} or newer is needed`);
    } else if (capture(name, ["-m", "pip", "--version"]).status === 0) {
      return name;
    } else {
      refused.push(`${name} (${major}.${minor}) has no pip`);
    }
  }
  const found = refused.length > 0 ? refused.join("; ") : `no Python is on PATH`;
  throw new SetupError(
    `${found}: install Python ${wanted} or newer with pip ` +
      "(Debian and Ubuntu: apt install python3 python3-pip); the Zig compiler comes from PyPI.",
  );
}
