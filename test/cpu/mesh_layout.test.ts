// The table of tensor-parallel layouts against what models do: parts of parameters, and gradients
// that are partial sums.

import { describe, expect, test } from "bun:test";
import { tensorParallelSplit } from "../../lib/mesh/layout.ts";
import { place } from "../../lib/mesh/placement.ts";
import { Topology } from "../../lib/mesh/topology.ts";
import { resolveConfig } from "../../lib/nn/config.ts";
import { XLSTM } from "../../lib/nn/model.ts";
import { plannedModel } from "../../lib/train/plan.ts";
import { FakeMesh } from "../helpers/fake_mesh.ts";
import { parallelConfigs } from "../helpers/parallel_cases.ts";

describe.each(Object.entries(parallelConfigs))("%s", (_, input) => {
  test.each(["sequence", "replicated"] as const)("residual stream %s", (residual) => {
    const config = resolveConfig(input);
    const planned = plannedModel(config);
    for (const rank of [0, 1, 3]) {
      using fake = new FakeMesh(new Topology({ tp: 4 }, { world: 4 }), rank);
      const model = new XLSTM(config, { mesh: fake.mesh, residual });
      for (const { name, placement, partial } of model.parameters().values()) {
        const { globalShape } = placement;
        const layout = tensorParallelSplit(name, globalShape, planned, residual);
        expect({ name, placement }).toEqual({
          name,
          placement: place(globalShape, layout.split, rank, 4),
        });
        expect({ name, partial: partial.includes("tp") }).toEqual({
          name,
          partial: layout.partial,
        });
      }
    }
  });
});

test("a stream that is split by features has local norms", () => {
  const model = plannedModel(resolveConfig(parallelConfigs.v1));
  const layout = (name: string, shape: number[]) =>
    tensorParallelSplit(name, shape, model, "feature");
  expect(layout("blocks.0.mixer_norm.scale", [16])).toEqual({ split: { dim: 0 }, partial: false });
  expect(layout("out_norm.scale", [16])).toEqual({ split: { dim: 0 }, partial: false });
  expect(layout("blocks.0.mixer.q_norm.scale", [4])).toEqual({ partial: true });
  expect(layout("blocks.0.ffn.down.weight", [16, 12]).split).toEqual({ dim: 1 });
});

test("names that no model has", () => {
  const model = plannedModel(resolveConfig(parallelConfigs.v1));
  const layout = (name: string) => () => tensorParallelSplit(name, [4, 4], model);
  expect(layout("blocks.0.mixer.conv.weight")).toThrow(
    "no rule says how blocks.0.mixer.conv.weight",
  );
  expect(layout("blocks.0.mixer.skip")).toThrow("of a v1 block");
  expect(layout("lm_head.bias")).toThrow("lm_head.bias");
});
