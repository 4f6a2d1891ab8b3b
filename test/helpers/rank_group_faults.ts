// A rank of test/multi/group_faults.test.ts and nccl.test.ts: what goes wrong is the first
// argument, on whom the second. Prints the errors that this rank saw.

import { flightRecord, setRecordedStep } from "../../lib/mesh/comm_record.ts";
import { connectGroups, type Group } from "../../lib/mesh/group.ts";
import { configure } from "../../lib/native/library.ts";
import { type Device, useDevice, zeros } from "../../lib/tensor/index.ts";
import { runRank } from "./ranks.ts";

/** Waits for the result: on a GPU a call returns before it is done. */
function sum(group: Group, size: number, site: string): void {
  group.allReduce(zeros([size]), { site }).dataSync();
}

/** What the rank at fault does instead of the sum that the others call. */
const faults: Record<string, (group: Group) => unknown> = {
  swap: (group) => group.allGather(zeros([8]), 0, "block 5 weights").dataSync(),
  shape: (group) => sum(group, 9, "block 6 grads"),
  site: (group) => sum(group, 8, "block 7 grads"),
  skip: () => Bun.sleep(60_000),
  leave: (group) => group.dispose(),
  exit: () => process.exit(0),
  kill: () => process.kill(process.pid, "SIGKILL"),
  stop: () => process.kill(process.pid, "SIGSTOP"),
  abort: (group) => group.abort("the disk is full"),
};

await runRank(async (bootstrap, [fault, who, deadline, device]) => {
  if (device === "cuda") configure({ gpu: bootstrap.rank });
  useDevice((device ?? "cpu") as Device);
  const everybody = Array.from({ length: bootstrap.size }, (_, i) => i);
  const group = await connectGroups(bootstrap, "fsdp", everybody, (device ?? "cpu") as Device, {
    callDeadline: Number(deadline ?? 100),
  });
  setRecordedStep(17);
  sum(group, 8, "warm");
  const errors: string[] = [];
  const seen = async (body: () => unknown) => {
    try {
      await body();
    } catch (error) {
      errors.push((error as Error).message);
    }
  };
  await seen(() => {
    if (bootstrap.rank === Number(who)) return faults[fault!]!(group);
    return sum(group, 8, "block 6 grads");
  });
  await seen(() => group.barrier("after"));
  return { errors, record: flightRecord().map((line) => JSON.parse(line)) };
});
