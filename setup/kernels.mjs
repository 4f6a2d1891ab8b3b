// Compiles every CUDA unit for Hopper, as CI without a GPU can: a unit fails when it does not
// compile, when a kernel spills more registers than `allowedSpills` says, or when ptxas serialises
// wgmma (its C75xx warnings).

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { capture, root, tools } from "./terminal.mjs";

const folder = join(root, "native", "src", "kernels");
const flags = "-cubin -gencode=arch=compute_90a,code=sm_90a -std=c++17 -O3 -Werror=all-warnings";
/** Bytes of spill stores that were measured to cost nothing, by kernel. */
const allowedSpills = {};

/** One result per unit. */
export function checkKernels(nvcc) {
  const units = readdirSync(folder).filter((name) => name.endsWith(".cu"));
  mkdirSync(join(tools, "cubins"), { recursive: true });
  return units.map((unit) => ({ unit, problems: problemsOf(nvcc, unit) }));
}

function problemsOf(nvcc, unit) {
  const output = join(tools, "cubins", unit.replace(".cu", ".cubin"));
  const args = [...flags.split(" "), "-Xptxas", "-v", "-o", output, join(folder, unit)];
  const { status, output: text } = capture(nvcc, args);
  if (status !== 0) return [text.trim()];
  return [...serialised(text), ...spills(text)];
}

function serialised(text) {
  return text.split("\n").filter((line) => /\bC75\d\d\b/.test(line));
}

function spills(text) {
  const kernels = text.matchAll(
    /Compiling entry function '(\w+)'[\s\S]*?(\d+) bytes spill stores/g,
  );
  return [...kernels].flatMap(([, kernel, bytes]) => {
    const allowed = allowedSpills[kernel] ?? 0;
    return Number(bytes) > allowed
      ? [`${kernel} spills ${bytes} bytes, ${allowed} are allowed (setup/kernels.mjs)`]
      : [];
  });
}
