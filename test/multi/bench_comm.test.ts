// `bench comm` under the launcher: every check passes, and a program can read what it prints.

import { expect, test } from "bun:test";
import { join } from "node:path";
import type { BandwidthRow, CommRow } from "../../lib/bench/comm.ts";

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

test("one rank is told how to start two", () => {
  const { stderr, exitCode } = run("recipes/bench.ts", "comm");
  expect(exitCode).toBe(64);
  expect(stderr.toString()).toContain("bun run launch -n 2 bench comm");
}, 60_000);
