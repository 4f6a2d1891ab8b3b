// Fully sharded weights: every option gives the numbers of one process, and what is not in use has
// no memory (mesh.md §7, §22 M5).

import { describe, expect, test } from "bun:test";
import type { CasesOptions } from "../helpers/rank_training.ts";
import { trainRanks } from "../helpers/train_ranks.ts";

/** Everything that differs from one process, by case; the same on all ranks. */
async function missesOf(sizes: Record<string, number>, options: CasesOptions) {
  const [first] = await trainRanks<Record<string, string[]>>({
    scenario: "cases",
    sizes,
    options: { ...options },
  });
  return first!;
}

const bf16 = { dtype: "bf16", gather: "bf16" } as const;

const none = (options: CasesOptions) =>
  Object.fromEntries(Object.keys(options.cases).map((name) => [name, []]));

describe("options", () => {
  test("resharding, least sizes, halves as units, tied weights: the same bits", async () => {
    const options: CasesOptions = {
      cases: {
        "kept until backward": { reshard: false },
        "freed after forward": { reshard: true },
        "blocks made again": { recompute: "block" },
        "halves made again, kept": { recompute: "half", reshard: false },
        "halves made again, freed": { recompute: "half" },
        "large ones alone": { minSize: 2000 },
        "nothing is cut": { minSize: 2 ** 18 },
        f32: { dtype: "f32" },
        "paper blocks": { kind: "paper" },
        "tied weights": { tied: true },
        "tied weights, kept": { tied: true, reshard: false },
      },
    };
    expect(await missesOf({ fsdp: 2 }, options)).toEqual(none(options));
  }, 120_000);

  test("with dp around it, and over four ranks", async () => {
    const options: CasesOptions = {
      cases: { freed: {}, kept: { reshard: false }, "large ones alone": { minSize: 2000 } },
    };
    expect(await missesOf({ dp: 2, fsdp: 2 }, options)).toEqual(none(options));
    expect(await missesOf({ fsdp: 4 }, options)).toEqual(none(options));
  }, 120_000);

  test("a bf16 model gathers its weights in bf16, half the bytes", async () => {
    const cases = { freed: { ...bf16 }, kept: { ...bf16, reshard: false } };
    expect(await missesOf({ fsdp: 2 }, { cases, bar: 3e-2 })).toEqual({ freed: [], kept: [] });
    const [printed] = await trainRanks<Record<string, string>>({
      scenario: "prints",
      sizes: { fsdp: 2 },
      options: { cases: { ...cases, plain: { dtype: "bf16" } } },
    });
    expect(printed!["freed"]).toBe(printed!["kept"]!);
    // Gradients of bf16 weights are rounded to bf16, those of f32 ones are not.
    expect(printed!["freed"]).not.toBe(printed!["plain"]!);
  }, 120_000);

  test("another model refuses bf16 weights", async () => {
    for (const said of await trainRanks<string>({ scenario: "narrow", sizes: { fsdp: 2 } })) {
      expect(said).toContain("weights are gathered in bf16, and the model computes in f64");
    }
  }, 60_000);
});

interface Held {
  readonly elements: number;
  readonly owned: number;
  readonly moments: number;
  readonly seen: readonly number[];
  readonly live: readonly boolean[];
}

test("a rank owns its part alone, and nothing is left of a step", async () => {
  const ranks = await trainRanks<Held>({ scenario: "memoryOf", sizes: { fsdp: 2 } });
  const { elements } = ranks[0]!;
  expect(ranks.reduce((sum, { owned }) => sum + owned, 0)).toBe(elements);
  for (const { owned, moments, seen, live } of ranks) {
    expect(owned).toBeGreaterThan(0.3 * elements);
    expect(moments).toBe(2 * owned);
    expect(live).toEqual([false, false, false, false]);
    expect(new Set(seen.slice(1)).size).toBe(1);
  }
}, 60_000);

interface Peaks {
  readonly freed: number;
  readonly kept: number;
  /** Bytes of all weights. */
  readonly weights: number;
}

test("freed weights make room: a step holds few units at once", async () => {
  for (const { freed, kept, weights } of await trainRanks<Peaks>({
    scenario: "peaks",
    sizes: { fsdp: 2 },
  })) {
    // What comes either way: gradients of this rank's half, and activations of few tokens.
    expect(kept).toBeGreaterThan(1.4 * weights);
    expect(freed).toBeLessThan(0.5 * kept);
  }
}, 60_000);

test("a rule that needs whole tensors is refused where they are cut", async () => {
  const text = /lamb needs the norm of whole tensors, and embedding.table is cut over fsdp 2/;
  for (const said of await trainRanks<string>({ scenario: "lamb", sizes: { fsdp: 2 } })) {
    expect(said).toMatch(text);
  }
  for (const said of await trainRanks<string>({ scenario: "lamb", sizes: { tp: 2 } })) {
    expect(said).toMatch(/is cut over tp 2/);
  }
  const whole = await trainRanks<string>({ scenario: "lamb", sizes: { dp: 2 } });
  expect(whole).toEqual(["made", "made"]);
}, 60_000);

interface Nothing {
  readonly skipped: { readonly loss: number; readonly tokens: number };
  readonly isSame: boolean;
  readonly updates: number;
  readonly taken: { readonly loss: number; readonly norm: number; readonly tokens: number };
}

test("a step without a valid target changes nothing; one on one rank counts", async () => {
  const alone = await trainRanks<Nothing>({ scenario: "nothingValid", sizes: {} });
  for (const sizes of [{ fsdp: 2 }, { dp: 2 }]) {
    const ranks = await trainRanks<Nothing>({ scenario: "nothingValid", sizes });
    for (const rank of ranks) {
      expect(rank).toEqual(alone[0]!);
      expect(rank.skipped).toMatchObject({ loss: 0, norm: 0, tokens: 0 });
      expect([rank.isSame, rank.updates]).toEqual([true, 1]);
      expect(rank.taken.tokens).toBe(1);
      expect(rank.taken.norm).toBeGreaterThan(0);
    }
  }
}, 60_000);
