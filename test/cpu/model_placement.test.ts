// Models that are spread over a mesh: every rank has its part of the names, shapes and values of
// one process, and stages in a row compute what one process computes.

import { afterEach, describe, expect, test } from "bun:test";
import { Group } from "../../lib/mesh/group.ts";
import { elementRuns } from "../../lib/mesh/placement.ts";
import type { ModelMesh } from "../../lib/nn/context.ts";
import { type ModelConfigInput, type ModelOptions, XLSTM, xlstm } from "../../lib/nn/index.ts";
import type { Parameter } from "../../lib/nn/parameter.ts";
import { scope, type Tensor } from "../../lib/tensor/index.ts";
import {
  forwardOptions,
  parallelBatch,
  parallelConfigs,
  parallelModel,
  type ParallelName,
  parallelNames,
} from "../helpers/parallel_cases.ts";

/** A rank of a mesh whose other ranks are never asked for anything. */
function rankOf(
  sizes: { tp?: number; pp?: number; cp?: number },
  at: { tp?: number; pp?: number },
) {
  const size = (axis: string) => (sizes as Record<string, number>)[axis] ?? 1;
  const coordinate = (axis: string) => (at as Record<string, number>)[axis] ?? 0;
  const group = (axis: string) => {
    const ranks = Array.from({ length: size(axis) }, (_, i) => i);
    return new Group({ id: 0, name: axis, rank: coordinate(axis), ranks, device: "cpu" });
  };
  return { size, coordinate, group } as ModelMesh;
}

const disposables: { dispose(): void }[] = [];

afterEach(() => {
  for (const item of disposables.splice(0)) item.dispose();
});

function build(config: ModelConfigInput, options: ModelOptions & { seed?: number } = {}): XLSTM {
  const model = xlstm(config, options);
  disposables.push(model);
  return model;
}

/** The parameters of all ranks of tp, by name. */
function partsOf(config: ModelConfigInput, tp: number, options: ModelOptions = {}) {
  const models = Array.from({ length: tp }, (_, rank) =>
    build(config, { ...options, seed: 5, mesh: rankOf({ tp }, { tp: rank }) }),
  );
  const names = [...models[0]!.parameters().keys()];
  return new Map(names.map((name) => [name, models.map((model) => model.parameters().get(name)!)]));
}

/** Random values in every parameter, biases and norms included. */
const drawn = {
  initDistribution: "truncatedNormal",
  outputInit: "small",
  slstm: { recurrentInit: "standard", biasInit: "standard" },
} as const;

describe("tp: names, shapes and values are those of one process", () => {
  const kinds = {
    v1: { ...parallelConfigs["biases everywhere"], ...drawn },
    paper: { ...parallelConfigs["paper with biases, layer norms"], initDistribution: "uniform" },
    "paper, gates by head": parallelConfigs["paper, gates by head"],
    "narrow values": parallelConfigs["paper, narrow values"],
    "query and key norms": parallelConfigs["query and key norms"],
    "power law of sLSTM biases": parallelConfigs.mixed,
  } as const;

  test.each(Object.entries(kinds))("%s", (_, config) => {
    const whole = build(config as ModelConfigInput, { seed: 5 });
    for (const tp of [2, 4]) {
      const parts = partsOf(config as ModelConfigInput, tp);
      expect([...parts.keys()]).toEqual([...whole.parameters().keys()]);
      for (const [name, ranks] of parts) {
        const wanted = whole.parameters().get(name)!;
        expect(ranks.map(({ placement }) => placement.globalShape)).toEqual(
          ranks.map(() => wanted.shape),
        );
        const covered = new Map<number, number>();
        const values = wanted.dataSync();
        for (const parameter of ranks) {
          const got = parameter.dataSync();
          let at = 0;
          for (const [first, length] of elementRuns(parameter.placement, 0, parameter.size)) {
            expect(got.slice(at, at + length), name).toEqual(values.slice(first, first + length));
            for (let i = first; i < first + length; i++) covered.set(i, (covered.get(i) ?? 0) + 1);
            at += length;
          }
          expect(at).toBe(parameter.size);
        }
        const isCut = ranks[0]!.size < wanted.size;
        expect(covered.size, name).toBe(wanted.size);
        expect(new Set(covered.values()), name).toEqual(new Set([isCut ? 1 : tp]));
      }
    }
  });
});

test("matrices are cut; what is whole is summed where ranks do different work with it", () => {
  const config = { ...parallelConfigs["biases everywhere"], postNorm: true } as ModelConfigInput;
  const wholeOf = (options: ModelOptions) => {
    const parts = [...partsOf(config, 2, options)].filter(
      ([, [first]]) => first!.size === first!.placement.globalShape.reduce((a, b) => a * b, 1),
    );
    return new Map(parts.map(([name, [first]]) => [name, first!.partial]));
  };
  const stream = /(_norm\.(scale|bias)|mixer\.out\.bias|ffn\.down\.bias)$/;
  const sequence = wholeOf({});
  expect(sequence.size).toBeGreaterThan(15);
  for (const [name, partial] of sequence) {
    expect(name).toMatch(stream);
    expect(partial).toEqual(["tp"]);
  }
  const replicated = wholeOf({ residual: "replicated" });
  expect([...replicated.keys()]).toEqual([...sequence.keys()]);
  for (const partial of replicated.values()) expect(partial).toEqual([]);
  const norms = partsOf(parallelConfigs["query and key norms"] as ModelConfigInput, 2, {
    residual: "replicated",
  });
  expect(norms.get("blocks.0.mixer.q_norm.scale")![0]!.partial).toEqual(["tp"]);
  expect(norms.get("blocks.0.mixer.head_norm.scale")![0]!.partial).toEqual([]);
});

describe("sizes that do not fit", () => {
  const wrong: [string, ModelConfigInput, Parameters<typeof rankOf>[0], RegExp][] = [
    ["heads", parallelConfigs.v1, { tp: 3 }, /mlstm.numHeads: 4 heads .* by tp 3/],
    [
      "sLSTM heads",
      { ...parallelConfigs.mixed, slstm: { numHeads: 2 } } as ModelConfigInput,
      { tp: 4 },
      /slstm.numHeads: 2 heads .* by tp 4/,
    ],
    [
      "columns",
      { ...parallelConfigs.v1, ffn: { hiddenDim: 10 } } as ModelConfigInput,
      { tp: 4 },
      /ffn.hiddenDim: 10 columns .* by tp 4/,
    ],
    [
      "vocabulary",
      { ...parallelConfigs.v1, vocabSize: 9 },
      { tp: 4 },
      /vocabSize: 9 ids, 3 per rank/,
    ],
    ["stages", parallelConfigs.v1, { pp: 3 }, /stages: 2 blocks are fewer than the 3 stages/],
    ["context", parallelConfigs.v1, { cp: 2 }, /mesh.cp: cp is 2/],
  ];
  test.each(wrong)("%s", (_, config, sizes, message) => {
    expect(() => build(config, { mesh: rankOf(sizes, {}) })).toThrow(message);
  });

  test("a sequence", () => {
    const model = build(parallelConfigs.v1 as ModelConfigInput, { mesh: rankOf({ tp: 2 }, {}) });
    const tokens = { data: new Int32Array(5), shape: [1, 5] };
    expect(() => model.embed(tokens)).toThrow(/5 tokens .* by tp 2; .* residual: "replicated"/);
  });
});

/** The stages of a model in one process, in f32: the kernels of f64 round in between everywhere. */
function stagesOf(name: ParallelName, sizes: readonly number[], options: ModelOptions = {}) {
  return sizes.map((_, pp) => {
    const mesh = rankOf({ pp: sizes.length }, { pp });
    const model = parallelModel(name, { ...options, dtype: "f32", mesh, stages: sizes });
    disposables.push(model);
    return model;
  });
}

/** Loss and gradients of a batch that goes through the stages and back. */
function through(stages: readonly XLSTM[]): { loss: number; gradients: Map<string, Tensor[]> } {
  const batch = parallelBatch(61);
  const ends: { x: Tensor | undefined; y: Tensor }[] = [];
  let x: Tensor | undefined;
  for (const model of stages) {
    const y = model.stage.run(batch, x, forwardOptions);
    ends.push({ x, y });
    x = y.detach().requireGrad();
  }
  const loss = ends.at(-1)!.y.item();
  const gradients = new Map<string, Tensor[]>();
  let dy: Tensor | undefined;
  for (const [i, { x: from, y }] of [...ends.entries()].toReversed()) {
    const grads = y.backward(dy);
    for (const parameter of stages[i]!.parameters().values()) {
      const { name } = parameter;
      gradients.set(name, [...(gradients.get(name) ?? []), grads.of(parameter)]);
    }
    dy = from && grads.of(from);
  }
  return { loss, gradients };
}

const bits = (x: Tensor) => Bun.hash.xxHash3(x.bytesSync()).toString(16);

describe("pp: stages in a row give the bits of one process", () => {
  const runs: [ParallelName, number[], ModelOptions][] = [
    ...parallelNames.map((name): [ParallelName, number[], ModelOptions] => [name, [1, 1], {}]),
    ["v1", [1, 1], { recompute: "block" }],
    ["mixed", [1, 1], { recompute: "half" }],
  ];
  test.each(runs)("%s in %p, %j", (name, sizes, options) => {
    using _ = scope();
    const alone = stagesOf(name, [2])[0]!;
    const want = through([alone]);
    const stages = stagesOf(name, sizes, options);
    const got = through(stages);
    expect(got.loss).toBe(want.loss);
    expect([...got.gradients.keys()].sort()).toEqual([...want.gradients.keys()].sort());
    for (const [parameter, [gradient]] of want.gradients) {
      const [first, second] = got.gradients.get(parameter)!;
      // A tied table has a copy on either stage, with a gradient of its own.
      const whole = second ? first!.add(second) : first!;
      expect(bits(whole), parameter).toBe(bits(gradient!));
      const { partial } = stages[0]!.parameters().get(parameter) ?? { partial: [] };
      expect(partial).toEqual(second ? ["pp"] : []);
    }
  });

  test("a call for another stage is refused", () => {
    const [first, last] = stagesOf("v1", [1, 1]) as [XLSTM, XLSTM];
    const batch = parallelBatch(61);
    expect(() => last.embed(batch.tokens)).toThrow(/embed\(\): this is stage 1 of 2; .* the first/);
    expect(() => first.lossSum(batch)).toThrow(/stage 0 of 2; use embed\(\), advance\(\)/);
    const x = scope(() => first.embed(batch.tokens));
    expect(() => first.lossOf(x, batch)).toThrow(/lossOf\(\): this is stage 0 of 2; .* the last/);
    expect(last.toString()).toContain("blocks.1.mixer (v1)");
    expect(last.toString()).not.toContain("blocks.0");
  });
});

test("a part of a checkpoint is loaded from the whole", () => {
  const config = parallelConfigs["biases everywhere"] as ModelConfigInput;
  const whole = build(config, { seed: 9 });
  const mesh = rankOf({ tp: 2 }, { tp: 1 });
  const drawnHere = build(config, { seed: 9, mesh });
  const loaded = build(config, { seed: 1, mesh });
  loaded.load(whole.parameters());
  const same = (name: string) => {
    const of = (model: XLSTM): Parameter => model.parameters().get(name)!;
    return bits(of(loaded)) === bits(of(drawnHere));
  };
  expect([...whole.parameters().keys()].filter((name) => !same(name))).toEqual([]);
  const name = "blocks.0.mixer.out.weight";
  const wrong = new Map(whole.parameters()).set(name, whole.parameters().get("out_norm.scale")!);
  expect(() => loaded.load(wrong)).toThrow(`load(): ${name} has shape [16], expected [16,16]`);
});
