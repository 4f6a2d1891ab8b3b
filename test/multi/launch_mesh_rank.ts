// A rank of test/multi/launch_mesh.test.ts: makes the mesh of its words (dp=2 tp=2), trains without
// a model, and goes wrong where it is told to (fault=loop who=3).

import { writeSync } from "node:fs";
import { mesh } from "../../lib/mesh/mesh.ts";
import { tensor } from "../../lib/tensor/index.ts";

const words = Object.fromEntries(process.argv.slice(2).map((word) => word.split("=")));
const say = (line: string, target = 1) => writeSync(target, `${line}\n`);
const rank = Number(process.env["XL_RANK"] ?? 0);
const sizes = Object.fromEntries(
  (["pp", "dp", "fsdp", "cp", "tp"] as const)
    .filter((axis) => words[axis] !== undefined)
    .map((axis) => [axis, Number(words[axis])]),
);

const faults: Record<string, () => void | Promise<void>> = {
  kill: () => void process.kill(process.pid, "SIGKILL"),
  stop: () => void process.kill(process.pid, "SIGSTOP"),
  loop: () => {
    for (;;);
  },
  sleep: () => Bun.sleep(600_000),
  throw: () => {
    throw new Error("the corpus is not there");
  },
};

async function main(): Promise<void> {
  say(`pid ${process.pid}`);
  if (words.fault === "absent" && words.who === String(rank)) await Bun.sleep(600_000);
  const limit = Number(words.limit ?? 100);
  const ranks = await mesh(sizes, {
    recipe: { seed: words.fault === "seed" && words.who === String(rank) ? 1 : 0 },
    joinSeconds: Number(words.join ?? 60),
    deadlines: { init: limit, step: limit },
    heartbeatSeconds: 0.1,
    graceSeconds: 1,
    records: words.records,
  });
  await ranks.run(async () => {
    const { topology, world } = ranks;
    const sums = Object.fromEntries(
      topology.order.map((axis) => {
        const group = ranks.group(axis);
        return [axis, group.allReduce(tensor([2 ** ranks.rank]), { site: axis }).dataSync()[0]];
      }),
    );
    const pair = ranks.group("tp", "dp").ranks;
    say(JSON.stringify({ rank: ranks.rank, sums, pair, world: world.ranks }));
    for (let step = 1; step <= 20; step++) {
      ranks.heartbeat(step, "data");
      if (step === 5 && words.who === String(rank)) await faults[words.fault!]!();
      ranks.heartbeat(step, "forward");
      world.allReduce(tensor([step]), { site: "loss" });
      ranks.heartbeat(step, "optimizer");
      await new Promise(setImmediate);
    }
  });
  say("finished");
}

try {
  await main();
} catch (error) {
  const { name, message, exitCode } = error as Error & { exitCode?: number };
  say(`${name}: ${message}`, 2);
  process.exitCode = exitCode ?? 70;
}
