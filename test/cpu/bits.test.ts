// What must not depend on the machine: initial values, threads, instruction sets.

import { afterEach, describe, expect, test } from "bun:test";
import { configure } from "../../lib/native/library.ts";
import { resolveConfig, xlstm, type XLSTM } from "../../lib/nn/index.ts";
import type { Initializer } from "../../lib/nn/init.ts";
import { parameterSpecs } from "../../lib/nn/parameters.ts";
import { adamw } from "../../lib/optim/optimizer.ts";
import { scope } from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import { type ConfigName, configs, logits, scrambled, tokens } from "../helpers/models.ts";

const disposables: { dispose(): void }[] = [];

function track<T extends { dispose(): void }>(item: T): T {
  disposables.push(item);
  return item;
}

afterEach(() => {
  configure({ threads: 0, level: undefined });
  for (const item of disposables.splice(0)) item.dispose();
});

/** One hash per parameter. */
function hashes(model: XLSTM): Record<string, string> {
  return Object.fromEntries(
    [...model.parameters()].map(([name, parameter]) => [
      name,
      Bun.hash.xxHash3(parameter.bytesSync()).toString(16),
    ]),
  );
}

const wide = {
  vocabSize: 256,
  embeddingDim: 128,
  numBlocks: 3,
  numHeads: 4,
  slstmAt: [1],
};

describe("initial values", () => {
  test("the same seed gives the same bits, another seed others", () => {
    const first = hashes(track(xlstm(wide, { seed: 5 })));
    const other = hashes(track(xlstm(wide, { seed: 6 })));
    configure({ threads: 1, level: "plain" });
    expect(hashes(track(xlstm(wide, { seed: 5 })))).toEqual(first);
    const random = parameterSpecs(resolveConfig(wide)).filter(({ init: { kind } }) =>
      ["normal", "truncatedNormal", "uniform"].includes(kind),
    );
    expect(random.length).toBeGreaterThan(15);
    for (const { name } of random) expect(other[name], name).not.toBe(first[name]);
  });

  test("a parameter's values depend on its name, not on the other parameters", () => {
    const small = hashes(track(xlstm(wide, { seed: 5 })));
    const deep = hashes(track(xlstm({ ...wide, postNorm: true, useBias: true }, { seed: 5 })));
    expect(deep["embedding.table"]).toBe(small["embedding.table"]!);
    expect(deep["blocks.2.mixer.q.weight"]).toBe(small["blocks.2.mixer.q.weight"]!);
    expect(small["blocks.2.mixer.k.weight"]).not.toBe(small["blocks.2.mixer.q.weight"]!);
  });

  /** Mean, standard deviation and the largest size that a rule allows. */
  function momentsOf(init: Initializer): { mean: number; std: number; most: number } {
    switch (init.kind) {
      case "normal":
        return { mean: 0, std: init.std, most: 7 * init.std };
      case "truncatedNormal":
        return { mean: 0, std: 0.8796 * init.std, most: 2 * init.std };
      case "uniform": {
        const half = (init.high - init.low) / 2;
        return { mean: init.low + half, std: half / Math.sqrt(3), most: Math.abs(init.low) };
      }
      default:
        return { mean: Number.NaN, std: Number.NaN, most: Number.NaN };
    }
  }

  test.each(["normal", "truncatedNormal", "uniform"] as const)("follow their rules: %s", (kind) => {
    const config = { ...wide, initDistribution: kind, initDistributionEmbed: kind };
    const model = track(xlstm(config, { seed: 11 }));
    for (const { name, init } of parameterSpecs(model.config)) {
      const data = Float64Array.from(model.parameters().get(name)!.dataSync());
      if (init.kind === "constant") {
        expect(data.every((x) => x === Math.fround(init.value))).toBe(true);
        continue;
      }
      if (init.kind === "values") {
        expect([...data]).toEqual(init.values.map(Math.fround));
        continue;
      }
      const { mean, std, most } = momentsOf(init);
      const count = data.length;
      const average = data.reduce((sum, x) => sum + x, 0) / count;
      const square = data.reduce((sum, x) => sum + (x - average) ** 2, 0) / count;
      // Four standard errors of each estimate: the seed is fixed, so this passes always or never.
      expect(Math.abs(average - mean), name).toBeLessThan((4 * std) / Math.sqrt(count));
      const spread = (4 * std) / Math.sqrt(2 * count);
      expect(Math.abs(Math.sqrt(square) - std), name).toBeLessThan(spread);
      const largest = data.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
      expect(largest, name).toBeLessThanOrEqual(most * (1 + 1e-6));
    }
  });
});

describe("threads", () => {
  const ids = tokens(3, 130);
  const next = tokens(3, 130, 4);

  /** Hashes of everything that two training steps make. */
  function train(name: ConfigName, dtype: "f32" | "f64" | "bf16") {
    const config = { ...configs[name], embeddingDim: 96, dtype };
    const model = scrambled(config);
    const optimizer = adamw(model.parameters(), { lr: 1e-3, weightDecay: 0.1, gradClipNorm: 1 });
    const facts: unknown[] = [];
    for (let step = 0; step < 2; step++) {
      using _ = scope();
      const loss = model.loss({ tokens: ids, targets: next });
      const grads = loss.backward();
      facts.push(loss.item());
      for (const grad of grads.tensors()) facts.push(Bun.hash.xxHash3(grad.bytesSync()));
      facts.push(optimizer.step(grads).norm);
    }
    facts.push(hashes(model));
    optimizer.dispose();
    model.dispose();
    return facts;
  }

  const names = ["v1", "mixed paper", "sigmoid, normalised", "biases everywhere"] as const;
  test.each(names)("%s: any number of threads gives the same training", (name) => {
    for (const dtype of ["f32", "f64", "bf16"] as const) {
      configure({ threads: 1 });
      const alone = train(name, dtype);
      for (const threads of [2, 3]) {
        configure({ threads });
        expect(train(name, dtype), `${dtype}, ${threads} threads`).toEqual(alone);
      }
    }
  });
});

describe("instruction sets", () => {
  test.each(["v1", "mixed paper", "sigmoid, plain"] as const)("%s: plain is close", (name) => {
    const model = track(scrambled({ ...configs[name], embeddingDim: 96, dtype: "f32" }));
    const ids = tokens(2, 130);
    const next = tokens(2, 130, 4);
    const run = () =>
      scope(() => {
        const grads = model.loss({ tokens: ids, targets: next }).backward();
        const list = [...model.parameters().values()];
        const slopes = list.flatMap((parameter) => [...grads.of(parameter).dataSync()]);
        return { values: logits(model, ids).flat(2), slopes };
      });
    const best = run();
    configure({ level: "plain" });
    const plain = run();
    expect(relativeError(plain.values, best.values)).toBeLessThan(1e-5);
    expect(relativeError(plain.slopes, best.slopes)).toBeLessThan(1e-4);
  });

  test("a level that is not one is refused by name", () => {
    const level = "sse9" as "plain";
    expect(() => configure({ level })).toThrow(/XL_CPU_LEVEL: sse9 is not one of plain, avx2/);
  });
});
