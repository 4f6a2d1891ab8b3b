// Models that are split over ranks give the loss and the gradients of one process, whatever kinds
// of blocks they have, wherever the residual stream lies, and whatever is recomputed.

import { test } from "bun:test";
import { type ParallelName, parallelNames } from "../helpers/parallel_cases.ts";
import { expectParity } from "../helpers/parallel_parity.ts";

for (const residual of ["sequence", "replicated"] as const) {
  for (const size of [2, 4]) {
    test(`${residual}, ${size} ranks: all kinds of models`, async () => {
      await expectParity(size, { names: parallelNames, options: { residual } });
    }, 120_000);
  }

  test.each(["block", "half"] as const)(
    `${residual}: activations made again, %s`,
    async (recompute) => {
      const names: ParallelName[] = ["v1", "paper", "mixed", "norms behind branches", "dropout"];
      await expectParity(2, { names, options: { residual, recompute } });
    },
    120_000,
  );
}

test("label smoothing and z-loss reach across the vocabulary", async () => {
  const names: ParallelName[] = ["v1", "no soft caps, no last norm"];
  await expectParity(2, { names, options: {}, loss: { labelSmoothing: 0.1, zLoss: 0.01 } });
}, 60_000);
