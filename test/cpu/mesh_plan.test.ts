// Plans of published and of large meshes: parameters, volumes, bytes, and what keeps a model off
// one.

import { expect, test } from "bun:test";
import { ConfigError } from "../../lib/config/errors.ts";
import { type PlannedCalls, renderPlan, type StepPlan } from "../../lib/mesh/plan.ts";
import { presetNames, preset } from "../../lib/nn/presets.ts";
import { planTraining, type TrainingToPlan } from "../../lib/train/plan.ts";
import recipe from "../../recipes/plan.ts";

const published: TrainingToPlan = {
  world: 256,
  mesh: { dp: 32, fsdp: 8 },
  batch: 512,
  length: 8192,
  recompute: "half",
  reshardAfterForward: false,
  gatherDtype: "bf16",
};

const seven = (changes: Partial<TrainingToPlan> = {}): StepPlan =>
  planTraining(preset("mLSTMv1_7B"), { ...published, ...changes });

function sent({ stages }: StepPlan, kind: PlannedCalls["kind"], axis: string, stage = 0): number {
  const calls = stages[stage]!.calls.filter((one) => one.kind === kind && one.over.join() === axis);
  return calls.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
}

function close(value: number, expected: number, tolerance: number): void {
  expect(Math.abs(value / expected - 1)).toBeLessThan(tolerance);
}

test("7B on (32, 8): the parameters and the volumes of mesh.md §7.3", () => {
  const plan = seven();
  const [stage] = plan.stages;
  const size = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);
  const count = stage!.parameters.reduce((sum, { shape }) => sum + size(shape), 0);
  expect(count).toBe(6_865_424_896);
  close(sent(plan, "allGather", "fsdp"), 12.0e9, 0.01);
  close(sent(plan, "reduceScatter", "fsdp"), 24.0e9, 0.01);
  close(sent(plan, "allReduce", "dp"), 6.65e9, 0.01);
  // Again in the backward pass when weights are freed in between.
  const again = seven({ reshardAfterForward: true });
  close(sent(again, "allGather", "fsdp"), 24.0e9, 0.02);
  expect(sent(again, "reduceScatter", "fsdp")).toBe(sent(plan, "reduceScatter", "fsdp"));
});

test("7B on (32, 8): the bytes of mesh.md §23.1", () => {
  const { bytes, totalBytes } = seven().stages[0]!;
  close(bytes.states, 10.3e9, 0.01);
  close(bytes.gathered, 13.7e9, 0.01);
  close(bytes.activations, 8.6e9, 0.01);
  expect(Object.values(bytes).reduce((a, b) => a + b)).toBe(totalBytes);
  const freed = seven({ reshardAfterForward: true }).stages[0]!.bytes;
  expect(freed.gathered).toBeLessThan(0.9e9);
  // §12: 92 kB per token and block where nothing is made again.
  const whole = seven({ recompute: "none" }).stages[0]!.bytes;
  close(whole.activations, 2 * 8192 * 32 * 92e3, 0.05);
});

test("a token of a block crosses tp as often as mesh.md §8.7 says", () => {
  const mesh = { dp: 32, tp: 8 };
  const once = ((2 * 8 * 8192 * 4096 * 2) / 8) * 7; // (t - 1) / t · B · S · D · 2 bytes
  const perBlock = (recompute: "none" | "block") => {
    const plan = (length: number) => seven({ mesh, recompute, length, minSize: 0 });
    const calls = plan(8192).stages[0]!.calls.filter(({ cause }) => cause === "layers");
    return calls.map(({ kind, wireBytes }) => [kind, Math.round((wireBytes / once - 1) / 32)]);
  };
  expect(perBlock("none")).toEqual([
    ["reduceScatter", 4],
    ["allGather", 4],
  ]);
  expect(perBlock("block")).toEqual([
    ["reduceScatter", 6],
    ["allGather", 6],
  ]);
});

test("gradients are summed over the data unit by unit, beside the backward pass", () => {
  const config = preset("bench0.92M");
  const training = { batch: 8, length: 64, microbatches: 2, minSize: 0 };
  const sums = (mesh: Record<string, number>, world: number) =>
    planTraining(config, { ...training, world, mesh })
      .operations(0)
      .filter((call) => /gradients of|\.in gradient/.test(call))
      .map((call) => call.replace(/, .*/, ""));
  const first = (calls: readonly string[], call: string) => {
    expect(calls).toContain(call);
    return calls.indexOf(call);
  };
  // Between the input gradients of the last microbatch, so once per step.
  const over = sums({ dp: 2, tp: 2 }, 4);
  const head = first(over, "all_reduce[dp] (gradients of head");
  const above = over.lastIndexOf("reduce_scatter[tp] (blocks.3.ffn.in gradient");
  const below = over.lastIndexOf("reduce_scatter[tp] (blocks.2.ffn.in gradient");
  const block = first(over, "all_reduce[dp] (gradients of blocks.3");
  expect([head, above, block, below]).toEqual(
    [head, above, block, below].toSorted((a, b) => a - b),
  );
  // The sum of a run over dp waits for the unit below.
  const both = sums({ dp: 2, fsdp: 2 }, 4);
  const steps = ["head", "blocks.3", "blocks.2", "blocks.1", "blocks.0", "embedding"];
  expect(both).toEqual([
    ...steps.flatMap((name, i) => [
      ...(i > 0 ? [`all_reduce[dp] (gradients of ${steps[i - 1]}`] : []),
      `reduce_scatter[fsdp] (gradients of ${name}`,
    ]),
    "all_reduce[dp] (gradients of embedding",
  ]);
});

test("4096 ranks of several meshes are planned and checked", () => {
  const meshes: Partial<TrainingToPlan>[] = [
    { mesh: { dp: 32, fsdp: 128 }, batch: 4096 },
    { mesh: { pp: 4, dp: 16, fsdp: 8, tp: 8 }, batch: 1024, microbatches: 8 },
    { mesh: { pp: 32, dp: 16, tp: 8 }, batch: 1024, microbatches: 64 },
    { mesh: { dp: 4096 }, batch: 4096 },
    { mesh: { fsdp: 512, tp: 8 }, batch: 512, minSize: 0 },
  ];
  for (const changes of meshes) {
    const plan = seven({ world: 4096, ...changes });
    expect(plan.stages).toHaveLength(plan.topology.size("pp"));
    const blocks = plan.stages.reduce((sum, { from, to }) => sum + to - from, 0);
    expect(blocks).toBe(32);
    const last = plan.topology.rankOf({ pp: plan.stages.length - 1 });
    const calls = plan.stages.at(-1)!.calls.reduce((sum, one) => sum + one.calls, 0);
    expect(plan.operations(last)).toHaveLength(calls);
  }
});

test("every preset on one rank, and on what its heads divide", () => {
  for (const name of presetNames) {
    const config = preset(name);
    const tp = config.mlstm.numHeads % 2 === 0 ? 2 : 1;
    for (const mesh of [{}, { pp: 2, fsdp: 2, tp }]) {
      const world = Object.values(mesh).reduce((product, size) => product * size, 1);
      const plan = planTraining(config, { world, mesh, batch: 16, length: 256, microbatches: 2 });
      expect(plan.stages.every(({ totalBytes }) => totalBytes > 0)).toBe(true);
      if (world === 1) expect(plan.stages[0]!.calls).toEqual([]);
    }
  }
});

function issuesOf(make: () => unknown): Record<string, string> {
  try {
    make();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return Object.fromEntries(error.issues.map(({ path, message }) => [path, message]));
  }
  throw new Error("it was planned");
}

test("everything that keeps a model off a mesh is said at once", () => {
  const config = preset("mLSTMv1_2.7B", { slstmAt: [0] });
  const training = { world: 48, mesh: { fsdp: 4, cp: 2, tp: 6 }, batch: 10, length: 1000 };
  expect(issuesOf(() => planTraining(config, training))).toEqual({
    batch: "10 rows are not divisible by dp 1 × fsdp 4 × microbatches 1 = 4",
    "mlstm.numHeads": "5 heads are not divisible by tp 6",
    "slstm.numHeads": "5 heads are not divisible by tp 6",
    "ffn.hiddenDim": "6848 columns are not divisible by tp 6",
    "slstmFfn.hiddenDim": "3328 columns are not divisible by tp 6",
    context: "1000 tokens per row are not divisible by tp 6",
    "mesh.cp": "2: no model passes its state between pieces of a sequence yet; use cp 1",
  });
});

test("stages, streams and meshes that do not fit", () => {
  const config = preset("bench0.92M");
  const on = (changes: Partial<TrainingToPlan>) =>
    issuesOf(() => planTraining(config, { world: 8, mesh: {}, batch: 64, length: 64, ...changes }));
  expect(on({ mesh: { pp: 8 } })).toEqual({
    "mesh.pp": "4 blocks are fewer than the 8 stages of pp",
  });
  expect(on({ mesh: { pp: 2, dp: 4 }, stages: [4] })["stages"]).toContain("1 stages with 4 blocks");
  expect(on({ mesh: { pp: 2, dp: 4 }, stages: [4, 0] })["stages"]).toContain("one or more");
  expect(on({ mesh: { dp: 8 }, residual: "feature" })["residual"]).toContain("no model offers it");
  expect(on({ mesh: { dp: 3 } })["mesh"]).toContain("= 3, but there are 8 ranks");
  expect(on({ mesh: { dp: 8 }, batch: 4 })["batch"]).toContain("4 rows are not divisible by dp 8");
});

test("numbers that no plan can count are errors", () => {
  const config = preset("bench0.92M");
  const good = { world: 8, mesh: { dp: 2, fsdp: 2, tp: 2 }, batch: 8, length: 64, microbatches: 2 };
  const bad = [0, -1, 0.5, Number.NaN, Infinity, 2 ** 32, 2 ** 60];
  for (const key of ["world", "batch", "length", "microbatches"] as const) {
    for (const value of bad) {
      expect(() => planTraining(config, { ...good, [key]: value })).toThrow();
    }
  }
  for (const value of [-1, 0.5, Number.NaN]) {
    expect(() => planTraining(config, { ...good, minSize: value })).toThrow("a size is");
  }
  const many = { ...good, batch: 2 ** 24, microbatches: 2 ** 22 };
  expect(() => planTraining(config, many)).toThrow("operations; plan fewer");
  expect(() =>
    planTraining(config, { ...good, world: 2 ** 17, mesh: { dp: -1 }, batch: 2 ** 18 }),
  ).toThrow("plans go up to 65536");
});

test("the text shows shardings, bytes and calls, equal blocks on one line", () => {
  const text = renderPlan(seven({ world: 64, mesh: { pp: 2, fsdp: 4, tp: 8 }, microbatches: 4 }));
  expect(text).toContain("6 865 424 896 parameters, on 64 ranks: pp 2 × fsdp 4 × tp 8");
  expect(text).toContain("blocks per stage: 17 15");
  expect(text).toMatch(/blocks\.\{0-31\}\.mixer\.q\.weight +2048 × 4096 +S\(0\) +cut/);
  expect(text).toMatch(/blocks\.\{0-31\}\.mixer_norm\.scale +4096 +R +whole/);
  expect(text).toMatch(/cause +stage 0 +stage 1 +largest/);
  expect(text).toMatch(/pipeline +exchange +pp/);
  expect(text.split("\n").every((line) => line.length < 120)).toBe(true);
});

test("the recipe exits with 64 for meshes that do not fit, and plans others", async () => {
  const log = console.log;
  const error = console.error;
  const said: string[] = [];
  console.log = (text: string) => said.push(text);
  console.error = (text: string) => said.push(text);
  try {
    expect(await recipe.main(["mLSTMv1_7B", "ranks=24", "mesh.fsdp=8", "mesh.tp=2"])).toBe(64);
    expect(said.pop()).toContain("24 ranks are not divisible by pp 1 × fsdp 8 × cp 1 × tp 2 = 16");
    expect(await recipe.main(["mLSTMv1_7B", "ranks=256", "mesh.fsdp=8"])).toBe(0);
    expect(said.pop()).toContain("dp 32 × fsdp 8");
    const words = ["bench0.92M", "ranks=2", "batch=2", "operations=1"];
    expect(await recipe.main(words)).toBe(0);
    expect(said.pop()).toStartWith("all_reduce[dp] (valid targets, 1 f64)\n");
  } finally {
    console.log = log;
    console.error = error;
  }
});
