// Saves checkpoint after checkpoint until it is killed, and keeps as many as the second argument
// says; started by tests of checkpoints.

import { latestCheckpoint, saveCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { bytesTensor } from "./checkpoint_fixture.ts";

const directory = process.argv[2]!;
const newest = Number(process.argv[3] ?? 2);
const latest = latestCheckpoint(directory, { verify: "quick" });
let step = latest ? Number(/\d+$/.exec(latest)![0]) : 0;
for (;;) {
  step++;
  const tensors = [["w", bytesTensor("f32", [50_000], step)]] as const;
  saveCheckpoint(directory, { step, tensors, recipe: {}, data: {}, rng: {} }, { keep: { newest } });
  console.log(step);
}
