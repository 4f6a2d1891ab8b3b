// `bench comm` and `bench mesh` under the launcher: every check passes, and a program can read what
// they print.

import { expect, test } from "bun:test";
import { join } from "node:path";
import type { BandwidthRow, CommRow } from "../../lib/bench/comm.ts";
import type { MeshBenchRow } from "../../lib/bench/mesh.ts";

const root = join(import.meta.dir, "../..");

function run(...args: string[]) {
  const env = { ...process.env, XL_THREADS: "1" };
  return Bun.spawnSync([process.execPath, ...args], { cwd: root, env });
}

test("two ranks: checks of every collective, then bandwidths, as JSON lines", () => {
  const words = ["-n", "2", "bench", "comm", "--quick", "--json", "device=cpu"];
  const { stdout, stderr, exitCode } = run("recipes/launch.ts", ...words);
  expect(exitCode, stderr.toString()).toBe(0);
  const lines = stdout.toString().trim().split("\n");
  const [first, ...rest] = lines.map((line) => JSON.parse(line));
  expect(first.header).toMatchObject({ ranks: 2, transport: "shm" });
  const rows = rest as CommRow[];
  const checks = rows.filter(({ part }) => part === "check");
  expect(checks.filter((row) => "error" in row)).toEqual([]);
  for (const name of ["allReduce", "allGather", "reduceScatter", "allToAll", "broadcast"]) {
    expect(checks.some((row) => row.name.startsWith(`${name} `))).toBe(true);
  }
  const measured = rows.filter((row): row is BandwidthRow => row.part === "bandwidth");
  expect(measured.map(({ name }) => name)).toEqual(["allReduce", "allGather", "reduceScatter"]);
  for (const { name, bytes, milliseconds, busGBps } of measured) {
    const share = name === "allReduce" ? 1 : 0.5; // of the bytes, for two ranks
    expect(busGBps).toBeCloseTo((bytes * share) / milliseconds / 1e6, 9);
  }
}, 60_000);

test.each([
  ["tp", ["tp 2", "tp 2, nothing sent", "each rank alone"]],
  ["pp", ["pp 2", "each rank alone"]],
])(
  "a training step on %s, and what it takes without communication",
  (axis, names) => {
    const size = ["model=bench0.92M", "rows=1", "length=16", "microbatches=2", "steps=1"];
    const words = ["-n", "2", "bench", "mesh", `mesh.${axis}=2`, ...size, "--json", "device=cpu"];
    const { stdout, stderr, exitCode } = run("recipes/launch.ts", ...words);
    expect(exitCode, stderr.toString()).toBe(0);
    const lines = stdout.toString().trim().split("\n");
    const rows = lines.slice(1).map((line) => JSON.parse(line) as MeshBenchRow);
    expect(rows.map(({ name }) => name)).toEqual(names);
    // Ranks that share rows make as many tokens a step as one.
    for (const { milliseconds, tokensPerSecond } of rows) {
      expect((tokensPerSecond * milliseconds) / 1000).toBeCloseTo(2 * 16, 9);
    }
  },
  60_000,
);

test("one rank is told how to start two", () => {
  const { stderr, exitCode } = run("recipes/bench.ts", "comm");
  expect(exitCode).toBe(64);
  expect(stderr.toString()).toContain("bun run launch -n 2 bench comm");
}, 60_000);
