// The benchmark of collectives as a rank of a launch: joins the others, measures, and says what
// ran on what.

import { availableParallelism } from "node:os";
import { detectEnvironment } from "../launch/environment.ts";
import { transportOf } from "../mesh/comm_connect.ts";
import { mesh } from "../mesh/mesh.ts";
import { gpuFacts } from "../native/gpu.ts";
import { openNccl } from "../native/nccl.ts";
import type { Device } from "../tensor/index.ts";
import { commBench, type CommOptions, type CommRow } from "./comm.ts";

export interface RanksOptions extends CommOptions {
  readonly device: Device | "auto";
  /** On rank 0, as rows come. */
  readonly header: (facts: Readonly<Record<string, string | number | boolean>>) => void;
  readonly row: (row: CommRow) => void;
}

/** How many ranks were launched with this one. */
export function launchedRanks(): number {
  return detectEnvironment(process.env).world;
}

/** Measures on all ranks; returns how many checks failed here. */
export async function benchOfRanks(options: RanksOptions): Promise<number> {
  const ranks = await mesh({ dp: -1 }, { device: options.device, recipe: ["bench", "comm"] });
  return ranks.run(() => {
    const { world, device } = ranks;
    const transport = transportOf(device);
    if (ranks.rank === 0) {
      options.header({
        ranks: world.size,
        transport,
        cores: availableParallelism(),
        ...(device === "cuda" ? { gpu: gpuFacts().name } : {}),
        ...(transport === "nccl" ? { nccl: openNccl().version, ...ncclSettings() } : {}),
      });
    }
    let failures = 0;
    for (const row of commBench(world, options)) {
      ranks.heartbeat(1, "eval");
      if ("error" in row) {
        failures++;
        // Rank 0 may be fine.
        if (ranks.rank !== 0) console.error(`rank ${ranks.rank}: ${row.name}: ${row.error}`);
      }
      if (ranks.rank === 0) options.row(row);
    }
    return failures;
  });
}

/** Variables that choose NCCL's algorithms, where they are set. */
function ncclSettings(): Record<string, string> {
  const names = ["NCCL_ALGO", "NCCL_PROTO", "NCCL_NVLS_ENABLE", "NCCL_MAX_NCHANNELS"];
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])),
  );
}
