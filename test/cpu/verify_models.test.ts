// Cases of whole models, made here in f64: they pass in every precision, and in bf16 by bars that
// know how far rounding moves a gradient; a gradient that is wrong passes in none.

import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { saveSafetensors } from "../../lib/checkpoint/writer.ts";
import { configFromXlstmLarge } from "../../lib/nn/config_import.ts";
import { resolveConfig } from "../../lib/nn/config.ts";
import { XLSTM } from "../../lib/nn/model.ts";
import { exportTensors, nameMap } from "../../lib/nn/names.ts";
import { tensorOps } from "../../lib/nn/names_tensor.ts";
import { add, cast, randn, scope, type Tensor, tensor } from "../../lib/tensor/index.ts";
import type { Precision } from "../../lib/verify/report.ts";
import { barsOfRounding, roundedToBf16 } from "../../lib/verify/rounding.ts";
import { runCase } from "../../lib/verify/run.ts";
import { Random } from "../helpers/random.ts";

const folder = mkdtempSync(join(tmpdir(), "xlstm-verify-models-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const fields = {
  embedding_dim: 64,
  num_heads: 4,
  num_blocks: 2,
  vocab_size: 97,
  use_bias: false,
  norm_eps: 1e-6,
  add_out_norm: true,
  qk_dim_factor: 0.5,
  v_dim_factor: 1,
  chunk_size: 16,
  eps: 1e-6,
  ffn_proj_factor: 2.6667,
  ffn_round_up_to_multiple_of: 64,
  gate_soft_cap: 15,
  output_logit_soft_cap: 30,
  weight_mode: "single",
};

/** A case of a model whose weights no training has made benign, by our f64. */
function makeCase(seed: number, change: (name: string, x: Tensor) => Tensor = (_, x) => x): string {
  const path = join(folder, `case-${seed}-${Math.random()}.safetensors`);
  scope(() => {
    const { config } = configFromXlstmLarge(fields);
    const mlstm = { ...config.mlstm, gradMode: "exact" as const };
    const dtype = "f64" as const;
    const model = new XLSTM(resolveConfig({ ...config, dtype, lmHeadDtype: dtype, mlstm }));
    model.initialize(seed);
    for (const [name, parameter] of model.parameters()) {
      const noise = randn(parameter.shape, { seed, name, std: 0.05 });
      parameter.write_(cast(add(cast(parameter.detach(), "f32"), noise), dtype));
    }
    const random = new Random(seed);
    const ids = () => tensor(random.ids(48, 97), { shape: [2, 24] });
    const [tokens, targets] = [ids(), ids()];
    const { logits } = model.forward(tokens);
    const loss = model.loss({ tokens, targets }, { train: false });
    const gradients = loss.backward();
    const map = nameMap(model.config, "xlstmLarge");
    const parameters = model.parameters();
    const own = new Map([...parameters].map(([name, x]) => [name, gradients.of(x)] as const));
    const named = (prefix: string, tensors: ReadonlyMap<string, Tensor>) =>
      [...exportTensors(map, tensors, tensorOps)].map(([name, x]) => [prefix + name, x] as const);
    const all = new Map<string, Tensor>([
      ...named("w.", parameters),
      ...named("g.", own),
      ["logits", logits],
      ["loss", loss],
      ["tokens", tokens],
      ["targets", targets],
    ]);
    const metadata = { op: '"xlstm_large"', config: JSON.stringify(fields) };
    // In f32, as the files of the public implementations.
    const stored = [...all].map(([name, x]) => {
      const kept = change(name, x);
      return [name, kept.dtype === "f64" ? cast(kept, "f32") : kept] as const;
    });
    saveSafetensors(path, stored, metadata);
    model.dispose();
  });
  return path;
}

function bad(path: string, precision: Precision): string[] {
  const { rows } = runCase(path, precision);
  expect(rows.length).toBeGreaterThan(30);
  return rows.filter(({ error, bar }) => !(error <= bar)).map(({ tensor: name }) => name);
}

describe.each([1, 2, 3, 4, 5, 6])("a model with the weights of seed %d", (seed) => {
  const path = makeCase(seed);
  test.each(["f64", "f32", "bf16"] as const)("passes in %s", (precision) => {
    expect(bad(path, precision)).toEqual([]);
  });
});

test.each(["w", "v", "q"])("a gradient that is wrong by a half is seen in bf16: %s", (which) => {
  const wrong = {
    w: "g.embedding.weight",
    v: "g.backbone.blocks.0.mlstm_layer.v.weight",
    q: "g.backbone.blocks.1.mlstm_layer.q.weight",
  }[which]!;
  const path = makeCase(1, (name, x) => (name === wrong ? x.mul(1.5) : x));
  for (const precision of ["f64", "f32", "bf16"] as const) {
    expect(bad(path, precision)).toEqual([wrong]);
  }
});

test("roundings are neighbours in bf16, the nearest first, and right on average", () => {
  const x = randn([2000], { seed: 3, name: "x" });
  const values = [...x.dataSync()] as number[];
  const nearest = [...roundedToBf16(x, 0, "x").dataSync()] as number[];
  const drawn = [1, 2, 3].map((draw) => [...roundedToBf16(x, draw, "x").dataSync()] as number[]);
  let sum = 0;
  values.forEach((value, i) => {
    const spacing = 2 ** (Math.floor(Math.log2(Math.abs(value))) - 7);
    expect(Math.abs(nearest[i]! - value)).toBeLessThanOrEqual(spacing / 2);
    for (const row of drawn) {
      expect(Math.abs(row[i]! - value)).toBeLessThan(spacing);
      expect(Number.isInteger(row[i]! / spacing)).toBe(true);
      sum += (row[i]! - value) / spacing;
    }
  });
  // Each of the 6000 is off by at most one, with a mean of zero.
  expect(Math.abs(sum / 6000)).toBeLessThan(0.03);
  expect(drawn[0]).not.toEqual(drawn[1]);
});

test("a bar grows with what rounding does to the exact gradient, and never shrinks", () => {
  let calls = 0;
  const exactly = () => {
    const factor = calls++ === 0 ? 1 : 1.1;
    return new Map([
      ["firm", [1, 2]],
      ["loose", [factor, 2 * factor]],
    ]);
  };
  const bars = barsOfRounding(0.04, exactly);
  expect(bars.get("firm")).toBe(0.04);
  expect(bars.get("loose")).toBeCloseTo(0.4, 12);
});
