// Stages of a pipeline: uneven ones, many of them, few microbatches, and a table that the first and
// the last one share (mesh.md §10).

import { describe, expect, test } from "bun:test";
import type { CasesOptions } from "../helpers/rank_training.ts";
import { trainRanks } from "../helpers/train_ranks.ts";

async function expectNone(sizes: Record<string, number>, options: CasesOptions): Promise<void> {
  const [first] = await trainRanks<Record<string, string[]>>({
    scenario: "cases",
    sizes,
    options: { ...options },
  });
  expect(first!).toEqual(Object.fromEntries(Object.keys(options.cases).map((name) => [name, []])));
}

describe("against one process", () => {
  test("uneven stages, fewer microbatches than stages: the same bits", async () => {
    const four = { blocks: 4 };
    await expectNone(
      { pp: 2 },
      {
        cases: {
          "1 + 3 blocks": { ...four, stages: [1, 3] },
          "3 + 1 blocks": { ...four, stages: [3, 1] },
          "one microbatch": { ...four, microbatchRows: 32 },
          "recomputed, paper blocks": { ...four, kind: "paper", recompute: "block" },
        },
      },
    );
    await expectNone(
      { pp: 4 },
      {
        cases: {
          "two microbatches for four stages": { ...four, microbatchRows: 16 },
          "five blocks": { blocks: 5, stages: [1, 2, 1, 1] },
        },
      },
    );
  }, 120_000);

  test("tied embeddings: gradients of both stages are added", async () => {
    const tied = { tied: true, kind: "v1" } as const;
    const cases = {
      plain: tied,
      "weights kept": { ...tied, reshard: false },
      whole: { ...tied, minSize: 2 ** 18 },
    };
    await expectNone({ pp: 2 }, { cases: { plain: tied }, bar: "rounding" });
    await expectNone({ pp: 2, fsdp: 2 }, { cases, bar: "rounding" });
  }, 120_000);
});

test("a gradient that is left as a partial sum is an error that names the parameter", async () => {
  const job = { scenario: "unsummed", sizes: { pp: 2 } } as const;
  const ranks = await trainRanks<{ error: string; updates: number }>(job);
  ranks.forEach(({ error, updates }, stage) => {
    expect(error).toBe(
      `layout: blocks.${stage}.mixer_norm.scale: gradient is partial over pp; ` +
        "reduce it over pp before the optimizer",
    );
    expect(updates).toBe(0);
  });
}, 60_000);
