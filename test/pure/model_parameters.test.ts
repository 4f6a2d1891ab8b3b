// Parameter lists: exact published counts, the counting formulas, initial values.

import { describe, expect, test } from "bun:test";
import {
  mlstmWidths,
  type ModelConfig,
  type ModelConfigInput,
  resolveConfig,
} from "../../lib/nn/config.ts";
import { countParameters, elements, parameterSpecs } from "../../lib/nn/parameters.ts";
import { preset, presetNames } from "../../lib/nn/presets.ts";

const published: Record<string, number> = {
  mLSTM120M: 120_536_928,
  mLSTM165M: 163_806_144,
  "mLSTM1.3B": 1_422_559_616,
  mLSTM7B: 6_889_935_872,
  mLSTMv1_165M: 164_073_312,
  "mLSTMv1_1.3B": 1_420_839_104,
  "mLSTMv1_2.7B": 2_780_449_600,
  mLSTMv1_7B: 6_865_424_896,
};

describe("presets", () => {
  test.each(Object.entries(published))("%s has %d parameters", (name, count) => {
    expect(countParameters(preset(name))).toBe(count);
  });

  test("every preset resolves, and 7B with 30 blocks has its published size", () => {
    for (const name of presetNames) expect(preset(name).name).toBe(name);
    expect(countParameters(preset("mLSTMv1_7B", { numBlocks: 30 }))).toBe(6_462_091_744);
  });

  test("overrides merge into the sub-objects", () => {
    const config = preset("mLSTMv1_165M", { mlstm: { qkNorm: true }, contextLength: 2048 });
    expect(config.mlstm).toMatchObject({ qkNorm: true, iGateBiasInit: -10 });
    expect(config.contextLength).toBe(2048);
    expect(() => preset("mLSTMv1_7")).toThrow('did you mean "mLSTMv1_7B"?');
  });
});

const base = { vocabSize: 97, embeddingDim: 64, numBlocks: 3, numHeads: 4 };
const build = (input: Partial<ModelConfigInput>) => resolveConfig({ ...base, ...input });

const shapesOf = (input: Partial<ModelConfigInput>) =>
  Object.fromEntries(parameterSpecs(build(input)).map(({ name, shape }) => [name, shape]));

const initOf = (config: ModelConfig, name: string) =>
  parameterSpecs(config).find((spec) => spec.name === name)!.init;

/** The counting formulas of models.md §9, without linear biases. */
const formulas = {
  v1(config: ModelConfig): number {
    const D = config.embeddingDim;
    const NH = config.mlstm.numHeads;
    const { query: Qd, value: Vd } = mlstmWidths(config, "v1");
    const ffn = 3 * D * config.ffn.hiddenDim;
    return 2 * D + 2 * D * Qd + 2 * D * Vd + Vd * D + 2 * (D * NH + NH) + Vd + ffn;
  },
  paper(config: ModelConfig): number {
    const { embeddingDim: D, mlstm } = config;
    const { inner: I, query: Qd, value: Vd } = mlstmWidths(config, "paper");
    const { numHeads: NH, convKernelSize: k, qkvBlockSize: bs } = mlstm;
    const gates = 2 * ((2 * Qd + Vd) * NH + NH);
    const skip = Vd === I ? 0 : bs * Vd;
    const dense = D + D * I + D * Vd + (k + 1) * I + bs * (2 * Qd + Vd);
    return dense + gates + 2 * Vd + Vd * D + skip;
  },
  slstm(config: ModelConfig): number {
    const { embeddingDim: D, slstm } = config;
    const DH = D / slstm.numHeads;
    const conv = (slstm.convKernelSize + 1) * D;
    const recurrent = 8 * slstm.numHeads * DH * DH;
    return 2 * D + conv + recurrent + 4 * D + D + 3 * D * config.slstmFfn.hiddenDim;
  },
};

describe("counting formulas", () => {
  const cases: [keyof typeof formulas, Partial<ModelConfigInput>][] = [
    ["v1", {}],
    ["v1", { mlstm: { qkDimFactor: 1, vDimFactor: 2 } }],
    ["paper", { block: "paper" }],
    ["paper", { block: "paper", mlstm: { qkDimFactor: 0.5, vDimFactor: 0.5, convKernelSize: 2 } }],
    ["slstm", { block: "slstm" }],
    ["slstm", { slstmAt: "all", slstm: { convKernelSize: 3 }, slstmFfn: { hiddenDim: 100 } }],
  ];
  test.each(cases)("%s %j", (kind, input) => {
    const config = build(input);
    const { vocabSize: V, embeddingDim: D, numBlocks: L } = config;
    expect(countParameters(config)).toBe(L * formulas[kind](config) + 2 * V * D + D);
  });

  test("published block sizes", () => {
    expect(formulas.v1(preset("mLSTMv1_7B"))).toBe(201_666_576);
    expect(formulas.paper(preset("mLSTM120M"))).toBe(3_605_768);
    expect(formulas.paper(preset("mLSTM1.3B"))).toBe(25_344_008);
    expect(formulas.paper(preset("mLSTM7B"))).toBe(101_216_272);
  });

  test("a mixed stack is the sum of its blocks", () => {
    const config = build({ block: "paper", slstmAt: [1] });
    const { vocabSize: V, embeddingDim: D } = config;
    const blocks = 2 * formulas.paper(config) + formulas.slstm(config);
    expect(countParameters(config)).toBe(blocks + 2 * V * D + D);
  });

  test("a tied table counts once", () => {
    const untied = countParameters(build({}));
    expect(countParameters(build({ tieEmbeddings: true }))).toBe(untied - 97 * 64);
  });
});

describe("names and shapes", () => {
  test("names are unique, whatever is turned on", () => {
    for (const block of ["v1", "paper", "slstm"] as const) {
      const specs = parameterSpecs(
        build({ block, useBias: true, postNorm: true, normBias: "all" }),
      );
      expect(new Set(specs.map(({ name }) => name)).size).toBe(specs.length);
    }
  });

  test("biases", () => {
    const shapes = shapesOf({ useBias: true });
    expect(shapes["blocks.0.mixer.q.bias"]).toEqual([32]);
    expect(shapes["blocks.2.ffn.down.bias"]).toEqual([64]);
    expect(shapes["blocks.0.mixer_norm.bias"]).toBeUndefined();
    expect(shapes["lm_head.bias"]).toBeUndefined();
    const norms = shapesOf({ normBias: "blocks" });
    expect(norms["blocks.0.mixer.head_norm.bias"]).toEqual([64]);
    expect(norms["out_norm.bias"]).toBeUndefined();
    expect(shapesOf({ normBias: "all" })["out_norm.bias"]).toEqual([64]);
  });

  test("paper block with narrow values, query norms and head-wise gates", () => {
    const mlstm = { vDimFactor: 0.5, qkDimFactor: 0.5, qkNorm: true, gateHeadwise: true };
    const shapes = shapesOf({ block: "paper", mlstm, postNorm: true });
    expect(shapes["blocks.1.mixer.skip_proj.weight"]).toEqual([32, 2, 4]);
    expect(shapes["blocks.1.mixer.q.weight"]).toEqual([32, 2, 4]);
    expect(shapes["blocks.1.mixer.i_gate.weight"]).toEqual([4, 1, 48]);
    expect(shapes["blocks.1.mixer.k_norm.scale"]).toEqual([16]);
    expect(shapes["blocks.1.mixer_post_norm.scale"]).toEqual([64]);
    expect(shapes["blocks.1.ffn_norm.scale"]).toBeUndefined();
  });

  test("gate input other than q, k and v", () => {
    const shapes = shapesOf({ block: "paper", mlstm: { gateInput: "conv" } });
    expect(shapes["blocks.0.mixer.f_gate.weight"]).toEqual([4, 128]);
  });

  test("decay acts on weights alone", () => {
    const decayed = parameterSpecs(build({ slstmAt: [0], useBias: true }))
      .filter(({ decay }) => decay)
      .map(({ name }) => name);
    expect(decayed).toContain("blocks.0.mixer.conv.weight");
    expect(decayed).toContain("lm_head.weight");
    for (const name of decayed) expect(name).not.toMatch(/table|bias|scale|skip|recurrent/);
  });
});

describe("initial values", () => {
  test.each([
    ["mLSTMv1_165M", 0.022822, 0.0060141],
    ["mLSTM165M", 0.022822, 0.003007],
    ["mLSTMv1_1.3B", 0.013975, 0.0018414],
    ["mLSTM1.3B", 0.013975, 0.00092071],
    ["mLSTMv1_2.7B", 0.0125, 0.0012353],
    ["mLSTMv1_7B", 0.0098821, 0.00097656],
  ])("%s: small %f, wang %f", (name, small, wang) => {
    const config = preset(name);
    const up = config.block === "paper" ? "mixer.up.weight" : "ffn.up.weight";
    const std = (parameter: string) => (initOf(config, parameter) as { std: number }).std;
    expect(std("embedding.table") / small).toBeCloseTo(1, 4);
    expect(std(`blocks.0.${up}`) / small).toBeCloseTo(1, 4);
    expect(std("blocks.0.mixer.out.weight") / wang).toBeCloseTo(1, 4);
  });

  test("gates, norms, skip, output gate", () => {
    const config = build({ block: "paper", mlstm: { iGateBiasInit: "normal" } });
    expect(initOf(config, "blocks.0.mixer.i_gate.bias")).toEqual({ kind: "normal", std: 0.1 });
    const forget = initOf(config, "blocks.0.mixer.f_gate.bias");
    expect(forget).toEqual({ kind: "values", values: [3, 4, 5, 6] });
    expect(initOf(preset("mLSTMv1_7B"), "blocks.0.mixer.i_gate.bias")).toEqual({
      kind: "constant",
      value: -10,
    });
    const eight = initOf(preset("mLSTMv1_7B"), "blocks.0.mixer.f_gate.bias");
    const rounded = (eight as { values: readonly number[] }).values.map((x) => x.toFixed(4));
    expect(rounded.slice(0, 3)).toEqual(["3.0000", "3.4286", "3.8571"]);
    expect(rounded.at(-1)).toBe("6.0000");
    expect(initOf(config, "blocks.0.mixer.skip")).toEqual({ kind: "constant", value: 1 });
    const residual = build({ normResidualScale: true });
    expect(initOf(residual, "out_norm.scale")).toEqual({ kind: "constant", value: 0 });
    expect(initOf(residual, "blocks.0.mixer.o.weight")).toEqual({ kind: "constant", value: 0 });
    const conv = initOf(config, "blocks.0.mixer.conv.weight");
    expect(conv).toEqual({ kind: "uniform", low: -0.5, high: 0.5 });
  });

  test("sLSTM forget bias falls from 5 to -7, steeper in higher blocks", () => {
    const config = build({ block: "slstm" });
    for (const [block, power] of [
      [0, 0.3],
      [1, 0.95],
      [2, 1.6],
    ] as const) {
      const init = initOf(config, `blocks.${block}.mixer.cell_bias`);
      const values = (init as { values: readonly number[] }).values;
      expect(values).toHaveLength(4 * 64);
      const forget = values.slice(64, 128);
      expect(values.filter((x) => x !== 0)).toHaveLength(forget.filter((x) => x !== 0).length);
      expect([forget[16], forget[31]]).toEqual([5, -7]);
      expect(forget[1]).toBeCloseTo(5 - 12 * (1 / 15) ** power, 12);
    }
  });

  test("uniform has the same standard deviation", () => {
    const config = build({ initDistribution: "uniform" });
    const init = initOf(config, "blocks.0.ffn.up.weight") as { low: number; high: number };
    expect((init.high - init.low) / Math.sqrt(12)).toBeCloseTo(Math.sqrt(2 / (5 * 64)), 12);
    expect(elements([2, 3, 4])).toBe(24);
  });
});
