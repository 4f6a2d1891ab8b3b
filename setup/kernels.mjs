// Compiles every CUDA unit for Hopper, as CI without a GPU can: a unit fails when it does not
// compile, when a kernel spills more bytes than `native/src/kernels/spills.json` allows it, or
// when ptxas serialises wgmma (its C75xx warnings).

import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { root, tools } from "./terminal.mjs";

const folder = join(root, "native", "src", "kernels");
const flags = "-cubin -gencode=arch=compute_90a,code=sm_90a -std=c++17 -O3 -Werror=all-warnings";

/** One result per unit: its problems, and the bytes that its kernels spill. */
export async function checkKernels(nvcc) {
  const units = readdirSync(folder).filter((name) => name.endsWith(".cu"));
  const allowed = JSON.parse(readFileSync(join(folder, "spills.json"), "utf8"));
  mkdirSync(join(tools, "cubins"), { recursive: true });
  const results = [];
  const worker = async () => {
    for (let unit = units.shift(); unit; unit = units.shift()) {
      results.push({ unit, ...(await check(nvcc, unit, allowed)) });
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return results.sort((a, b) => a.unit.localeCompare(b.unit));
}

async function check(nvcc, unit, allowed) {
  const output = join(tools, "cubins", unit.replace(".cu", ".cubin"));
  const args = [...flags.split(" "), "-Xptxas", "-v", "-o", output, join(folder, unit)];
  const { status, text } = await run(nvcc, args);
  if (status !== 0) return { problems: [text.trim()], spills: {} };
  const spills = spillsOf(text);
  const tooMany = Object.entries(spills)
    .filter(([kernel, bytes]) => bytes > (allowed[kernel] ?? 0))
    .map(
      ([kernel, bytes]) => `${kernel} spills ${bytes} bytes, allowed are ${allowed[kernel] ?? 0}`,
    );
  const serialised = text.split("\n").filter((line) => /\bC75\d\d\b/.test(line));
  return { problems: [...serialised, ...tooMany], spills };
}

/**
 * Runs the Hopper kernels of the cells on the processor (wgmma, TMA, mbarriers, clusters emulated)
 * against f64: every pass, head width, gate, reset and tail. One result each, as a unit's.
 */
export async function checkCells() {
  return [await checkProgram("sweep_check"), await checkProgram("slstm_check")];
}

async function checkProgram(name) {
  const unit = `check/${name}.cu`;
  const program = join(tools, "cubins", name);
  const includes = [`-I${folder}`, `-I${join(folder, "check")}`];
  const source = ["-x", "c++", join(folder, unit)];
  // Warnings off: pragmas and attributes of nvcc.
  const flags = ["-std=c++17", "-O2", "-w", "-DXL_HOPPER_HOST", ...includes];
  mkdirSync(join(tools, "cubins"), { recursive: true });
  const built = await run("g++", [...flags, ...source, "-o", program, "-lpthread"]);
  if (built.status !== 0) return { unit, problems: [built.text.trim()] };
  const { status, text } = await run(program, []);
  return { unit, problems: status === 0 ? [] : [text.split("\n").slice(-40).join("\n")] };
}

function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        text += chunk;
      });
    }
    child.on("error", (error) => resolve({ status: 1, text: String(error) }));
    child.on("close", (status) => resolve({ status, text }));
  });
}

/** Bytes of spill stores by kernel, those without any left out. */
function spillsOf(text) {
  const kernels = text.matchAll(
    /Compiling entry function '(\w+)'(?:(?!Compiling entry)[\s\S])*?(\d+) bytes spill stores/g,
  );
  const found = [...kernels].map(([, kernel, bytes]) => [kernel, Number(bytes)]);
  return Object.fromEntries(found.filter(([, bytes]) => bytes > 0));
}
