// Starts the ranks of a split model and expects the results of one process.

import { expect } from "bun:test";
import type { ParallelErrors, ParallelRequest } from "./rank_tensor_parallel.ts";
import { startRanks, valuesOf } from "./ranks.ts";

/** Every error of every rank must be at most `bar`. */
export async function expectParity(
  size: number,
  request: ParallelRequest,
  { bar = 1e-12, env = {} }: { bar?: number; env?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  const args = [JSON.stringify(request)];
  const started = startRanks("rank_tensor_parallel.ts", size, args, env);
  for (const errors of await valuesOf<ParallelErrors[]>(started)) {
    expect(errors.map(({ name }) => name)).toEqual([...request.names]);
    const isFar = ({ values, logits, gradients }: ParallelErrors) =>
      !(values <= bar && logits <= bar && gradients <= bar);
    expect(errors.filter(isFar)).toEqual([]);
  }
}
