// Conversions between layouts: what they give, and that each records its dual.

import { expect, test } from "bun:test";
import { Group } from "../../lib/mesh/group.ts";
import { allToAll, enter, gather, part, scatterSum, sum } from "../../lib/mesh/redistribute.ts";
import { scope, tensor } from "../../lib/tensor/index.ts";
import { startRanks, valuesOf } from "../helpers/ranks.ts";

interface Errors {
  readonly name: string;
  readonly forward: number;
  readonly adjoint: number;
}

test.each([2, 3, 4])(
  "values and gradients on %d ranks",
  async (size) => {
    const ranks = await valuesOf<Errors[]>(startRanks("rank_redistribute.ts", size));
    for (const errors of ranks) {
      expect(errors.length).toBe(20);
      expect(
        errors.filter(({ forward, adjoint }) => !(forward < 1e-14 && adjoint < 1e-14)),
      ).toEqual([]);
    }
  },
  60_000,
);

test("one rank: the same tensor, and nothing on the tape", () => {
  using _ = scope();
  const alone = Group.local();
  const x = tensor([[1, 2]]).requireGrad();
  const all = [
    gather(x, alone, 1, "R", "x"),
    gather(x, alone, 1, "I", "x"),
    part(x, alone, 1, "R", "x"),
    scatterSum(x, alone, 1, "x"),
    sum(x, alone, "x"),
    enter(x, alone, "x"),
    allToAll(x, alone, { split: 0, join: 1 }, "x"),
  ];
  for (const y of all) expect(y).toBe(x);
});
