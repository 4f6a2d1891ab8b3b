// The training loop and the recipe around it: resumed runs equal undisturbed ones, bad numbers and
// full disks lose nothing, memory stays flat.

import { afterEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readManifest } from "../../lib/checkpoint/manifest.ts";
import { listCheckpoints } from "../../lib/checkpoint/protocol.ts";
import { Corpus } from "../../lib/data/corpus.ts";
import { xlstm } from "../../lib/nn/model.ts";
import { adamw } from "../../lib/optim/optimizer.ts";
import { full, memory, noGrad } from "../../lib/tensor/index.ts";
import { Checkpoints } from "../../lib/train/checkpoints.ts";
import { evaluate } from "../../lib/train/evaluate.ts";
import { NonFiniteStop } from "../../lib/train/non_finite.ts";
import { StopRequests } from "../../lib/train/stop.ts";
import { Trainer, type TrainerOptions } from "../../lib/train/trainer.ts";
import { settle } from "../helpers/settle.ts";

const root = join(import.meta.dir, "../..");
const words = "the whale rose and the sea fell and the men looked on the whale again. ";
const text = new Corpus("words", new TextEncoder().encode(words.repeat(60)));
const sizes = { vocabSize: 256, embeddingDim: 32, numBlocks: 2, numHeads: 2, slstmAt: [1] };
const folders: string[] = [];
const disposables: { dispose(): void }[] = [];

function folder(): string {
  folders.push(mkdtempSync(join(tmpdir(), "xlstm-trainer-")));
  return folders.at(-1)!;
}

afterEach(() => {
  // What a test leaves to the garbage collector would disturb the counts of another.
  for (const item of disposables.splice(0)) item.dispose();
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
});

function parts(dropout = 0) {
  const model = xlstm({ ...sizes, dropout }, { seed: 3 });
  const optimizer = adamw(model.parameters(), { lr: 5e-3, weightDecay: 0.1, gradClipNorm: 1 });
  const stream = text.batches({ size: 4, length: 24, seed: 5 });
  disposables.push(model, optimizer);
  return { model, optimizer, stream, seed: 7 };
}

function checkpointsIn(directory: string, every = 0): Checkpoints {
  return new Checkpoints(directory, { every, recipe: { model: sizes }, warn: () => {} });
}

/** Names and hashes of everything a checkpoint holds. */
function hashes(path: string) {
  return readManifest(path).tensors.map(({ name, hash }) => `${name} ${hash}`);
}

/** Trains in a folder up to a step and returns the last checkpoint. */
async function train(directory: string, steps: number, options: Partial<TrainerOptions> = {}) {
  const run = parts(0.1);
  const checkpoints = checkpointsIn(directory);
  const start = checkpoints.restore(run)?.step;
  const { checkpoint } = await new Trainer({ ...run, checkpoints, steps, start, ...options }).run();
  return checkpoint!;
}

test("the loss falls, and evaluation is the mean over all tokens", async () => {
  const run = parts();
  const losses: number[] = [];
  const before = await evaluate(run.model, text.evaluation({ size: 3, length: 50 }));
  await new Trainer({ ...run, steps: 40, onStep: ({ loss }) => losses.push(loss) }).run();
  expect(losses).toHaveLength(40);
  expect(losses.at(-1)!).toBeLessThan(0.7 * losses[0]!);
  const after = await evaluate(run.model, text.evaluation({ size: 3, length: 50 }));
  const other = await evaluate(run.model, text.evaluation({ size: 5, length: 50 }));
  expect(after.loss).toBeLessThan(0.7 * before.loss);
  expect(after.tokens).toBe(text.validation.length);
  expect(other.tokens).toBe(after.tokens);
  expect(other.loss).toBeCloseTo(after.loss, 5);
  expect(after.bits).toBeCloseTo(after.loss / Math.LN2, 10);
});

test("a run resumed twice equals an undisturbed one bit for bit, dropout included", async () => {
  const whole = await train(folder(), 9);
  const directory = folder();
  await train(directory, 4);
  await train(directory, 7);
  const resumed = await train(directory, 9);
  expect(hashes(resumed)).toEqual(hashes(whole));
  expect(readManifest(resumed).data).toEqual(readManifest(whole).data);
  expect(hashes(whole)).toContainEqual(expect.stringContaining("optimizer.lm_head.weight.moment2"));
});

test("a signal stops after the step it arrives in, and what it saved goes on", async () => {
  const whole = await train(folder(), 6);
  const directory = folder();
  const onStep = ({ step }: { step: number }) => {
    if (step === 2) process.emit("SIGTERM", "SIGTERM");
    if (step === 2) process.emit("SIGTERM", "SIGTERM");
  };
  const stopped = await train(directory, 6, { onStep });
  expect(stopped).toEndWith("step-2");
  expect(hashes(await train(directory, 6))).toEqual(hashes(whole));
  expect(process.listenerCount("SIGTERM")).toBe(0);
});

test("the second SIGINT within ten seconds ends the process, a later one does not", () => {
  const codes: number[] = [];
  let time = 0;
  using requests = new StopRequests({ exit: (code) => codes.push(code), now: () => time });
  expect(requests.stop).toBeUndefined();
  process.emit("SIGINT", "SIGINT");
  expect(requests.stop).toBe("SIGINT");
  time = 10_001;
  process.emit("SIGINT", "SIGINT");
  expect(codes).toEqual([]);
  time = 15_000;
  process.emit("SIGINT", "SIGINT");
  expect(codes).toEqual([70]);
});

test("SIGUSR2 saves and goes on", async () => {
  const directory = folder();
  const onStep = ({ step }: { step: number }) => {
    if (step === 3) process.emit("SIGUSR2", "SIGUSR2");
  };
  expect(await train(directory, 5, { onStep })).toEndWith("step-5");
  expect(listCheckpoints(directory).map(({ step }) => step)).toEqual([5, 3]);
});

test("a batch in pieces gives the same step", async () => {
  const results = [];
  for (const accumulate of [1, 2, 4]) {
    const run = parts(0.1);
    const { last } = await new Trainer({ ...run, steps: 3, accumulate }).run();
    results.push({ last, values: run.model.parameters().get("lm_head.weight")!.dataSync() });
  }
  const [whole, ...pieces] = results;
  for (const { last, values } of pieces) {
    expect(last!.loss).toBeCloseTo(whole!.last!.loss, 4);
    expect(last!.norm / whole!.last!.norm).toBeCloseTo(1, 3);
    const apart = values.map((value, i) => Math.abs(value - whole!.values[i]!));
    expect(Math.max(...apart)).toBeLessThan(2e-3);
  }
  expect(() => new Trainer({ ...parts(), steps: 1, accumulate: 3 })).toThrow(/divisor of .* 4/);
});

test("a NaN stops before the update and names step, parameter and checkpoint", async () => {
  const directory = folder();
  const run = parts();
  const name = "blocks.0.ffn_norm.scale";
  const poison = ({ step }: { step: number }) => {
    if (step !== 3) return;
    const scale = run.model.parameters().get(name)!;
    noGrad(() => scale.write_(full([], Number.NaN)));
  };
  const checkpoints = checkpointsIn(directory, 2);
  const trainer = new Trainer({ ...run, steps: 9, checkpoints, onStep: poison });
  const error = await trainer.run().catch((reason: unknown) => reason as NonFiniteStop);
  expect(error).toBeInstanceOf(NonFiniteStop);
  const { exitCode, message, facts } = error as NonFiniteStop;
  expect(exitCode).toBe(76);
  expect(facts.step).toBe(4);
  expect(facts.rows).toEqual([12, 15]);
  expect(message).toContain(`parameter ${name} has 32 values`);
  expect(message).toContain("step-2");
  const [newest] = listCheckpoints(directory);
  expect(newest!.step).toBe(2);
  expect(checkpointsIn(directory).restore(parts())?.step).toBe(2);
});

test("an infinite gradient stops although the loss is finite", async () => {
  const run = parts();
  const step = run.optimizer.step.bind(run.optimizer);
  run.optimizer.step = (gradients) => {
    const gradient = gradients.of(run.model.parameters().get("lm_head.weight")!);
    noGrad(() => gradient.write_(full([], Infinity)));
    return step(gradients);
  };
  const before = run.model.parameters().get("lm_head.weight")!.bytesSync();
  await expect(new Trainer({ ...run, steps: 2 }).run()).rejects.toThrow(
    /step 1: .*gradient of lm_head.weight/,
  );
  expect(run.model.parameters().get("lm_head.weight")!.bytesSync()).toEqual(before);
});

test("a checkpoint that cannot be written warns in between and fails at the end", async () => {
  const directory = join(folder(), "checkpoints");
  writeFileSync(directory, "a file where the folder should be");
  const lines: string[] = [];
  const options = { every: 2, recipe: {}, warn: (line: string) => lines.push(line) };
  const steps: number[] = [];
  const checkpoints = new Checkpoints(directory, options);
  const onStep = ({ step }: { step: number }) => steps.push(step);
  const trainer = new Trainer({ ...parts(), steps: 5, checkpoints, onStep });
  await expect(trainer.run()).rejects.toMatchObject({ exitCode: 74 });
  expect(steps).toEqual([1, 2, 3, 4, 5]);
  expect(lines).toHaveLength(2);
  expect(lines[0]).toContain("CHECKPOINT NOT WRITTEN");
});

test("tensors and bytes stay flat over 200 steps", async () => {
  await settle();
  const run = parts();
  const seen: { tensors: number; bytes: number }[] = [];
  const onStep = () => {
    const { tensors, bytes } = memory();
    seen.push({ tensors, bytes });
  };
  await new Trainer({ ...run, steps: 200, onStep }).run();
  expect(new Set(seen.slice(1).map(({ tensors }) => tensors)).size).toBe(1);
  expect(new Set(seen.slice(1).map(({ bytes }) => bytes)).size).toBe(1);
}, 60_000);

/** The train recipe in a process of its own, as `bun run train` starts it. */
function recipe(cwd: string, ...words: string[]) {
  const preload = join(root, "setup/signals.mjs");
  const command = [process.execPath, "--preload", preload, join(root, "recipes/train.ts")];
  const tiny = ["data=text.txt", "batchSize=2", "length=16", "validateEvery=10", "sample=20"];
  const model = ["model.embeddingDim=32", "model.numBlocks=2", "model.numHeads=2"];
  const all = words.includes("--resume") ? words : [...tiny, ...model, ...words];
  return Bun.spawn([...command, ...all], { cwd, stdout: "pipe", stderr: "pipe" });
}

test("recipe: Ctrl-C saves and says how to go on; --resume ends where a run does", async () => {
  const cwd = folder();
  writeFileSync(join(cwd, "text.txt"), words.repeat(200));
  const whole = recipe(cwd, "steps=60", "run=whole");
  expect(await whole.exited).toBe(0);
  const stopped = recipe(cwd, "steps=60", "run=stopped", "logEvery=1");
  const log = join(cwd, "runs/stopped/metrics.jsonl");
  const isTraining = () => existsSync(log) && readFileSync(log, "utf8").split("\n").length > 5;
  for (const end = Date.now() + 20_000; !isTraining() && Date.now() < end;) await Bun.sleep(5);
  stopped.kill("SIGINT");
  expect(await stopped.exited).toBe(0);
  const said = await new Response(stopped.stdout).text();
  expect(said).toContain("bun run train --resume run=stopped");
  const directory = join(cwd, "runs/stopped/checkpoints");
  expect(listCheckpoints(directory)[0]!.step).toBeLessThan(60);
  const resumed = recipe(cwd, "--resume", "run=stopped");
  expect(await resumed.exited).toBe(0);
  expect(await new Response(resumed.stdout).text()).toContain("the byte 5-gram's");
  const last = hashes(join(directory, "step-60"));
  expect(last).toEqual(hashes(join(cwd, "runs/whole/checkpoints/step-60")));
  for (const name of ["config.json", "metrics.jsonl", "loss.svg"]) {
    expect(existsSync(join(cwd, "runs/stopped", name))).toBe(true);
  }
  const again = recipe(cwd, "steps=2", "run=whole");
  expect(await again.exited).toBe(0);
  expect(existsSync(join(cwd, "runs/whole-2/checkpoints/step-2"))).toBe(true);
}, 120_000);

test.each([
  [["--resume"], 66, "no run in runs/ has a checkpoint"],
  [["data=missing.txt"], 65, "there is no such file"],
  [["data=empty.txt"], 65, "is empty"],
  [["data=binary.dat"], 65, "is not text"],
  [["model.embedingDim=64"], 64, "embeddingDim"],
])("recipe: %p is an error of one line", async (words, code, message) => {
  const cwd = folder();
  writeFileSync(join(cwd, "empty.txt"), "");
  writeFileSync(join(cwd, "binary.dat"), new Uint8Array(4096).fill(255));
  const child = recipe(cwd, ...words);
  expect(await child.exited).toBe(code);
  const said = await new Response(child.stderr).text();
  expect(said).toContain(message);
  expect(said).not.toContain("    at ");
});
