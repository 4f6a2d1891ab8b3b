// A rank of test/multi/shared_sums.test.ts: a case of the parity table on a mesh of tp alone. What
// it gives is a hash of every gradient of the first step, and the losses.
//
//   arguments: master, and a Case (lib/parity/run.ts)

import { mesh } from "../../lib/mesh/mesh.ts";
import { type Case, hashOf, runCase } from "../../lib/parity/run.ts";
import { runRank } from "./ranks.ts";

/** First digits of the SHA-256 of every gradient, and the loss of the first step. */
export interface Bits {
  readonly gradients: Readonly<Record<string, string>>;
  readonly loss: number;
}

await runRank(async ({ rank, size }, [master, json]) => {
  const flags = { rank, world: size, localRank: rank, master };
  const ranks = await mesh({ tp: size }, { device: "cpu", flags: size > 1 ? flags : {} });
  return ranks.run(async (): Promise<Bits> => {
    const { gradients, losses } = runCase(ranks, JSON.parse(json!) as Case);
    const hashes = [...gradients].map(([name, x]) => [name, hashOf(new Map([[name, x]]))] as const);
    return { gradients: Object.fromEntries(hashes), loss: losses[0]! };
  });
});
