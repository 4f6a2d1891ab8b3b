// `bun run launch … train`: the recipe on meshes, its plan, its errors.

import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "xlstm-train-recipe-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const small = ["model.numBlocks=2", "model.embeddingDim=64", "model.dtype=f64", "device=cpu"];
const short = ["steps=4", "length=32", "validationWindows=2", "sample=20", "logEvery=1"];

async function launch(...words: string[]) {
  const env = { ...process.env, XL_THREADS: "1", NO_COLOR: "1" };
  const child = Bun.spawn([process.execPath, "recipes/launch.ts", ...words], {
    cwd: root,
    env,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { stdout, stderr, exitCode: await child.exited };
}

async function train(name: string, ranks: number, ...more: string[]) {
  const words = [...small, ...short, `runs=${folder}`, `run=${name}`, ...more];
  const result = await launch("-n", String(ranks), "train", ...words);
  expect(result.exitCode, result.stderr).toBe(0);
  return result;
}

/** What metrics.jsonl says of losses and norms, step by step. */
function logged(name: string): number[][] {
  const lines = readFileSync(join(folder, name, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  return lines
    .map((line) => JSON.parse(line) as Record<string, number>)
    .flatMap((line) => {
      const final = line["final/bits"];
      if (final !== undefined) return [[final]];
      return "train/loss" in line ? [[line["train/loss"]!, line["train/norm"]!]] : [];
    });
}

describe("the same run on meshes", () => {
  test("losses, norms and the result are those of one rank", async () => {
    await train("alone", 1, "accumulate=4");
    const cut = ["mesh.fsdp=2", "mesh.minSize=0", "mesh.pp=2", "accumulate=2"];
    await train("fsdp2-pp2", 4, ...cut);
    await train("tp2", 2, "mesh.tp=2", "mesh.recompute=block", "accumulate=4");
    const want = logged("alone");
    expect(want.length).toBe(5);
    // The last row is an evaluation, whose batches are cut by the number of ranks.
    expect(logged("fsdp2-pp2").slice(0, -1)).toEqual(want.slice(0, -1));
    for (const name of ["fsdp2-pp2", "tp2"]) {
      for (const [i, row] of logged(name).entries()) {
        row.forEach((value, k) => expect(Math.abs(value / want[i]![k]! - 1)).toBeLessThan(1e-11));
      }
    }
  }, 120_000);

  test("a run goes on on another mesh; rank 0 alone speaks", async () => {
    await train("moved", 2, "mesh.dp=2");
    const words = ["--resume", "run=moved", `runs=${folder}`, "steps=6", "mesh.pp=2"];
    const { stdout, exitCode, stderr } = await launch("-n", "2", "train", ...words);
    expect(exitCode, stderr).toBe(0);
    expect(stdout.match(/going on from/g)).toHaveLength(1);
    const steps = readFileSync(join(folder, "moved", "metrics.jsonl"), "utf8").match(/"step":\d+/g);
    expect(steps?.filter((step) => step === '"step":5')).toHaveLength(1);
  }, 120_000);
});

test("--dry-run plans for ranks that nobody starts", async () => {
  const words = ["-n", "8", "nodes=512", "--dry-run", "train", "mesh.fsdp=8", "batchSize=4096"];
  const { stdout, exitCode, stderr } = await launch(...words);
  expect(exitCode, stderr).toBe(0);
  expect(stdout).toContain("on 4096 ranks: dp 512 × fsdp 8");
  expect(stdout).toContain("lm_head.weight");
  expect(stdout).toMatch(/weights and two moments +\d/);
  const other = await launch("-n", "8", "--dry-run", "verify", "test");
  expect([other.exitCode, other.stderr]).toEqual([64, expect.stringContaining("no plan to show")]);
}, 60_000);

test("sizes that do not fit: one error, and every rank ends", async () => {
  const wrong: [string[], RegExp][] = [
    [["-n", "3", "train", "mesh.dp=2"], /mesh: .*dp 2.*= 2, but there are 3 ranks/],
    [["-n", "2", "train", "mesh.tp=2", "model.numHeads=3", "model.embeddingDim=96"], /3 heads/],
    [["-n", "2", "train", "batchSize=3"], /3 rows does not divide over the 2 ranks/],
    [["-n", "2", "train", "mesh.pp=2", "mesh.stages=[1,1]"], /stages/],
  ];
  for (const [words, text] of wrong) {
    const { stderr, exitCode } = await launch(...words, "device=cpu", `runs=${folder}`);
    expect(stderr).toMatch(text);
    expect(exitCode).not.toBe(0);
  }
}, 60_000);
