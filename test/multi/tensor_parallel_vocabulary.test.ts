// A vocabulary that is split over ranks: losses, hits and gradients of the head, the states of
// models that generate, and ids that do not exist.

import { expect, test } from "bun:test";
import type { LossCase, LossErrors } from "../helpers/rank_vocabulary.ts";
import { startRanks, valuesOf } from "../helpers/ranks.ts";

interface Found {
  readonly losses: readonly LossErrors[];
  readonly decoding: readonly { name: string; replicated: number; sequence: number }[];
  readonly wrongId: string;
}

const plain = { tokens: 40, vocabulary: 61, dtype: "f64" } as const;
const cases: readonly LossCase[] = [
  { name: "plain", ...plain },
  { name: "capped", ...plain, options: { softCap: 30 } },
  { name: "masked", ...plain, isMasked: true, options: { softCap: 5 } },
  {
    name: "smoothed",
    ...plain,
    isMasked: true,
    options: { softCap: 30, labelSmoothing: 0.2, zLoss: 0.03 },
  },
  { name: "several chunks", ...plain, tokens: 9000, isMasked: true },
  { name: "f32", ...plain, dtype: "f32", options: { softCap: 30 } },
  { name: "bf16", ...plain, dtype: "bf16", options: { softCap: 30 } },
];
const bars: Partial<Record<LossCase["dtype"], number>> = { f64: 1e-13, f32: 2e-6, bf16: 2e-2 };

test.each([2, 4])(
  "on %d ranks",
  async (size) => {
    const ranks = await valuesOf<Found>(
      startRanks("rank_vocabulary.ts", size, [JSON.stringify(cases)]),
    );
    for (const { losses, decoding, wrongId } of ranks) {
      losses.forEach(({ name, hits, values, dhidden, dweight }, i) => {
        const bar = bars[cases[i]!.dtype]!;
        const isNear = values <= bar && dhidden <= bar && dweight <= bar;
        expect({ name, hits, isNear, values, dhidden, dweight }).toMatchObject({
          hits: 0,
          isNear: true,
        });
      });
      expect(decoding.map(({ name }) => name)).toEqual(["mixed", "paper", "sLSTM first"]);
      for (const { replicated, sequence } of decoding) {
        expect(replicated).toBeLessThan(1e-12);
        expect(sequence).toBeLessThan(1e-12);
      }
      // The same on every rank: none of them waits for another one.
      expect(wrongId).toMatch(/contains 61, expected 0 to 60/);
    }
  },
  60_000,
);
