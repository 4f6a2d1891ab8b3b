// Groups of GPUs on the emulator, whose NCCL has one rank that is there: the way of the calls
// through streams, captures and deadlines. Two real GPUs: test/multi/nccl.test.ts. And groups of
// emulated GPUs through shared memory, with real peers.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Group } from "../../lib/mesh/group.ts";
import { scope, tensor } from "../../lib/tensor/index.ts";
import { emulator, isReal, onGpu } from "../helpers/gpu.ts";
import { startRanks, valuesOf } from "../helpers/ranks.ts";

/** Runs a scenario of helpers/nccl_emulated.ts in a process of its own: NCCL and its variables. */
function scenario(name: string, variables: Readonly<Record<string, string>> = {}) {
  const script = join(import.meta.dir, "../helpers/nccl_emulated.ts");
  const env = { ...process.env, XL_CUDA_DRIVER: emulator, XL_NCCL: emulator, ...variables };
  const { stdout, stderr, exitCode } = Bun.spawnSync([process.execPath, script, name], { env });
  expect(exitCode, stderr.toString()).toBe(0);
  return JSON.parse(stdout.toString());
}

describe.skipIf(isReal)("one rank of three, through the emulator's NCCL", () => {
  test("every method, and the flight record", () => {
    const zeros = [0, 0, 0, 0, 0, 0];
    const { ops, last, onHost, ...got } = scenario("methods");
    expect(got).toEqual({
      sum: [1, 2, 3, 4, 5, 6],
      largest: [1, 2, 3, 4, 5, 6],
      gathered: [0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 4, 5, 6, 0, 0, 0],
      scattered: [3, 4],
      exchanged: [0, 0, 3, 4, 0, 0],
      copies: [zeros, [1, 2, 3, 4, 5, 6]],
      message: [0, 0],
    });
    expect(onHost).toContain("x is on cpu, and group fsdp moves cuda tensors (nccl)");
    expect(ops).toEqual([
      "broadcast 0",
      "broadcast 1",
      "all_reduce 2",
      "all_reduce 3",
      "all_gather 4",
      "reduce_scatter 5",
      "all_to_all 6",
      "receive 0",
      "send 0",
      "barrier 7",
    ]);
    expect(last).toMatchObject({ group: "fsdp", site: "end" });
  });

  test("what a started collective reads and writes is kept until it is joined", () => {
    const { bytes, equal, same } = scenario("started");
    const [before, started, disposed, joined] = bytes as [number, number, number, number];
    expect(started - before).toBe(1 << 18); // the result
    expect(disposed).toBe(started); // x is disposed of, its memory is not
    expect(joined).toBe(before);
    expect({ equal, same }).toEqual({ equal: true, same: true });
  });

  test("the sum of a gradient over ranks runs beside the gradients of weights", () => {
    expect(scenario("order")).toEqual([
      ["sum begins", "weights", "sum ends"],
      ["sum begins", "weights", "weights", "sum ends"],
    ]);
  });

  test("captured steps contain collectives, but no barrier", () => {
    const { errors, barrier, replays, launches } = scenario("captured");
    expect(errors).toEqual([]);
    expect(barrier).toContain("inside a captured step");
    expect(replays).toBe(4);
    expect(launches).toBeGreaterThan(0);
  });

  test("a split appears some time after it was asked for", () => {
    const got = scenario("split", { XL_EMULATOR_NCCL_BUSY: "20" });
    expect(got).toEqual({ name: "tp", ranks: [0, 1, 2], rank: 1, sum: [7], none: true });
  });

  test("groups come and go", () => {
    expect(scenario("again")).toEqual({ bytes: 1 });
  });

  test("work that does not end: the watchdog gives the group up; the host is told once", () => {
    const { first, second, third } = scenario("late", { XL_EMULATOR_BUSY: "1000000000" });
    const late = "all_reduce[fsdp] #0 (grads, 1 f32) on rank 1 has not ended within 0.300 s";
    expect(first).toContain(`the group was given up: ${late}`);
    expect(second).toBe("none");
    expect(third).toContain(`barrier[fsdp]: the group was given up: ${late}`);
  });

  test("a barrier that nobody else comes to ends at its deadline", () => {
    const text = scenario("lateBarrier", { XL_EMULATOR_BUSY: "1000000000" });
    expect(text).toContain("barrier[fsdp] #0 (end) on rank 1 has not ended within 0.300 s");
  });

  test("an error of NCCL names the call and the rank", () => {
    const { first, second } = scenario("error", { XL_EMULATOR_NCCL_ERROR: "6" });
    const text = "all_reduce[fsdp] #0 (grads, 1 f32) on rank 1: remote process exited";
    expect(first).toContain(text);
    expect(second).toContain(`the group was given up: ${text}`);
  });

  test("a group that this rank gives up: results that were under way are none", () => {
    const { wait, use } = scenario("abort");
    expect(wait).toContain("the group was given up: the disk is full");
    expect(use).toContain("barrier[fsdp]: the group was given up: the disk is full");
  });
});

test.skipIf(isReal)("tensors of emulated GPUs go through shared memory", async () => {
  const env = { XL_CUDA_DRIVER: emulator, XL_NCCL: "" };
  const checked = await valuesOf<number>(startRanks("rank_group_methods.ts", 2, ["cuda"], env));
  expect(checked).toEqual([2 * 5 * 2, 2 * 5 * 2]);
});

test("a group whose other ranks do not exist makes on the GPU what equal ones would", () => {
  scope(() => {
    using group = Group.fake("tp", [0, 1, 2], 1, "cuda");
    const x = onGpu(() => tensor([1, 2, 3, 4, 5, 6]));
    const made = [
      group.allReduce(x),
      group.allGather(x.reshape([2, 3]), 1),
      group.reduceScatter(x, 0),
      group.allToAll(x, 0, 0),
    ];
    group.broadcast_(x, 0);
    expect(made.map(({ device }) => device)).toEqual(["cuda", "cuda", "cuda", "cuda"]);
    expect([...made, x].map((y) => [...y.dataSync()])).toEqual([
      [1, 2, 3, 4, 5, 6],
      [1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 4, 5, 6],
      [3, 4],
      [3, 4, 3, 4, 3, 4],
      [1, 2, 3, 4, 5, 6],
    ]);
  });
});
