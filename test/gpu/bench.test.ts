// `bench gpu` runs, every line it prints can be read by a program, and no row failed. Times of the
// emulator mean nothing and are not looked at.

import { expect, test } from "bun:test";
import { join } from "node:path";
import { quantile } from "../../lib/bench/gpu_measure.ts";
import { emulator, isReal } from "../helpers/gpu.ts";

const root = join(import.meta.dir, "../..");
const driver = process.env["XL_CUDA_DRIVER"] ?? (isReal ? undefined : emulator);

function bench(...args: string[]) {
  const { stdout, stderr, exitCode } = Bun.spawnSync(
    [process.execPath, "recipes/bench.ts", ...args],
    { cwd: root, env: { ...process.env, ...(driver ? { XL_CUDA_DRIVER: driver } : {}) } },
  );
  return { lines: stdout.toString().trim().split("\n"), stderr: stderr.toString(), exitCode };
}

interface Row {
  part: string;
  name: string;
  error?: string;
  milliseconds: number;
  p20: number;
  p80: number;
  bytes: number;
  flops: number;
  floor: number;
  overFloor: number;
  mode: string;
  extra: Record<string, number | string>;
  breakdown?: Record<string, number>;
}

test("JSON lines: a header with the ceilings, rows of every part, a footer", () => {
  const { lines, stderr, exitCode } = bench("gpu", "--quick", "--json");
  expect(exitCode, stderr + lines.filter((line) => line.includes('"error"')).join("\n")).toBe(0);
  const parsed = lines.map((line) => JSON.parse(line));
  const { header } = parsed.shift() as { header: Record<string, unknown> };
  const { footer } = parsed.pop() as { footer: Record<string, unknown> };
  expect(header).toMatchObject({ gpu: expect.any(String), quick: true, emulated: !isReal });
  expect(header.matmulTflops).toBeGreaterThan(0);
  expect(header.copyGBps).toBeGreaterThan(0);
  expect(footer).toMatchObject({ failures: 0 });
  const rows = parsed as Row[];
  expect(new Set(rows.map(({ part }) => part))).toEqual(
    new Set(["ceilings", "ops", "cells", "train", "decode"]),
  );
  for (const { name, milliseconds, p20, p80, bytes, flops, floor, overFloor, mode } of rows) {
    expect(milliseconds, name).toBeGreaterThan(0);
    expect(p20, name).toBeLessThanOrEqual(milliseconds);
    expect(p80, name).toBeGreaterThanOrEqual(milliseconds);
    expect(bytes + flops, name).toBeGreaterThan(0);
    expect(overFloor, name).toBeCloseTo(milliseconds / floor, 6);
    expect({ name, mode }).toEqual({ name, mode: "graph" });
  }
  const step = rows.find(({ part }) => part === "train")!;
  expect(step.extra.tokensPerSecond as number).toBeCloseTo((48 / step.milliseconds) * 1e3, 3);
  expect(step.extra.peakGB).toBeGreaterThan(0);
  expect(Object.keys(step.breakdown!)).toContain("mlstm");
}, 300_000);

test("a table for people, one part of it; parts of the CPU are refused", () => {
  const { lines, exitCode } = bench("gpu", "--quick", "only=ceilings");
  expect(exitCode).toBe(0);
  expect(lines.filter((line) => line.startsWith("matmulTflops"))).toHaveLength(1);
  expect(lines.some((line) => /^matmul bf16 64\^3 +\d+\.\d+ ms .*TFLOP\/s/.test(line))).toBe(true);
  const refused = bench("gpu", "--quick", "only=gemm");
  expect(refused.exitCode).toBe(64);
  expect(refused.stderr).toContain("ceilings, ops, cells, train, decode");
}, 60_000);

test("quantiles lie between neighbours", () => {
  expect(quantile([4, 1, 3, 2, 5], 0.5)).toBe(3);
  expect(quantile([1, 2], 0.5)).toBe(1.5);
  expect(quantile([10, 20, 30, 40, 50, 60], 0.2)).toBe(20);
  expect(quantile([7], 0.8)).toBe(7);
});
