// Groups of processes: every method, every dtype, several groups; the bits of sums.

import { expect, test } from "bun:test";
import { startRanks, valuesOf } from "../helpers/ranks.ts";

for (const size of [2, 3, 4]) {
  test(`all methods on ${size} ranks, against element by element`, async () => {
    const checked = await valuesOf<number>(startRanks("rank_group_methods.ts", size, ["cpu"]));
    const groups = size === 4 ? 4 : 2;
    expect(checked).toEqual(Array.from({ length: size }, () => 5 * 5 * groups));
  }, 60_000);
}
