// Captured steps: the numbers of the eager step bit for bit, new recordings for new shapes, nothing
// that waits inside, memory that belongs to a graph, and updates that are skipped when they must
// be.

import { afterEach, expect, test } from "bun:test";
import { configs } from "../helpers/models.ts";
import { onGpu } from "../helpers/gpu.ts";
import { Random } from "../helpers/random.ts";
import { gpuFacts } from "../../lib/native/gpu.ts";
import { xlstm } from "../../lib/nn/model.ts";
import { adamw, optimizer as makeOptimizer } from "../../lib/optim/optimizer.ts";
import { capture, div, memory, scope, type Tensor, tensor } from "../../lib/tensor/index.ts";

const vocab = configs.v1.vocabSize!;
const live: { dispose(): void }[] = [];

afterEach(() => {
  for (const item of live.splice(0)) item.dispose();
});

function owned<T extends { dispose(): void }>(item: T): T {
  live.push(item);
  return item;
}

function ids(seed: number, rows = 2, length = 12): Tensor {
  const random = new Random(seed);
  const data = Int32Array.from({ length: rows * length }, () => random.below(vocab));
  return onGpu(() => tensor(data, { shape: [rows, length] }));
}

function training(
  name: keyof typeof configs = "mixed",
  rule: "adamw" | "lamb" | "radam" = "adamw",
) {
  const model = owned(onGpu(() => xlstm({ ...configs[name], dtype: "f32" }, { seed: 3 })));
  const lr = { name: "cosineDecay", lr: 1e-2, decaySteps: 20, warmupSteps: 3 } as const;
  const settings = { lr, weightDecay: 0.1, gradClipNorm: 0.5 };
  const optimizer = owned(makeOptimizer(model.parameters(), { ...settings, name: rule }));
  const step = owned(
    capture(
      (tokens: Tensor, targets: Tensor) => {
        const sums = model.lossSum({ tokens, targets }, { train: true });
        const loss = div(sums.loss, tokens.size);
        return { loss, ...optimizer.update(loss.backward()) };
      },
      { before: () => optimizer.advance() },
    ),
  );
  return { model, optimizer, step };
}

function weights(model: { parameters(): ReadonlyMap<string, Tensor> }): number[][] {
  return [...model.parameters().values()].map((parameter) => [...parameter.dataSync()]);
}

test.each(["adamw", "lamb", "radam"] as const)("%s: eight steps equal eager ones", (rule) => {
  const captured = training("mixed", rule);
  const eager = training("mixed", rule);
  for (let i = 0; i < 8; i++) {
    using _ = scope();
    const [tokens, targets] = [ids(2 * i), ids(2 * i + 1)];
    const { loss, norm } = captured.step(tokens, targets);
    const sums = eager.model.lossSum({ tokens, targets }, { train: true });
    const want = div(sums.loss, tokens.size);
    const report = eager.optimizer.step(want.backward());
    expect(loss.item()).toBe(want.item());
    expect(norm.item()).toBe(report.norm);
  }
  expect(captured.step.launches).toBeGreaterThan(50);
  expect(captured.optimizer.updates).toBe(8);
  expect(weights(captured.model)).toEqual(weights(eager.model));
});

test("one launch of the host per step, once it is recorded", () => {
  const { step } = training();
  using _ = scope();
  const [tokens, targets] = [ids(1), ids(2)];
  for (let i = 0; i < 3; i++) step(tokens, targets);
  const before = gpuFacts().launches;
  for (let i = 0; i < 5; i++) step(tokens, targets);
  // The two inputs are copied to their places by a kernel each.
  expect(gpuFacts().launches - before).toBe(10);
});

test("another shape is recorded again; the first one's recording stays", () => {
  const { step, optimizer } = training();
  using _ = scope();
  const losses: number[] = [];
  for (const length of [12, 12, 7, 7, 12, 7, 12]) {
    losses.push(step(ids(5, 2, length), ids(6, 2, length)).loss.item());
  }
  expect(losses.every(Number.isFinite)).toBe(true);
  expect(losses.at(-1)!).toBeLessThan(losses[0]!);
  expect(optimizer.updates).toBe(7);
});

test("reading or writing a value inside is refused by name; the next call works", () => {
  const x = owned(ids(1));
  let read = true;
  const step = owned(
    capture((given: Tensor) => {
      const y = given.cast("f32").mul(2);
      if (read) y.sum().item();
      return { y };
    }),
  );
  step(x); // the first run is eager: reading is allowed there
  expect(() => step(x)).toThrow("inside a captured step: values cannot be read or written there");
  read = false;
  for (let i = 0; i < 3; i++) expect(step(x).y.sum().item()).toBe(2 * x.cast("f32").sum().item());
  const writing = owned(
    capture((given: Tensor) => ({ y: given.cast("f32").mul(tensor([2]).to("cuda")) })),
  );
  writing(x);
  expect(() => writing(x)).toThrow("copying to the GPU inside a captured step");
});

test("a result must be a tensor", () => {
  const step = capture(() => ({ y: 3 as unknown as Tensor }));
  expect(() => step()).toThrow("the result y is no tensor");
});

test("a gradient that is not finite changes nothing and is named", () => {
  const { model, optimizer, step } = training("v1");
  using _ = scope();
  for (let i = 0; i < 3; i++) step(ids(1), ids(2));
  const scale = [...model.parameters()].find(([name]) => name.endsWith("norm.scale"))![1];
  const good = [...scale.dataSync()];
  onGpu(() =>
    scale.write_(
      tensor(
        Float32Array.from(good, () => 1e38),
        { shape: scale.shape },
      ),
    ),
  );
  const before = weights(model);
  const { norm, sums } = step(ids(1), ids(2));
  expect(Number.isFinite(norm.item())).toBe(false);
  expect(weights(model)).toEqual(before);
  expect(() => optimizer.expectFinite(sums)).toThrow("nothing was changed");
});

test("a graph's memory is its own while it lives, and everybody's afterwards", () => {
  const before = { bytes: gpuFacts().liveBytes, tensors: memory().tensors };
  const { model, optimizer, step } = training();
  scope(() => {
    for (let i = 0; i < 4; i++) step(ids(1), ids(2));
    const { loss } = step(ids(1), ids(2));
    const value = loss.item();
    // Work beside the graph must not get the memory that a replay writes to.
    const other = onGpu(() => tensor(new Float32Array(5000).fill(7)));
    step(ids(1), ids(2));
    expect(other.dataSync().every((x) => x === 7)).toBe(true);
    expect(value).not.toBe(loss.item());
  });
  for (const item of [step, optimizer, model]) item.dispose();
  live.length = 0;
  // Less, when the collector has found tensors of earlier tests meanwhile.
  expect(gpuFacts().liveBytes).toBeLessThanOrEqual(before.bytes);
  expect(memory().tensors).toBeLessThanOrEqual(before.tensors);
});

test("on the CPU the step simply runs", () => {
  using _ = scope();
  const model = xlstm({ ...configs.v1, dtype: "f32" }, { seed: 3 });
  const optimizer = adamw(model.parameters(), { lr: 1e-2 });
  const step = capture(
    (tokens: Tensor, targets: Tensor) => {
      const loss = model.loss({ tokens, targets });
      return { loss, ...optimizer.update(loss.backward()) };
    },
    { before: () => optimizer.advance() },
  );
  const [tokens, targets] = [ids(1).to("cpu"), ids(2).to("cpu")];
  const losses = [0, 1, 2, 3].map(() => step(tokens, targets).loss.item());
  expect(losses[3]!).toBeLessThan(losses[0]!);
  expect(step.launches).toBe(0);
});
