// What a training step holds: the backward pass makes cheap results again and frees what it has
// passed, with the same bits as when everything is kept.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test";
import { recompute } from "../../lib/nn/layers.ts";
import { xlstm } from "../../lib/nn/model.ts";
import {
  add,
  headNormGate,
  linear,
  memory,
  noGrad,
  randn,
  requireGrad,
  resetPeakMemory,
  residualNorm,
  rmsNorm,
  layerNorm,
  scope,
  type Tensor,
} from "../../lib/tensor/index.ts";
import { recomputable, release, remembered, transient } from "../../lib/tensor/tape.ts";
import { type ConfigName, configs, scrambled, tokens } from "../helpers/models.ts";
import { settle } from "../helpers/settle.ts";

const all = { ...recompute, onCpu: true };
Object.assign(recompute, all);
const none = { norms: false, heads: false, activations: false };

beforeEach(settle);
afterEach(() => void Object.assign(recompute, all));
afterAll(async () => {
  recompute.onCpu = false;
  await settle();
});

const hash = (x: Tensor) => Bun.hash.xxHash3(x.bytesSync());

describe("results that are made again", () => {
  const ids = tokens(3, 21);
  const next = tokens(3, 21, 4);

  function train(name: ConfigName, dtype: "f32" | "bf16") {
    const model = scrambled({ ...configs[name], embeddingDim: 32, dtype });
    const facts = scope(() => {
      const dropout = { seed: 1, step: 2, sample: 0 };
      const loss = model.loss({ tokens: ids, targets: next }, { dropout });
      const grads = loss.backward();
      return [loss.item(), ...[...model.parameters().values()].map((p) => hash(grads.of(p)))];
    });
    model.dispose();
    return facts;
  }

  const names = Object.keys(configs) as ConfigName[];
  test.each(names)("%s: the same bits as when they are kept", (name) => {
    for (const dtype of ["f32", "bf16"] as const) {
      Object.assign(recompute, none);
      const kept = train(name, dtype);
      Object.assign(recompute, all);
      expect(train(name, dtype), dtype).toEqual(kept);
    }
  });

  test("a layer keeps the recipe, and what it makes dies in the backward pass", () => {
    using _ = scope();
    const x = requireGrad(randn([4, 8]));
    const w = requireGrad(randn([3, 8]));
    const make = () => {
      const u = rmsNorm(x, undefined, { recompute: true });
      const y = linear(u, w);
      release(u);
      expect(u.disposed).toBe(true);
      return y.square().sum().backward();
    };
    const plain = linear(rmsNorm(x), w).square().sum().backward();
    const before = memory().tensors;
    const grads = scope(make);
    expect(memory().tensors).toBe(before + 2);
    for (const leaf of [x, w]) expect(hash(grads.of(leaf))).toBe(hash(plain.of(leaf)));
  });

  test("what somebody saves is not released", () => {
    using _ = scope();
    const x = requireGrad(randn([4, 8]));
    const u = rmsNorm(x);
    release(u);
    expect(u.disposed).toBe(false);
    expect(remembered(u)()).toBe(u);
    const free = noGrad(() => rmsNorm(x, undefined, { recompute: true }));
    release(free);
    expect(free.disposed).toBe(true);
  });
});

describe("transient", () => {
  test("results die as the backward pass leaves them; what is returned lives on", () => {
    using _ = scope();
    const x = requireGrad(randn([8]));
    const seen: Tensor[] = [];
    const y = transient(
      () => {
        seen.push(x.exp());
        seen.push(seen[0]!.tanh());
        return seen[1]!.square();
      },
      (value) => [value],
    );
    expect(seen.map(({ disposed }) => disposed)).toEqual([false, false]);
    const grads = y.sum().backward();
    expect(seen.map(({ disposed }) => disposed)).toEqual([true, true]);
    expect([y.disposed, grads.of(x).disposed]).toEqual([false, false]);
  });

  test("the outer one decides when they are nested, and nothing is held without recording", () => {
    using _ = scope();
    const x = requireGrad(randn([8]));
    let inner: Tensor | undefined;
    const y = transient(
      () => {
        inner = transient(
          () => x.exp(),
          (value) => [value],
        );
        return inner.tanh();
      },
      (value) => [value],
    );
    y.sum().backward();
    expect([inner!.disposed, y.disposed]).toEqual([true, false]);
    const before = memory().tensors;
    const alone = noGrad(() =>
      transient(
        () => x.exp().tanh(),
        (value) => [value],
      ),
    );
    expect([alone.disposed, memory().tensors]).toEqual([false, before + 1]);
  });

  test("an exception leaves the switch as it was", () => {
    using _ = scope();
    const fail = () => {
      throw new Error("inside");
    };
    expect(() => transient(fail, () => [])).toThrow("inside");
    const x = requireGrad(randn([2]));
    const y = x.exp();
    y.sum().backward();
    expect(y.disposed).toBe(false);
  });
});

describe.each(["f32", "bf16"] as const)("residualNorm in %s", (dtype) => {
  test.each([true, false])("center %p: the values of a sum and a norm, bit for bit", (center) => {
    using _ = scope();
    const draw = () => randn([5, 37], { dtype });
    const [x, branch, scale] = [draw(), draw(), randn([37])];
    const { sum, y } = residualNorm(x, branch, scale, { center, eps: 1e-5 });
    const plain = add(x, branch);
    const norm = center ? layerNorm : rmsNorm;
    expect(hash(sum)).toBe(hash(plain));
    expect(hash(y)).toBe(hash(norm(plain, scale, { eps: 1e-5 })));
  });
});

test("a head norm that is made again has the same bits", () => {
  using _ = scope();
  const [h, o] = [randn([2, 3, 2, 8], { dtype: "bf16" }), randn([2, 3, 16], { dtype: "bf16" })];
  requireGrad(h);
  const y = headNormGate(h, o, undefined, { recompute: true });
  using again = remembered(y)();
  expect(again).not.toBe(y);
  expect(hash(again)).toBe(hash(y));
});

test("recomputable without recording keeps nothing", () => {
  using _ = scope();
  const x = randn([2]);
  expect(remembered(recomputable(x, () => randn([2])))()).toBe(x);
});

/**
 * Bytes per token and block: after the forward pass, and how far the peak of the step grows. The
 * blocks are those of xLSTM-7B, bf16, feed-forward width 2.75 d.
 */
function held(dim: number) {
  const rows = 2;
  const length = 256;
  const measure = (numBlocks: number) => {
    const config = { vocabSize: 64, embeddingDim: dim, numHeads: 2, numBlocks, dtype: "bf16" };
    const model = xlstm({ ...config, ffn: { hiddenDim: 2.75 * dim } } as const, { seed: 1 });
    const ids = tokens(rows, length);
    using _ = scope();
    const before = memory().bytes;
    resetPeakMemory();
    const loss = model.loss({ tokens: ids, targets: ids });
    const forward = memory().bytes - before;
    const grads = loss.backward();
    const facts = { forward, peak: memory().peakBytes - before };
    grads.dispose();
    model.dispose();
    return facts;
  };
  const [few, many] = [measure(2), measure(6)];
  const per = (key: "forward" | "peak") => (many[key] - few[key]) / (4 * rows * length);
  return { forward: per("forward") / (2 * dim), peak: per("peak") / (2 * dim) };
}

test("a block keeps twelve widths per token, and the peak is that of the forward pass", () => {
  const widths = held(128);
  // x, h, o, v, the middle sum: 5 d; q, k: d; gate, up: 5.5 d; gates, statistics, size classes.
  expect(widths.forward).toBeGreaterThan(11.5);
  expect(widths.forward).toBeLessThan(13.5);
  // Gradients of weights grow more slowly than saved results are freed.
  expect(widths.peak).toBeLessThan(1.02 * widths.forward);
  Object.assign(recompute, none);
  const kept = held(128);
  // Two norms, the gated head norm, the product in the feed-forward network.
  expect(kept.forward - widths.forward).toBeCloseTo(2 + 1 + 2.75, 0);
});
