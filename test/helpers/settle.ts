// Memory counts of tests that watch them.

import { memory } from "../../lib/tensor/index.ts";

/**
 * Collects until the count of live tensors stays: what earlier tests have left to the garbage
 * collector would else disappear while a later one counts. What lies on a stack goes a round later.
 */
export async function settle(): Promise<void> {
  let count = -1;
  for (let round = 0; round < 10 && count !== memory().tensors; round++) {
    count = memory().tensors;
    Bun.gc(true);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}
