// bf16 copies of weights that an update writes along: products take them, and they equal the
// weights, rounded, whatever has written there. A model without an optimiser has none: it tells
// what a model with copies must give, bit for bit.

import { afterEach, describe, expect, test } from "bun:test";
import { gpuFacts } from "../../lib/native/gpu.ts";
import { check, native } from "../../lib/native/library.ts";
import { xlstm, type XLSTM } from "../../lib/nn/model.ts";
import { adamw, type Optimizer, optimizer as makeOptimizer } from "../../lib/optim/optimizer.ts";
import {
  capture,
  type Captured,
  div,
  linear,
  noGrad,
  randn,
  requireGrad,
  scope,
  type Tensor,
  tensor,
} from "../../lib/tensor/index.ts";
import { putFloats } from "../../lib/tensor/tensor.ts";
import { onGpu } from "../helpers/gpu.ts";
import { configs } from "../helpers/models.ts";
import { Random } from "../helpers/random.ts";

const live: { dispose(): void }[] = [];
afterEach(() => {
  for (const item of live.splice(0).reverse()) item.dispose();
});

function owned<T extends { dispose(): void }>(item: T): T {
  live.push(item);
  return item;
}

const vocab = configs.v1.vocabSize!;

function ids(seed: number): Tensor {
  const random = new Random(seed);
  const data = Int32Array.from({ length: 24 }, () => random.below(vocab));
  return onGpu(() => tensor(data, { shape: [2, 12] }));
}

type Kind = "v1" | "paper" | "tied embeddings";
const modelOf = (kind: Kind) =>
  owned(onGpu(() => xlstm({ ...configs[kind], dtype: "bf16" }, { seed: 3 })));

interface Training {
  readonly model: XLSTM;
  readonly optimizer: Optimizer;
  /** One eager step. */
  readonly eager: () => void;
  readonly captured: Captured<[Tensor, Tensor], { loss: Tensor; norm: Tensor; sums: Tensor }>;
}

function training(kind: Kind = "v1", name: "adamw" | "lamb" = "adamw"): Training {
  const model = modelOf(kind);
  const settings = { lr: 3e-2, weightDecay: 0.1, gradClipNorm: 1 };
  const optimizer = owned(makeOptimizer(model.parameters(), { ...settings, name }));
  const loss = (tokens: Tensor, targets: Tensor) =>
    div(model.lossSum({ tokens, targets }, { train: true }).loss, tokens.size);
  const eager = () => scope(() => void optimizer.step(loss(ids(1), ids(2)).backward()));
  const captured = owned(
    capture(
      (tokens: Tensor, targets: Tensor) => {
        const mean = loss(tokens, targets);
        return { loss: mean, ...optimizer.update(mean.backward()) };
      },
      { before: () => optimizer.advance() },
    ),
  );
  return { model, optimizer, eager, captured };
}

/** Loss and launches of a forward pass. */
function forward(model: XLSTM): { loss: number; launches: number } {
  return noGrad(() =>
    scope(() => {
      const [tokens, targets] = [ids(5), ids(6)];
      const before = gpuFacts().launches;
      const { loss } = model.lossSum({ tokens, targets });
      const { launches } = gpuFacts();
      return { loss: loss.item(), launches: launches - before };
    }),
  );
}

/** The same weights in a model without copies. */
function twin(kind: Kind, model: XLSTM): XLSTM {
  const other = modelOf(kind);
  const from = model.parameters();
  noGrad(() => {
    for (const [name, parameter] of other.parameters()) parameter.write_(from.get(name)!);
  });
  return other;
}

function expectFresh(model: XLSTM, kind: Kind = "v1"): void {
  const [got, want] = [forward(model), forward(twin(kind, model))];
  expect(got.loss).toBe(want.loss);
  // Copies are there, and used.
  expect(got.launches).toBeLessThan(want.launches);
}

function matrix(model: XLSTM): Tensor {
  return [...model.parameters()].find(([name]) => name.endsWith("mixer.out.weight"))![1];
}

describe.each(["v1", "paper", "tied embeddings"] as const)("%s", (kind) => {
  test.each(["adamw", "lamb"] as const)("%s, eager steps", (name) => {
    const { model, eager } = training(kind, name);
    const first = forward(model).loss;
    for (let i = 0; i < 3; i++) {
      eager();
      expectFresh(model, kind);
    }
    expect(forward(model).loss).not.toBe(first);
  });

  test("replayed steps, mixed with eager ones", () => {
    const { model, eager, captured } = training(kind);
    scope(() => {
      for (let i = 0; i < 5; i++) {
        captured(ids(1), ids(2));
        expectFresh(model, kind);
      }
      eager();
      expectFresh(model, kind);
      captured(ids(1), ids(2));
      expectFresh(model, kind);
    });
  });
});

test("replayed steps equal eager ones bit for bit", () => {
  const [a, b] = [training(), training()];
  scope(() => {
    for (let i = 0; i < 6; i++) {
      a.captured(ids(1), ids(2));
      b.eager();
    }
  });
  for (const [name, parameter] of a.model.parameters()) {
    const other = b.model.parameters().get(name)!;
    expect(Buffer.compare(bytes(parameter), bytes(other)), name).toBe(0);
  }
});

const bytes = (x: Tensor) => Buffer.from(Float32Array.from(x.dataSync()).buffer);

describe("writing to a weight in place renews its copy", () => {
  const writes: Record<string, (weight: Tensor) => void> = {
    whole: (weight) => void weight.write_(randn(weight.shape, { seed: 9 })),
    "a part": (weight) => {
      using rows = weight.detach().slice(0, 1, 3);
      rows.write_(randn(rows.shape, { seed: 9 }));
    },
    "bytes, as a checkpoint is loaded": (weight) => {
      const bytes = new Uint8Array(Float32Array.of(3, -2, 1.7).buffer);
      check(native().xl_write_bytes(weight.handle, bytes, 8, bytes.length), "write");
    },
    "random numbers, as a model begins": (weight) => {
      const normal = 1;
      putFloats([0.5, 0]);
      check(native().xl_random_into(normal, weight.handle, 5, 6, 0), "random");
    },
  };
  test.each(Object.entries(writes))("%s, before an eager pass and before a replay", (_, write) => {
    const { model, eager, captured } = training();
    for (let i = 0; i < 3; i++) scope(() => captured(ids(1), ids(2)));
    const before = forward(model).loss;
    noGrad(() => onGpu(() => write(matrix(model))));
    expect(forward(model).loss).not.toBe(before);
    expectFresh(model);
    const other = twin("v1", model);
    scope(() => {
      const mean = div(
        other.lossSum({ tokens: ids(1), targets: ids(2) }, { train: true }).loss,
        24,
      );
      expect(captured(ids(1), ids(2)).loss.item()).toBe(mean.item());
    });
    expectFresh(model);
    eager();
    expectFresh(model);
  });

  test("inside of a captured step", () => {
    const { model, eager } = training();
    eager();
    const weight = matrix(model);
    const step = owned(
      capture((x: Tensor) => {
        noGrad(() => weight.write_(x));
        return { y: x.mul(1) };
      }),
    );
    for (let i = 0; i < 4; i++) {
      scope(() => step(onGpu(() => randn(weight.shape, { seed: i }))));
      expectFresh(model);
    }
  });

  test("by a graph that is older than the copy", () => {
    const { model, eager } = training();
    const weight = matrix(model);
    const step = owned(
      capture((x: Tensor) => {
        noGrad(() => weight.write_(x));
        return { y: x.mul(1) };
      }),
    );
    const run = (seed: number) => scope(() => step(onGpu(() => randn(weight.shape, { seed }))));
    for (let i = 0; i < 3; i++) run(i);
    for (let i = 3; i < 6; i++) {
      eager();
      expectFresh(model);
      run(i);
      expectFresh(model);
    }
  });

  test("by an update of a part of it", () => {
    const { model, eager } = training();
    eager();
    const weight = matrix(model);
    const rows = owned(weight.detach().slice(0, 1, 3));
    const other = owned(adamw(new Map([["rows", rows]]), { lr: 0.5 }));
    scope(() => {
      const leaf = requireGrad(rows);
      const x = onGpu(() => randn([16, leaf.shape[1]!], { seed: 4, dtype: "bf16" }));
      other.step(linear(x, leaf).cast("f32").sum().backward());
    });
    expectFresh(model);
  });
});

test("a step that is skipped leaves weights and copies as they were", () => {
  const { model, captured } = training();
  for (let i = 0; i < 3; i++) scope(() => captured(ids(1), ids(2)));
  const scale = [...model.parameters()].find(([name]) => name.endsWith("norm.scale"))![1];
  const good = scope(() => Float32Array.from(scale.dataSync()));
  const put = (values: Float32Array) =>
    scope(() => scale.write_(onGpu(() => tensor(values, { shape: scale.shape }))));
  const before = forward(model).loss;
  put(good.map(() => NaN));
  scope(() => expect(captured(ids(1), ids(2)).norm.item()).toBeNaN());
  put(good);
  expect(forward(model).loss).toBe(before);
  expectFresh(model);
});

test("copies die with the weights", () => {
  const before = gpuFacts().liveBytes;
  const { model, eager } = training();
  const parameters = [...model.parameters().values()].reduce((sum, { size }) => sum + size, 0);
  expect(parameters).toBeGreaterThan(0);
  eager();
  eager();
  forward(model);
  for (const item of live.splice(0).reverse()) item.dispose();
  // Less, when the collector has found tensors of earlier tests meanwhile.
  expect(gpuFacts().liveBytes).toBeLessThanOrEqual(before);
});
