// Units of a model: weights that are there only while their unit is in use give the same bits, also
// where activations are made again.

import { describe, expect, test } from "bun:test";
import type { Unit } from "../../lib/mesh/flat_shard.ts";
import type { UnitHooks } from "../../lib/mesh/fsdp.ts";
import type { ModelOptions, XLSTM } from "../../lib/nn/model.ts";
import type { Recompute } from "../../lib/nn/stack.ts";
import { gradEnabled, keep, memory, noGrad, scope, type Tensor } from "../../lib/tensor/index.ts";
import { record } from "../../lib/tensor/tape.ts";
import {
  forwardOptions,
  parallelBatch,
  parallelModel,
  type ParallelName,
} from "../helpers/parallel_cases.ts";

type Leaf = Unit["parameters"][number];

/**
 * Takes the values out of all parameters, and puts a copy back while a unit is in use: a collective
 * that shards weights does no less.
 */
class Comings implements UnitHooks {
  readonly calls: string[] = [];
  readonly stored = new Map<Leaf, Tensor>();
  readonly #lent = new Map<Leaf, Tensor>();
  isBackward = false;

  constructor(model: XLSTM) {
    for (const parameter of model.parameters().values()) {
      const value = keep(noGrad(() => parameter.clone()));
      value.requiresGrad = true;
      this.stored.set(parameter, value);
      parameter.dispose();
    }
    model.hooks = this;
  }

  enter(unit: Unit): void {
    this.calls.push(`${this.isBackward ? "again " : ""}enter ${unit.name}`);
    for (const leaf of unit.parameters) {
      this.#lend(leaf);
      if (!gradEnabled()) continue;
      record("lend", [this.stored.get(leaf)!], [leaf], ([gradient]) => [gradient]);
      leaf.edge!.node.owned = undefined;
    }
  }

  leave(unit: Unit, outputs: readonly Tensor[]): readonly Tensor[] {
    this.calls.push(`${this.isBackward ? "again " : ""}leave ${unit.name}`);
    for (const leaf of unit.parameters) leaf.edge = undefined;
    if (this.isBackward) return outputs;
    for (const leaf of unit.parameters) this.#takeBack(leaf);
    if (!gradEnabled()) return outputs;
    const same = outputs.map((output) => output.detach());
    record("lend again", [...outputs], same, (gradients) => {
      for (const leaf of unit.parameters) this.#lend(leaf);
      return gradients;
    });
    return same;
  }

  #lend(leaf: Leaf): void {
    if (this.#lent.has(leaf)) return;
    const copy = keep(noGrad(() => this.stored.get(leaf)!.clone()));
    this.#lent.set(leaf, copy);
    Object.assign(leaf, { id: copy.id });
  }

  #takeBack(leaf: Leaf): void {
    Object.assign(leaf, { id: 0 });
    this.#lent.get(leaf)?.dispose();
    this.#lent.delete(leaf);
  }

  end(): void {
    for (const leaf of this.#lent.keys()) this.#takeBack(leaf);
    for (const value of this.stored.values()) value.dispose();
  }
}

const bits = (x: Tensor) => Bun.hash.xxHash3(x.bytesSync()).toString(16);

function plain(name: ParallelName): { loss: number; gradients: Map<string, string> } {
  using model = parallelModel(name, { dtype: "f32" });
  return scope(() => {
    const { loss } = model.lossSum(parallelBatch(61), forwardOptions);
    const grads = loss.backward();
    const list = [...model.parameters().values()];
    return {
      loss: loss.item(),
      gradients: new Map(list.map((parameter) => [parameter.name, bits(grads.of(parameter))])),
    };
  });
}

function lent(name: ParallelName, options: ModelOptions) {
  const model = parallelModel(name, { ...options, dtype: "f32" });
  const list = [...model.parameters().values()];
  const hooks = new Comings(model);
  const result = scope(() => {
    const { loss } = model.lossSum(parallelBatch(61), forwardOptions);
    const forward = hooks.calls.length;
    hooks.isBackward = true;
    const grads = loss.backward();
    const gradients = new Map(
      list.map((leaf) => [leaf.name, bits(grads.of(hooks.stored.get(leaf)!))]),
    );
    return { loss: loss.item(), gradients, calls: hooks.calls, forward, units: model.units() };
  });
  hooks.end();
  return result;
}

const names: ParallelName[] = ["v1", "paper", "mixed", "tied embeddings", "dropout"];
const policies: Recompute[] = ["none", "block", "half"];

describe.each(policies)("weights come and go, %s recomputed", (recompute) => {
  test.each(names)("%s", (name) => {
    const want = plain(name);
    const got = lent(name, { recompute });
    expect(got.loss).toBe(want.loss);
    expect(got.gradients).toEqual(want.gradients);
    // Forward: every unit in turn. Backward: what is recomputed, the last one first.
    const inTurn = got.units.flatMap(({ name: unit }) => [`enter ${unit}`, `leave ${unit}`]);
    expect(got.calls.slice(0, got.forward)).toEqual(inTurn);
    const again = recompute === "none" ? [] : got.units.slice(1, -1).toReversed();
    const backward = again.flatMap(({ name: unit }) => [
      `again enter ${unit}`,
      `again leave ${unit}`,
    ]);
    expect(got.calls.slice(got.forward)).toEqual(backward);
  });
});

test("units hold every parameter, and a tied table twice", () => {
  for (const recompute of policies) {
    for (const name of names) {
      using model = parallelModel(name, { recompute });
      const counts = new Map<string, number>();
      for (const { parameters } of model.units()) {
        for (const leaf of parameters) counts.set(leaf.name, (counts.get(leaf.name) ?? 0) + 1);
      }
      expect([...counts.keys()].sort()).toEqual([...model.parameters().keys()].sort());
      for (const [leaf, count] of counts) {
        const isTied = name === "tied embeddings" && leaf === "embedding.table";
        expect(count, leaf).toBe(isTied ? 2 : 1);
      }
    }
  }
  using model = parallelModel("mixed", { recompute: "half" });
  expect(model.units().map((unit) => unit.name)).toEqual([
    "embedding",
    "blocks.0.mixer",
    "blocks.0.ffn",
    "blocks.1.mixer",
    "blocks.1.ffn",
    "head",
  ]);
});

test("a state goes on where activations are made again", () => {
  const hash = (recompute: Recompute, goesOn: boolean) => {
    using model = parallelModel("mixed", { recompute });
    return scope(() => {
      const { tokens } = parallelBatch(61);
      const { state } = noGrad(() => model.forward(tokens, { returnState: true }));
      return bits(model.forward(tokens, goesOn ? { state } : {}).logits);
    });
  };
  expect(hash("block", true)).toBe(hash("none", true));
  expect(hash("half", true)).toBe(hash("none", true));
  expect(hash("block", false)).not.toBe(hash("block", true));
});

test("recomputing keeps fewer bytes from the forward to the backward pass", () => {
  const live = (recompute: Recompute) => {
    using model = parallelModel("mixed", { recompute });
    return scope(() => {
      const batch = parallelBatch(61);
      const { bytes } = memory();
      const { loss } = model.lossSum(batch, forwardOptions);
      const held = memory().bytes - bytes;
      loss.backward();
      return held;
    });
  };
  expect(live("half")).toBeLessThan(0.5 * live("none"));
  expect(live("block")).toBeLessThan(live("half"));
});
