// Ranks of tp add what they share as one process does (mesh.md §15): in f32 every activation has
// its bits, and so has every gradient but those that are summed over the ranks' tokens.

import { expect, test } from "bun:test";
import type { Case } from "../../lib/parity/run.ts";
import type { Bits } from "../helpers/rank_shared_sums.ts";
import { startRanks, valuesOf } from "../helpers/ranks.ts";

const shared = { dtype: "f32", microbatchRows: 1, recompute: "none" } as const;
const v1: Case = { ...shared, kind: "v1", blocks: 4, residual: "sequence" };
const paper: Case = { ...shared, kind: "paper", blocks: 2, residual: "replicated" };

function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}

async function bitsOf(one: Case, ranks: number): Promise<Bits> {
  const args = [`127.0.0.1:${freePort()}`, JSON.stringify(one)];
  return (await valuesOf<Bits>(startRanks("rank_shared_sums.ts", ranks, args)))[0]!;
}

const matrices = ({ gradients }: Bits) =>
  Object.fromEntries(Object.entries(gradients).filter(([name]) => /weight|table/.test(name)));

test.each([
  ["v1", v1],
  ["paper", paper],
] as const)(
  "%s blocks on 2, 4 and 8 ranks",
  async (_, one) => {
    const alone = await bitsOf(one, 1);
    expect(Object.keys(matrices(alone)).length).toBeGreaterThan(10);
    for (const ranks of [2, 4, 8]) {
      const bits = await bitsOf(one, ranks);
      expect({ ranks, ...matrices(bits) }).toEqual({ ranks, ...matrices(alone) });
      expect(Math.abs(bits.loss - alone.loss)).toBeLessThan(1e-7);
    }
  },
  120_000,
);
