// Starts the ranks of a training scenario.

import { startRanks, valuesOf } from "./ranks.ts";
import type { TrainingJob } from "./rank_training.ts";

/** What every rank's scenario returns, in rank order. */
export async function trainRanks<T>(job: TrainingJob): Promise<T[]> {
  const world = Object.values(job.sizes).reduce((product, size) => product * size, 1);
  const args = [`127.0.0.1:${freePort()}`, JSON.stringify(job)];
  return valuesOf<T>(startRanks("rank_training.ts", world, args));
}

/** A port that nobody listens at. */
function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}
