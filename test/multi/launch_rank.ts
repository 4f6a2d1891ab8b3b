// A rank of test/multi/launch.test.ts: joins the store, meets the others, and does what its words
// say, as `fault=kill who=2`. Uses no native code.

import { writeSync } from "node:fs";
import { hostname } from "node:os";
import { detectEnvironment } from "../../lib/launch/environment.ts";
import { join } from "../../lib/launch/rendezvous.ts";

const words = Object.fromEntries(process.argv.slice(2).map((word) => word.split("=")));
const say = (line: string, target = 1) => writeSync(target, `${line}\n`);
const forever = () => new Promise(() => setInterval(() => {}, 1000));

async function main(): Promise<void> {
  const place = detectEnvironment();
  const { rank, world } = place;
  const isAtFault = String(rank) === (words.who ?? "none");
  const fault = isAtFault ? words.fault : undefined;
  say(`pid ${process.pid}`);
  if (place.conflict) say(place.conflict);
  if (fault === "fail") {
    say(`rank ${rank} cannot read its data`, 2);
    process.exit(65);
  }
  if (fault === "deaf") process.on("SIGTERM", () => say("not now"));
  if (fault === "absent" || fault === "deaf") await forever();
  const facts = {
    host: hostname(),
    pid: process.pid,
    device: "cpu",
    version: "1",
    abi: "1",
    recipe: fault === "other" ? "bbbb" : "aaaa",
  };
  const joinSeconds = Number(words.join ?? 60);
  const run = await join(place, { facts, joinSeconds, heartbeatSeconds: 0.1 });
  if (rank === 0) await run.set("greeting", new TextEncoder().encode(`from rank 0 of ${world}`));
  const greeting = new TextDecoder().decode(await run.get("greeting"));
  const sum = await run.add("sum", rank);
  await run.barrier("all");
  say(
    `rank ${rank} got "${greeting}"; local ${place.localRank}, threads ${process.env.XL_THREADS}`,
  );
  if (rank === 0) say(`sum ${Math.max(sum, await run.add("sum", 0))}`);

  if (fault === "kill") process.kill(process.pid, "SIGKILL");
  if (fault === "exit") process.exit(7);
  if (fault === "child") {
    const child = Bun.spawn(["sleep", "600"], { stdio: ["ignore", "inherit", "inherit"] });
    say(`pid ${child.pid}`);
    process.kill(process.pid, "SIGKILL");
  }
  if (words.until === "signal") {
    let count = 0;
    const stop = await new Promise<string>((resolve) => {
      for (const name of ["SIGINT", "SIGTERM", "SIGUSR1"] as const) {
        process.on(name, () => {
          count++;
          setTimeout(() => resolve(name), 300);
        });
      }
      say("ready");
    });
    say(`rank ${rank} stops after ${count} ${stop}`);
    run.leave();
    process.exit(Number(words.code ?? 0));
  }
  for (let step = 1; words.fault && words.fault !== "none"; step++) {
    run.heartbeat(step, "forward");
    await Bun.sleep(10);
  }
  run.leave();
}

try {
  await main();
} catch (error) {
  const { message, exitCode } = error as Error & { exitCode?: number };
  say(`failed: ${message}`, 2);
  process.exit(exitCode ?? 70);
}
