// Finds the CUDA compiler. CUDA is optional: without nvcc the library is built for the CPU alone.

import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ensureNvcc, wheelNvcc } from "./python.mjs";
import { capture, find, say, SetupError, tools } from "./terminal.mjs";

/** There where the driver has found a GPU. */
export const gpuDevice = "/dev/nvidia0";

const oldest = 13;
/** Written by `bun run setup --cuda`: tests install the wheels too, which changes no build. */
export const wheelsWanted = join(tools, "cuda-wanted");
/** Why the wheels could not be installed: not tried again at every start. */
const wheelsFailed = join(tools, "cuda-failed");

/**
 * The nvcc to build with, or undefined. A machine with a GPU and no toolkit gets the compiler from
 * PyPI; where that fails the library is built for the CPU, and a sentence says so once.
 */
export async function chooseNvcc(chosen) {
  const found = findNvcc(chosen);
  if (found || process.env.XL_CUDA === "0" || !existsSync(gpuDevice)) return found;
  if (existsSync(wheelsFailed)) return undefined;
  try {
    return await ensureNvcc();
  } catch (error) {
    mkdirSync(tools, { recursive: true });
    writeFileSync(wheelsFailed, `${error.message}\n`);
    say(`there is a GPU, and no CUDA compiler: ${error.message}`);
    say("building for the CPU alone; `bun run setup --cuda` tries again");
    return undefined;
  }
}

/** Installs the CUDA compiler from PyPI and makes builds use it. Returns its path. */
export async function wantWheels() {
  const path = await ensureNvcc();
  writeFileSync(wheelsWanted, "builds use the CUDA compiler beside this file\n");
  rmSync(wheelsFailed, { force: true });
  return path;
}

/**
 * The nvcc to use, or undefined. Order: the one asked for, $CUDA_HOME, PATH, the wheels of
 * `bun run setup --cuda`. `XL_CUDA=0` turns CUDA off. An nvcc that is asked for must be usable.
 */
export function findNvcc(chosen) {
  if (process.env.XL_CUDA === "0") return undefined;
  if (chosen) {
    const version = existsSync(chosen) ? versionOf(chosen) : undefined;
    if (version !== undefined && version >= oldest) return chosen;
    const have = version === undefined ? "is not a working nvcc" : `is of CUDA ${version}`;
    throw new SetupError(`--nvcc: ${chosen} ${have}; CUDA ${oldest} or newer is needed.`);
  }
  const home = process.env.CUDA_HOME;
  const places = [
    home && join(home, "bin", "nvcc"),
    find("nvcc"),
    existsSync(wheelsWanted) && wheelNvcc,
  ];
  return places.find((path) => path && existsSync(path) && isUsable(path));
}

function isUsable(path) {
  const version = versionOf(path);
  if (version !== undefined && version >= oldest) return true;
  const have = version === undefined ? "does not start" : `is of CUDA ${version}`;
  say(`${path} ${have}, and CUDA ${oldest} or newer is needed; building for the CPU alone`);
  return false;
}

/** Major version of an nvcc; asked once per file, because starting nvcc takes a while. */
function versionOf(path) {
  const key = `${path} ${statSync(path).mtimeMs}`;
  const memory = join(tools, "nvcc-versions.json");
  const known = existsSync(memory) ? JSON.parse(readFileSync(memory, "utf8")) : {};
  if (!(key in known)) {
    const { status, output } = capture(path, ["--version"]);
    const major = /release (\d+)\./.exec(output)?.[1];
    if (status !== 0 || major === undefined) return undefined;
    known[key] = Number(major);
    mkdirSync(tools, { recursive: true });
    writeFileSync(memory, JSON.stringify(known));
  }
  return known[key];
}
