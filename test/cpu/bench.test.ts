// The bench recipe runs, and what it prints can be read by a program.

import { expect, test } from "bun:test";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");

function bench(...args: string[]) {
  const { stdout, stderr, exitCode } = Bun.spawnSync(
    [process.execPath, "recipes/bench.ts", "cpu", "--quick", ...args],
    { cwd: root },
  );
  expect(exitCode, stderr.toString()).toBe(0);
  return stdout.toString().trim().split("\n");
}

interface Row {
  name: string;
  milliseconds: number;
  gflops: number;
  ofCeiling: number;
  extra: Record<string, number | string>;
}

test("JSON lines: a header with the ceilings, then products, cells and training steps", () => {
  const [first, ...rest] = bench("--json").map((line) => JSON.parse(line));
  const { header } = first as { header: Record<string, unknown> };
  expect(header).toMatchObject({
    threads: navigator.hardwareConcurrency,
    bun: Bun.version,
    processor: expect.any(String),
    blas: expect.any(String),
  });
  expect(Date.parse(header.date as string)).toBeGreaterThan(0);
  expect(header.fmaGflops).toBeGreaterThan(0.1);
  expect(header.copyGBps).toBeGreaterThan(0.1);
  const rows = rest as Row[];
  for (const prefix of ["gemm ", "mlstm ", "train 0.92M"]) {
    expect(rows.some(({ name }) => name.startsWith(prefix))).toBe(true);
  }
  for (const { name, milliseconds, gflops, ofCeiling } of rows) {
    // A difference of two medians may be anything on a busy machine: the backward pass of a cell.
    if (name.endsWith(" backward")) continue;
    expect(milliseconds, name).toBeGreaterThan(0);
    expect(ofCeiling, name).toBeCloseTo(gflops / (header.fmaGflops as number), 6);
  }
  const step = rows.find(({ name }) => name.startsWith("train"))!;
  // 2 rows of 64 tokens.
  expect(step.extra.tokensPerSecond as number).toBeCloseTo((128 / step.milliseconds) * 1e3, 3);
  expect(step.extra.milliseconds).toMatch(/matmul \d+\.\d \(\d+\)/);
}, 60_000);

test("a table for people, one part of it", () => {
  const lines = bench("only=gemm");
  expect(lines.filter((line) => line.startsWith("fmaGflops"))).toHaveLength(1);
  const rows = lines.filter((line) => line.includes("GFLOP/s"));
  expect(rows).toHaveLength(1);
  expect(rows[0]).toMatch(/^gemm 256\^3 +\d+\.\d\d ms +\d+\.\d GFLOP\/s \d+ %/);
}, 60_000);

test("a BLAS that is not there is named", () => {
  const path = join(root, "no-such-blas.so");
  const { stderr, exitCode } = Bun.spawnSync(
    [process.execPath, "recipes/bench.ts", "cpu", "--quick", `blas=${path}`],
    { cwd: root },
  );
  expect(exitCode).not.toBe(0);
  expect(stderr.toString()).toContain("no-such-blas.so");
}, 60_000);
