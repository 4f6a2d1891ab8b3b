// The head over a split vocabulary on the GPU, with all ids on one rank: against the fused
// operation, over several chunks of tokens. And recomputed activations give the same gradients.

import { describe, expect, test } from "bun:test";
import { Group } from "../../lib/mesh/group.ts";
import { Parameter } from "../../lib/nn/parameter.ts";
import type { Recompute } from "../../lib/nn/stack.ts";
import { VocabularyPart } from "../../lib/nn/vocabulary.ts";
import { splitCrossEntropy } from "../../lib/nn/vocabulary_loss.ts";
import {
  cast,
  linearCrossEntropy,
  type LossOptions,
  requireGrad,
  scope,
  type Tensor,
  tensor,
} from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import { onGpu } from "../helpers/gpu.ts";
import { type ConfigName, configs, scrambled, tokens as idsOf } from "../helpers/models.ts";
import { Random } from "../helpers/random.ts";

const vocabulary = 61;
const width = 16;

function numbers(x: Tensor): Float64Array {
  return Float64Array.from(cast(x, "f32").dataSync());
}

describe.each(["f32", "bf16"] as const)("a split head in %s", (dtype) => {
  const bar = dtype === "f32" ? 5e-6 : 2e-2;
  const cases: [string, number, LossOptions][] = [
    ["plain", 40, {}],
    ["all options", 40, { softCap: 10, labelSmoothing: 0.1, zLoss: 1e-3 }],
    ["two chunks", 4100, { softCap: 30 }],
  ];
  test.each(cases)("%s", (_, count, options) => {
    onGpu(() =>
      scope(() => {
        const random = new Random(2);
        const shape = [vocabulary, width];
        const spec = { name: "head", shape, init: { kind: "constant", value: 0 }, decay: true };
        const head = Parameter.from(spec as Parameters<typeof Parameter.from>[0], "f32");
        head.write_(tensor(random.normals(vocabulary * width), { shape }));
        const values = random.normals(count * width);
        const input = () =>
          requireGrad(cast(tensor(values, { shape: [count, width] }), dtype).detach());
        const targets = tensor(random.ids(count, vocabulary));
        const mask = tensor(Uint8Array.from({ length: count }, (_, i) => Number(i % 3 !== 1)));
        const [x, y] = [input(), input()];
        using part = new VocabularyPart(head, Group.local("tp", "cuda"), "f32");
        const want = linearCrossEntropy(x, head, targets, { ...options, mask });
        const got = splitCrossEntropy(y, head, targets, { ...options, mask }, part);
        expect(got.count.item()).toBe(want.count.item());
        // The fused operation rounds logits to bf16: a few of them tie there.
        const hits = Math.abs(got.correct.item() - want.correct.item());
        expect(hits).toBeLessThanOrEqual(dtype === "bf16" ? count / 1000 : 0);
        expect(relativeError(numbers(got.perToken), numbers(want.perToken))).toBeLessThan(bar);
        const wanted = want.loss.mul(1 / count).backward();
        const found = got.loss.mul(1 / count).backward();
        const error = (a: Tensor, b: Tensor) => relativeError(numbers(a), numbers(b));
        expect(error(found.of(y), wanted.of(x))).toBeLessThan(bar);
        expect(error(found.of(head), wanted.of(head))).toBeLessThan(bar);
        head.dispose();
      }),
    );
  });
});

describe.each(["block", "half"] as const)("%s: activations made again", (recompute) => {
  const names: ConfigName[] = ["v1", "paper", "mixed", "dropout"];
  test.each(names)("%s", (name) => {
    const run = (policy: Recompute) =>
      onGpu(() =>
        scope(() => {
          const config = { ...configs[name], dtype: "f32" } as const;
          using model = scrambled(config, 1, { recompute: policy });
          const batch = { tokens: idsOf(2, 37), targets: idsOf(2, 37, 4) };
          const grads = model.loss(batch).backward();
          return [...model.parameters().values()].flatMap((leaf) => [...numbers(grads.of(leaf))]);
        }),
      );
    expect(relativeError(run(recompute), run("none"))).toBeLessThan(1e-6);
  });
});
