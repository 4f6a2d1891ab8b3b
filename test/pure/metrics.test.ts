import { afterAll, describe, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MetricsLog, readMetrics, series } from "../../lib/train/metrics.ts";

const root = mkdtempSync(join(tmpdir(), "xlstm-metrics-"));
afterAll(() => rmSync(root, { recursive: true }));

function run(name: string, steps: number[], options: { resumeAfter?: number } = {}): string {
  const folder = join(root, name);
  using log = new MetricsLog(folder, options);
  for (const step of steps) log.log("train", step, { loss: step / 10, lr: 1e-3 });
  return log.path;
}

test("one whole line per record, keyed mode/key", () => {
  const path = run("plain", [1, 2]);
  const lines = readFileSync(path, "utf8").split("\n");
  expect(lines.length).toBe(3);
  expect(lines[2]).toBe("");
  const record = JSON.parse(lines[0]!) as Record<string, unknown>;
  expect(Object.keys(record)).toEqual(["step", "time", "train/loss", "train/lr"]);
  expect(record["train/loss"]).toBe(0.1);
});

test("records can be read while the log is open, by key", () => {
  using log = new MetricsLog(join(root, "open"));
  log.log("train", 1, { loss: 2 });
  log.log("val", 1, { loss: 3 });
  log.log("train", 2, { loss: NaN });
  log.log("train", 3, { loss: Infinity });
  const records = log.read();
  expect(series(records, "train/loss")).toEqual([
    [1, 2],
    [2, NaN],
    [3, Infinity],
  ]);
  expect(series(records, "val/loss")).toEqual([[1, 3]]);
});

describe("a resumed run", () => {
  test("cuts off what was logged after the step it goes on from", () => {
    run("resumed", [1, 2, 3, 4, 5]);
    const path = run("resumed", [4, 5, 6], { resumeAfter: 3 });
    expect(readMetrics(path).map((record) => record.step)).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test("cuts off a torn line and writes after the whole ones", () => {
    const path = run("torn", [1, 2]);
    appendFileSync(path, '{"step":3,"time":"20');
    expect(readMetrics(path).length).toBe(2);
    run("torn", [3], { resumeAfter: 2 });
    expect(readMetrics(path).map((record) => record.step)).toEqual([1, 2, 3]);
  });

  test("from before the first record leaves nothing, and a fresh run starts afresh", () => {
    run("before", [5, 6]);
    expect(readMetrics(run("before", [1], { resumeAfter: 0 })).length).toBe(1);
    expect(readMetrics(run("before", [1, 2])).map((record) => record.step)).toEqual([1, 2]);
  });
});

test("a file that cannot be written warns once and training goes on", () => {
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  const blocked = join(root, "blocked");
  writeFileSync(blocked, "a file where the run directory should be");
  using log = new MetricsLog(blocked, { warn });
  log.log("train", 1, { loss: 1 });
  expect(warnings.length).toBe(1);
  expect(warnings[0]).toMatch(/metrics are not written to .*blocked.*; training goes on/);

  if (process.platform === "linux") {
    const full: string[] = [];
    using device = new MetricsLog("/dev", {
      file: "full",
      warn: (message) => void full.push(message),
    });
    device.log("train", 1, { loss: 1 });
    device.log("train", 2, { loss: 1 });
    expect(full.length).toBe(1);
    expect(full[0]).toMatch(/ENOSPC|no space|EINVAL/i);
  }
});

test("no file is no records", () => {
  expect(readMetrics(join(root, "nothing.jsonl"))).toEqual([]);
});
