// Model configurations: defaults, derived widths, and that every wrong or idle setting is named.

import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../lib/config/errors.ts";
import { closest, editDistance } from "../../lib/config/suggest.ts";
import { blockKinds, type ModelConfigInput, resolveConfig } from "../../lib/nn/config.ts";

const small = { vocabSize: 256, embeddingDim: 128, numBlocks: 4 };

function messageOf(input: object): string {
  try {
    resolveConfig(input as ModelConfigInput);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return "accepted";
}

describe("defaults", () => {
  test("v1: the xLSTM-7B block", () => {
    const config = resolveConfig(small);
    expect(config.block).toBe("v1");
    expect(config.mlstm).toMatchObject({ qkDimFactor: 0.5, iGateBiasInit: -10, numHeads: 4 });
    expect(config.mlstm.headNormType).toBe("layernorm");
    expect(config.ffn).toMatchObject({ hiddenDim: 384, activation: "swish", useBias: false });
    expect(config.logitSoftCap).toBe(30);
    expect(config.dtype).toBe("auto");
  });

  test("paper: head norm follows the norm type", () => {
    const config = resolveConfig({ ...small, block: "paper", normType: "layernorm" });
    expect(config.mlstm).toMatchObject({ qkDimFactor: 1, iGateBiasInit: 0 });
    expect(config.mlstm.headNormType).toBe("layernorm");
    expect(resolveConfig({ ...small, block: "paper" }).mlstm.headNormType).toBe("rmsnorm");
  });

  test("sLSTM feed-forward width uses factor 1.3", () => {
    for (const [dim, hidden] of [
      [32, 64],
      [48, 64],
      [128, 192],
      [512, 704],
      [768, 1024],
    ] as const) {
      const config = resolveConfig({ ...small, embeddingDim: dim, slstmAt: "all" });
      expect(config.slstmFfn.hiddenDim).toBe(hidden);
    }
  });

  test("flat numHeads reaches every kind of block that is there", () => {
    const mixed = resolveConfig({ ...small, numHeads: 2, slstmAt: [3, 1] });
    expect([mixed.mlstm.numHeads, mixed.slstm.numHeads]).toEqual([2, 2]);
    expect(mixed.slstmAt).toEqual([1, 3]);
    expect(blockKinds(mixed)).toEqual(["v1", "slstm", "v1", "slstm"]);
    expect(resolveConfig({ ...small, numHeads: 2 }).slstm.numHeads).toBe(4);
  });

  test("nested numHeads wins over the flat one", () => {
    const config = resolveConfig({ ...small, numHeads: 2, mlstm: { numHeads: 8 } });
    expect(config.mlstm.numHeads).toBe(8);
  });

  test("dtype aliases and an explicit undefined", () => {
    expect(resolveConfig({ ...small, dtype: "bfloat16" as "bf16" }).dtype).toBe("bf16");
    expect(resolveConfig({ ...small, dtype: "float64" as "f64" }).dtype).toBe("f64");
    expect(resolveConfig({ ...small, dtype: undefined, mlstm: undefined }).dtype).toBe("auto");
  });

  test("vocabulary of a tokenizer is rounded up to 64", () => {
    const config = resolveConfig({ ...small, vocabSize: -1 }, { tokenizerSize: 50257 });
    expect(config.vocabSize).toBe(50304);
    expect(messageOf({ ...small, vocabSize: 0 })).toContain("tokenizerSize");
  });

  test("dropout and biases are inherited by the feed-forward parts", () => {
    const config = resolveConfig({ ...small, dropout: 0.1, useBias: true, slstmAt: [0] });
    expect([config.ffn.dropout, config.slstmFfn.dropout]).toEqual([0.1, 0.1]);
    expect(config.ffn.useBias).toBeTrue();
    const own = resolveConfig({ ...small, dropout: 0.1, ffn: { dropout: 0 } });
    expect(own.ffn.dropout).toBe(0);
  });
});

const variants: Record<string, Partial<ModelConfigInput>> = {
  v1: {},
  paper: { block: "paper" },
  "layernorm paper": { block: "paper", normType: "layernorm" },
  slstm: { block: "slstm" },
  "all slstm": { slstmAt: "all" },
  mixed: { slstmAt: [1], block: "paper", numHeads: 2 },
  sigmoid: { mlstm: { inputGate: "sigmoid", normalizeSigmoid: false } },
  soft: { mlstm: { resetAtDocumentBoundaries: true, resetMode: "soft" } },
  "no ffn": { ffn: { type: null } },
  dropout: { dropout: 0.1, embeddingDropout: true, slstmAt: [0] },
  tied: { tieEmbeddings: true, useBias: true },
};

test.each(Object.keys(variants))("resolving twice changes nothing: %s", (name) => {
  const once = resolveConfig({ ...small, ...variants[name] });
  const stored = JSON.parse(JSON.stringify(once));
  expect(resolveConfig(stored)).toEqual(once);
});

describe("errors", () => {
  const cases: [object, string][] = [
    [{ embedingDim: 3 }, 'embedingDim: unknown key; did you mean "embeddingDim"?'],
    [{ qkDimFactor: 0.5 }, "qkDimFactor: unknown key; it belongs into mlstm: { qkDimFactor }"],
    [{ mlstm: { numHead: 4 } }, 'mlstm.numHead: unknown key; did you mean "numHeads"?'],
    [
      { mlstm: { backend: { nam: "auto" } } },
      'mlstm.backend.nam: unknown key; did you mean "name"?',
    ],
    [{ weightDecayOnEmbedding: true }, "weightDecayOnEmbedding: unknown key; it is a setting"],
    [{ embeddingDim: "big" }, 'embeddingDim: expected number, got "big"'],
    [{ normType: "rmsnrom" }, 'did you mean "rmsnorm"?'],
    [{ logitSoftCap: -1 }, "logitSoftCap: a soft cap is above 0; use null to turn it off"],
    [{ mlstm: { gateSoftCap: 0 } }, "use null to turn it off"],
    [{ numHeads: 3 }, "mlstm.numHeads: 3 does not divide embeddingDim 128; these do: 1, 2, 4, 8"],
    [{ slstmAt: [1], slstm: { numHeads: 3 } }, "slstm.numHeads: 3 does not divide embeddingDim"],
    [{ slstmAt: [4] }, "slstmAt: 4 lies outside of 0..3 (numBlocks 4)"],
    [{ slstmAt: [1, 1] }, "slstmAt: 1 is listed twice"],
    [{ stackedLayers: true }, "stackedLayers: layers are stored one by one"],
    [{ family: "llama" }, 'family: only "xlstm"'],
    [{ mlstm: { gateDtype: "bf16" } }, 'mlstm.gateDtype: only "f32"'],
    [{ block: "paper", mlstm: { qkvBlockSize: 5 } }, "mlstm.qkvBlockSize: numHeads 4 x"],
    [{ block: "paper", mlstm: { qkDimFactor: 0.375 } }, "= 1.5 is not a whole block width"],
    [{ dropout: 1 }, "dropout: expected number to be <1, got 1"],
  ];
  test.each(cases)("%j", (input, message) => {
    expect(messageOf({ ...small, ...input })).toContain(message);
  });

  test("missing sizes are all named", () => {
    const message = messageOf({});
    for (const key of ["vocabSize", "embeddingDim", "numBlocks"]) {
      expect(message).toContain(`${key}: is required`);
    }
  });
});

test("the head norm of sLSTM blocks follows the mLSTM settings", () => {
  const mlstm = { headNormEps: 1e-5, headNormType: "rmsnorm" } as const;
  const config = resolveConfig({ ...small, slstmAt: "all", mlstm });
  expect(config.mlstm).toMatchObject(mlstm);
  const without = { ...small, slstmAt: "all", mlstm, slstm: { headNorm: false } };
  expect(messageOf(without)).toContain("mlstm.headNormEps: 0.00001 has no effect");
});

describe("settings without effect are refused", () => {
  const cases: [object, string][] = [
    [
      { mlstm: { projFactor: 3 } },
      'mlstm.projFactor: 3 has no effect: it belongs to block "paper"',
    ],
    [{ slstm: { numHeads: 2 } }, "slstm.numHeads: 2 has no effect: the model has no sLSTM block"],
    [{ block: "paper", ffn: { hiddenDim: 64 } }, "ffn.hiddenDim: 64 has no effect"],
    [
      { mlstm: { normalizeSigmoid: false } },
      "mlstm.normalizeSigmoid: false has no effect: inputGate",
    ],
    [{ slstmAt: "all", mlstm: { gateSoftCap: null } }, "mlstm.gateSoftCap: null has no effect"],
    [{ mlstm: { resetMode: "soft" } }, 'mlstm.resetMode: "soft" has no effect'],
    [{ mlstm: { resetForgetValue: -9 } }, "mlstm.resetForgetValue: -9 has no effect"],
    [
      { mlstm: { backend: { name: "parallel", chunkSize: 64 } } },
      'backend "parallel" has no chunks',
    ],
    [{ embeddingDropout: true }, "embeddingDropout: true has no effect: dropout is 0"],
    [{ tieEmbeddings: true, initDistributionOut: "uniform" }, "initDistributionOut"],
    [{ block: "slstm", slstmAt: [1] }, 'slstmAt: has no effect: block is "slstm"'],
    [
      { slstmAt: [0], slstm: { gradRecurrentCut: true, gradRecurrentClip: 1 } },
      "slstm.gradRecurrentClip: 1 has no effect",
    ],
  ];
  test.each(cases)("%j", (input, message) => {
    expect(messageOf({ ...small, ...input })).toContain(message);
  });
});

test("edit distance and nearest word", () => {
  expect(editDistance("", "abc")).toBe(3);
  expect(editDistance("kitten", "sitting")).toBe(3);
  expect(editDistance("form", "from")).toBe(1);
  expect(closest("num_heads", ["numBlocks", "numHeads"])).toBe("numHeads");
  expect(closest("zzz", ["numBlocks", "numHeads"])).toBeUndefined();
});
