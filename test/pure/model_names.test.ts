// Name maps: every reference checkpoint maps completely, every map is undone exactly, and the
// conversions that are easy to get wrong land where the formulas say.

import { describe, expect, test } from "bun:test";
import {
  configFromHuggingFace,
  configFromJax,
  configFromLegacy,
  configFromXlstmLarge,
  type ImportedConfig,
} from "../../lib/nn/config_import.ts";
import { type ModelConfigInput, resolveConfig } from "../../lib/nn/config.ts";
import {
  detectFormat,
  exportTensors,
  type FormatName,
  type FormatOptions,
  importTensors,
  nameMap,
  NameMapError,
} from "../../lib/nn/names.ts";
import { parameterSpecs } from "../../lib/nn/parameters.ts";
import { at, counted, type PlainArray, plainOps } from "./plain_array.ts";

interface Fixture {
  readonly config: Record<string, unknown>;
  readonly tensors: Record<string, number[]>;
}

const references: [string, FormatName, (fields: Fixture["config"]) => ImportedConfig][] = [
  ["train_v1", "jax", configFromJax],
  ["train_paper", "jax", configFromJax],
  ["xlstm_v1_mixed", "legacy", configFromLegacy],
  ["xlstm_large_tiny", "xlstmLarge", configFromXlstmLarge],
  ["hf_xlstm_tiny", "huggingFace", configFromHuggingFace],
];

async function fixture(name: string): Promise<Fixture> {
  return await Bun.file(`${import.meta.dir}/../fixtures/names/${name}.json`).json();
}

/** Arrays of these shapes, no two elements alike. */
function fill(shapes: Iterable<readonly [string, readonly number[]]>): Map<string, PlainArray> {
  let first = 1;
  const result = new Map<string, PlainArray>();
  for (const [name, shape] of shapes) {
    const array = counted(shape, first);
    first += array.data.length;
    result.set(name, array);
  }
  return result;
}

function parametersOf(config: ReturnType<typeof resolveConfig>): Map<string, PlainArray> {
  return fill(parameterSpecs(config).map(({ name, shape }) => [name, shape] as const));
}

function sorted(arrays: ReadonlyMap<string, PlainArray>) {
  return [...arrays].sort(([a], [b]) => (a < b ? -1 : 1));
}

describe("reference checkpoints", () => {
  test.each(references)("%s maps completely, and back", async (name, format, importConfig) => {
    const { config: fields, tensors: shapes } = await fixture(name);
    const { config, notices } = importConfig(fields);
    expect(notices).toEqual([]);
    const resolved = resolveConfig(config);
    const detected = detectFormat(new Map(Object.entries(shapes)));
    expect(detected.format).toBe(format);
    const map = nameMap(resolved, detected.format, detected.options);
    const theirs = fill(Object.entries(shapes));
    const ours = importTensors(map, theirs, plainOps);
    const specs = parameterSpecs(resolved);
    expect([...ours.keys()].sort()).toEqual(specs.map((spec) => spec.name).sort());
    for (const spec of specs) expect(ours.get(spec.name)!.shape).toEqual(spec.shape);
    expect(sorted(exportTensors(map, ours, plainOps))).toEqual(sorted(theirs));
  });
});

const size = { vocabSize: 30, embeddingDim: 32, numBlocks: 2, numHeads: 2 };
const variants: [string, FormatName, FormatOptions, Partial<ModelConfigInput>][] = [
  ["stacked v1", "jax", { stacked: true }, { mlstm: { qkNorm: true }, postNorm: true }],
  ["stacked paper", "jax", { stacked: true }, { block: "paper" }],
  ["paper, q and k in one", "jax", { fusedQueryKey: true }, { block: "paper" }],
  ["stacked, q and k in one", "jax", { stacked: true, fusedQueryKey: true }, { block: "paper" }],
  [
    "head-wise gates, narrow values",
    "jax",
    {},
    { block: "paper", mlstm: { gateHeadwise: true, vDimFactor: 0.5 } },
  ],
  ["cuda sLSTM", "legacy", { slstmLayout: "cuda" }, { block: "paper", slstmAt: [1] }],
  ["pure sLSTM, tied", "legacy", {}, { block: "slstm", tieEmbeddings: true }],
  ["fused", "xlstmLarge", { fusedWeights: true }, {}],
  ["fused, biases", "xlstmLarge", { fusedWeights: true }, { useBias: true, normBias: "all" }],
  ["biases", "huggingFace", {}, { useBias: true, normBias: "blocks" }],
  ["tied", "huggingFace", {}, { tieEmbeddings: true }],
  ["tied, transposed head", "jax", {}, { tieEmbeddings: true }],
];

describe("round trips", () => {
  test.each(variants)("%s (%s %j %j)", (_, format, options, input) => {
    const config = resolveConfig({ ...size, ...input });
    const map = nameMap(config, format, options);
    const ours = parametersOf(config);
    const theirs = exportTensors(map, ours, plainOps);
    for (const { theirs: name, shape } of map.entries) {
      expect(theirs.get(name)!.shape).toEqual(shape);
    }
    expect(sorted(importTensors(map, theirs, plainOps))).toEqual(sorted(ours));
    const shapes = new Map([...theirs].map(([name, { shape }]) => [name, shape] as const));
    const detected = detectFormat(shapes);
    expect(detected.format).toBe(format);
    expect(detected.options).toMatchObject(options);
  });
});

describe("where elements land", () => {
  const mixed = resolveConfig({ ...size, block: "paper", slstmAt: [1] });
  const block = "xlstm_block_stack.blocks.1.xlstm";

  function legacyOf(layout: "vanilla" | "cuda") {
    const map = nameMap(mixed, "legacy", { slstmLayout: layout });
    const ours = parametersOf(mixed);
    return { ours, theirs: exportTensors(map, ours, plainOps) };
  }

  test("the sLSTM's input and forget gates cross", () => {
    const { ours, theirs } = legacyOf("vanilla");
    const input = ours.get("blocks.1.mixer.i_gate.weight")!;
    expect(theirs.get(`${block}.fgate.weight`)!.data).toEqual(input.data);
    const forget = ours.get("blocks.1.mixer.f_gate.weight")!;
    expect(theirs.get(`${block}.igate.weight`)!.data).toEqual(forget.data);
  });

  test("recurrent weights and biases, vanilla and cuda", () => {
    const width = 16;
    const [gate, head, from, out] = [2, 1, 3, 5];
    const vanilla = legacyOf("vanilla");
    const value = at(vanilla.ours.get("blocks.1.mixer.recurrent")!, gate, head, from, out);
    const kernel = (theirs: Map<string, PlainArray>) =>
      theirs.get(`${block}.slstm_cell._recurrent_kernel_`)!;
    expect(at(kernel(vanilla.theirs), head, gate * width + out, from)).toBe(value);
    const cuda = legacyOf("cuda");
    expect(at(kernel(cuda.theirs), head, from, gate * width + out)).toBe(value);
    const bias = at(vanilla.ours.get("blocks.1.mixer.cell_bias")!, gate, head, out);
    const flat = (theirs: Map<string, PlainArray>) => theirs.get(`${block}.slstm_cell._bias_`)!;
    expect(at(flat(vanilla.theirs), (gate * 2 + head) * width + out)).toBe(bias);
    expect(at(flat(cuda.theirs), (head * 4 + gate) * width + out)).toBe(bias);
  });

  test("up before z, gate before up", () => {
    const { ours, theirs } = legacyOf("vanilla");
    const up = theirs.get("xlstm_block_stack.blocks.0.xlstm.proj_up.weight")!;
    expect(at(up, 0, 3)).toBe(at(ours.get("blocks.0.mixer.up.weight")!, 0, 3));
    expect(at(up, 64, 3)).toBe(at(ours.get("blocks.0.mixer.z.weight")!, 0, 3));
    const ffn = theirs.get("xlstm_block_stack.blocks.1.ffn.proj_up.weight")!;
    expect(at(ffn, 0, 3)).toBe(at(ours.get("blocks.1.ffn.gate.weight")!, 0, 3));
    expect(at(ffn, 64, 3)).toBe(at(ours.get("blocks.1.ffn.up.weight")!, 0, 3));
  });

  test("JAX dense and convolution kernels, stacked", () => {
    const config = resolveConfig({ ...size, block: "paper" });
    const ours = parametersOf(config);
    const map = nameMap(config, "jax", { stacked: true, fusedQueryKey: true });
    const theirs = exportTensors(map, ours, plainOps);
    const path = "xlstm_block_stack.blocks.block.xlstm_res_block.xlstm";
    const up = theirs.get(`${path}.proj_up_mlstm.Dense_0.kernel`)!;
    expect(at(up, 1, 5, 7)).toBe(at(ours.get("blocks.1.mixer.up.weight")!, 7, 5));
    const conv = theirs.get(`${path}.inner_layer.sharded.conv1d.conv.kernel`)!;
    expect(at(conv, 1, 0, 2, 0, 9)).toBe(at(ours.get("blocks.1.mixer.conv.weight")!, 9, 2));
    const pair = theirs.get(`${path}.inner_layer.sharded.qk_proj.kernel`)!;
    expect(at(pair, 1, 0, 1, 3, 2, 1)).toBe(at(ours.get("blocks.1.mixer.k.weight")!, 3, 2, 1));
  });

  test("fused rows are q, k, v, o; i, f; gate, up", () => {
    const config = resolveConfig(size);
    const ours = parametersOf(config);
    const map = nameMap(config, "xlstmLarge", { fusedWeights: true });
    const theirs = exportTensors(map, ours, plainOps);
    const layer = "backbone.blocks.0";
    const rows = theirs.get(`${layer}.mlstm_layer.qkv_opreact.weight`)!;
    const starts = { q: 0, k: 16, v: 32, o: 64 };
    for (const [name, start] of Object.entries(starts)) {
      expect(at(rows, start, 1)).toBe(at(ours.get(`blocks.0.mixer.${name}.weight`)!, 0, 1));
    }
    const gates = theirs.get(`${layer}.mlstm_layer.ifgate_preact.bias`)!;
    expect(at(gates, 2)).toBe(at(ours.get("blocks.0.mixer.f_gate.bias")!, 0));
    const ffn = theirs.get(`${layer}.ffn.proj_up_gate_z.weight`)!;
    expect(at(ffn, 0, 0)).toBe(at(ours.get("blocks.0.ffn.gate.weight")!, 0, 0));
  });
});

function errorOf(run: () => unknown): NameMapError {
  try {
    run();
  } catch (error) {
    if (error instanceof NameMapError) return error;
    throw error;
  }
  throw new Error("no NameMapError was thrown");
}

describe("errors", () => {
  const config = resolveConfig(size);
  const map = nameMap(config, "huggingFace");
  const complete = () => exportTensors(map, parametersOf(config), plainOps);

  test("missing, left over and misshapen tensors are all listed", () => {
    const theirs = complete();
    theirs.delete("lm_head.weight");
    theirs.set("extra.weight", counted([2]));
    theirs.set("backbone.out_norm.weight", counted([5]));
    const error = errorOf(() => importTensors(map, theirs, plainOps));
    expect(error.missing).toEqual(["lm_head.weight"]);
    expect(error.unused).toEqual(["extra.weight"]);
    expect(error.message).toContain("backbone.out_norm.weight is [5] instead of [32]");
  });

  test("missing parameters at export", () => {
    const ours = parametersOf(config);
    ours.delete("out_norm.scale");
    expect(errorOf(() => exportTensors(map, ours, plainOps)).missing).toEqual(["out_norm.scale"]);
  });

  test("a format without a place for a parameter", () => {
    const mixed = resolveConfig({ ...size, slstmAt: [1] });
    const error = errorOf(() => nameMap(mixed, "huggingFace"));
    expect(error.message).toContain("without a name there");
    expect(error.message).toContain("blocks.1.mixer.recurrent");
  });

  test("a copy of a tied table may be missing, and must be equal", () => {
    const tied = resolveConfig({ ...size, tieEmbeddings: true });
    const tiedMap = nameMap(tied, "huggingFace");
    const theirs = exportTensors(tiedMap, parametersOf(tied), plainOps);
    const copy = theirs.get("lm_head.weight")!;
    expect(copy.data).toEqual(theirs.get("backbone.embeddings.weight")!.data);
    theirs.set("lm_head.weight", counted(copy.shape, 7));
    const error = errorOf(() => importTensors(tiedMap, theirs, plainOps));
    expect(error.message).toContain("different from the tied table (1): lm_head.weight");
    theirs.delete("lm_head.weight");
    expect(importTensors(tiedMap, theirs, plainOps).size).toBe(parameterSpecs(tied).length);
  });

  test("formats that cannot be told or read", () => {
    expect(() => detectFormat(new Map([["a.b", [1]]]))).toThrow("no known naming");
    const split = new Map([["x.proj_up.module.sharded.kernel", [1, 2]]]);
    expect(() => detectFormat(split)).toThrow("tensor-parallel size 1");
  });
});

describe("imported configurations", () => {
  test("hidden widths follow each implementation's own rounding", () => {
    const large = { embedding_dim: 768, num_heads: 4, num_blocks: 1, vocab_size: 64 };
    const hidden = (config: ModelConfigInput) => resolveConfig(config).ffn.hiddenDim;
    expect(hidden(configFromHuggingFace(large).config)).toBe(2048);
    expect(hidden(configFromHuggingFace({ ...large, embedding_dim: 4096 }).config)).toBe(10944);
    const jax = { layer: "mlstm_v1", ffn_proj_factor: 2.667, ...large };
    expect(hidden(configFromJax(jax).config)).toBe(2112);
  });

  test("soft caps, aliases, unknown keys and ties", () => {
    const { config, notices } = configFromHuggingFace({
      hidden_size: 64,
      num_hidden_layers: 3,
      num_heads: 4,
      vocab_size: 96,
      gate_soft_cap: null,
      tie_word_embeddings: true,
      surprise: 1,
    });
    const resolved = resolveConfig(config);
    expect([resolved.embeddingDim, resolved.numBlocks]).toEqual([64, 3]);
    expect([resolved.mlstm.gateSoftCap, resolved.logitSoftCap]).toEqual([null, 30]);
    expect(resolved.tieEmbeddings).toBeFalse();
    expect(notices.join()).toContain("tie_word_embeddings was ignored");
    expect(notices.join()).toContain("surprise = 1 is unknown");
  });

  test("JAX: gelu is the tanh form, resets are soft", () => {
    const jax = { layer: "mlstm_v1", vocab_size: 64, embedding_dim: 32, num_blocks: 1 };
    const resolved = resolveConfig(configFromJax({ ...jax, act: "gelu", reset: true }).config);
    expect(resolved.ffn.activation).toBe("geluTanh");
    expect(resolved.mlstm).toMatchObject({ resetMode: "soft", resetForgetValue: -25 });
    expect(resolved.logitSoftCap).toBeNull();
    expect(() => configFromJax({ ...jax, layer: "mlstm_v3" })).toThrow("layer or layer_type");
  });

  test("legacy: exact gelu, residual scales, no caps, blocks of one kind alone", () => {
    const legacy = { vocab_size: 50, embedding_dim: 32, num_blocks: 2 };
    const pure = resolveConfig(configFromLegacy({ ...legacy, slstm_at: "all" }).config);
    expect(pure.slstmFfn.activation).toBe("gelu");
    expect([pure.normResidualScale, pure.mlstm.headNormEps]).toEqual([true, 1e-5]);
    const none = resolveConfig(configFromLegacy({ ...legacy, tie_weights: true }).config);
    expect([none.tieEmbeddings, none.slstmAt.length]).toEqual([true, 0]);
    expect(() => configFromLegacy({ ...legacy, num_heads: "four" })).toThrow(
      'num_heads: expected a number, got "four"',
    );
  });
});
