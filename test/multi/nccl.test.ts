// Groups of GPUs through NCCL: every method, and ranks that are late, call something else, or die.
// Needs two GPUs.

import { afterAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { type RankResult, startRanks, valuesOf } from "../helpers/ranks.ts";

const hasTwo = existsSync("/dev/nvidia1") && !process.env["XL_CUDA_DRIVER"];
const onGpus = test.skipIf(!hasTwo);
afterAll(() => {
  if (!hasTwo) console.log("NCCL was not tested: two NVIDIA GPUs are needed (/dev/nvidia1)");
});

onGpus(
  "all methods on two GPUs, against element by element",
  async () => {
    const checked = await valuesOf<number>(startRanks("rank_group_methods.ts", 2, ["cuda"]));
    expect(checked).toEqual([2 * 5 * 2, 2 * 5 * 2]);
  },
  120_000,
);

/** Rank 1 is at fault; the errors that rank 0 saw. */
async function errorsOf(fault: string, deadline: number): Promise<readonly string[]> {
  const args = [fault, "1", String(deadline), "cuda"];
  const ranks = startRanks("rank_group_faults.ts", 2, args);
  await ranks.processes[0]!.exited;
  ranks.processes[1]!.kill("SIGKILL");
  const [survivor] = (await ranks.results()) as [RankResult];
  expect(survivor.signal, survivor.stderr).toBeNull();
  expect(survivor.error, survivor.stderr).toBeUndefined();
  return (survivor.value as { errors: readonly string[] }).errors;
}

for (const fault of ["skip", "stop"]) {
  onGpus(
    `a rank that does not come (${fault}): its peer's call ends at the deadline`,
    async () => {
      const [first, second] = await errorsOf(fault, 2);
      const call = "all_reduce[fsdp] #1 (block 6 grads, 8 f32)";
      expect(first).toContain(`${call} on rank 0 has not ended within 2.000 s`);
      expect(second).toContain("barrier[fsdp]: the group was given up: ");
    },
    120_000,
  );
}

onGpus(
  "a killed process is seen long before the deadline",
  async () => {
    const [first, second] = await errorsOf("kill", 3600);
    expect(first).toMatch(/the process of rank 1 of group fsdp has ended|rank 0: .*remote/);
    expect(second).toContain("the group was given up: ");
  },
  120_000,
);

onGpus(
  "a group that this rank gives up",
  async () => {
    const args = ["abort", "0", "100", "cuda"];
    const ranks = startRanks("rank_group_faults.ts", 2, args);
    await ranks.processes[0]!.exited;
    ranks.processes[1]!.kill("SIGKILL");
    const [own] = (await ranks.results()) as [RankResult];
    expect((own.value as { errors: string[] }).errors).toEqual([
      "barrier[fsdp]: the group was given up: the disk is full",
    ]);
  },
  120_000,
);

onGpus(
  "a rank that never comes to the group: its peer gives up and ends in peace",
  async () => {
    const args = ["absent", "cuda"];
    const [waiting] = await startRanks("rank_group_messages.ts", 2, args).results();
    expect(waiting!.error).toBe("group pp: not all of ranks 0, 1 came within 0.5 s");
    expect(waiting!.exitCode).toBe(1); // not a signal: an init in flight was ended first
  },
  120_000,
);
