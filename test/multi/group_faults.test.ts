// What ranks see when one of them calls something else, is late, leaves, stops or dies: an error
// that names it, on every other rank, instead of a wait without end.

import { expect, test } from "bun:test";
import type { RecordedOperation } from "../../lib/mesh/comm_record.ts";
import { type RankResult, startRanks } from "../helpers/ranks.ts";

interface Seen {
  readonly errors: readonly string[];
  readonly record: readonly RecordedOperation[];
}

/** Runs four ranks of which rank 2 is at fault; returns all results. */
async function fault(name: string, deadline = 100): Promise<RankResult[]> {
  const ranks = startRanks("rank_group_faults.ts", 4, [name, "2", String(deadline)]);
  const ends = ranks.processes.filter((_, rank) => rank !== 2).map(({ exited }) => exited);
  // Stopped and sleeping ranks do not end by themselves.
  await Promise.all(ends);
  ranks.processes[2]!.kill("SIGKILL");
  return ranks.results();
}

function seenBy(results: readonly RankResult[], ranks: readonly number[]): Seen[] {
  return ranks.map((rank) => {
    const { value, error, stderr } = results[rank]!;
    expect(error, stderr).toBeUndefined();
    return value as Seen;
  });
}

const other = [0, 1, 3];
const sum = "all_reduce[fsdp] #1 (block 6 grads, 8 f32)";

const mistakes = {
  swap: "all_gather[fsdp] #1 (block 5 weights, 8 f32)",
  shape: "all_reduce[fsdp] #1 (block 6 grads, 9 f32)",
  site: "all_reduce[fsdp] #1 (block 7 grads, 8 f32)",
};
for (const [name, mistake] of Object.entries(mistakes)) {
  test(`a rank that calls something else (${name}): every rank names both calls`, async () => {
    const results = await startRanks("rank_group_faults.ts", 4, [name, "2"]).results();
    const text = `rank 2 called ${mistake} while ranks 0, 1, 3 called ${sum}`;
    for (const { errors } of seenBy(results, [0, 1, 2, 3])) {
      expect(errors[0]).toEndWith(text);
      expect(errors[1]).toBe(`barrier[fsdp]: the group was given up: ${text}`);
    }
  }, 60_000);
}

test("a rank that does not come in time is named, with its last call", async () => {
  const results = await fault("skip", 0.5);
  const late = `${sum}: rank 2 did not come within 0.500 s; the last call of rank 2 was`;
  for (const { errors } of seenBy(results, other)) {
    expect(errors[0]).toContain(`${late} all_reduce[fsdp] #0 (warm, 8 f32)`);
    expect(errors[1]).toContain("the group was given up");
  }
}, 60_000);

test("a stopped process is a late rank", async () => {
  const results = await fault("stop", 0.5);
  for (const { errors } of seenBy(results, other)) {
    expect(errors[0]).toContain("rank 2 did not come within 0.500 s");
  }
}, 60_000);

for (const [name, what] of Object.entries({ leave: "disposes of the group", exit: "ends" })) {
  test(`a rank that ${what} while others wait for it`, async () => {
    const results = await fault(name);
    for (const { errors } of seenBy(results, other)) {
      expect(errors[0]).toMatch(/rank 2 has left while rank \d waits for it in all_reduce\[fsdp\]/);
    }
  }, 60_000);
}

test("a killed process is seen by the watchdog, long before the deadline", async () => {
  const results = await fault("kill", 3600);
  expect(results[2]!.signal).toBe("SIGKILL");
  for (const { errors } of seenBy(results, other)) {
    const died = /rank 2 \(process \d+\) of group fsdp has died; its last call was all_reduce/;
    expect(errors[0]).toMatch(died);
  }
}, 60_000);

test("a group that a rank gives up, and its flight record", async () => {
  const results = await fault("abort");
  for (const { errors, record } of seenBy(results, other)) {
    expect(errors[0]).toContain("the group was given up: the disk is full");
    expect(record.map(({ op, site, seq }) => [op, site, seq])).toEqual([
      ["all_reduce", "warm", 0],
      ["all_reduce", "block 6 grads", 1],
      ["barrier", "after", 2],
    ]);
    const [warm, failed] = record as [RecordedOperation, RecordedOperation];
    expect(warm).toMatchObject({ group: "fsdp", dtype: "f32", count: 8, step: 17 });
    expect(warm.finished! >= warm.started! && warm.started! >= warm.enqueued).toBe(true);
    expect(failed.failed).toBe(true);
    expect(failed.finished).toBeUndefined();
  }
}, 60_000);

test("a message that is not the expected one names both", async () => {
  const [, receiver] = await startRanks("rank_group_messages.ts", 2, ["mismatch"]).results();
  expect(receiver!.error).toContain(
    "rank 0 called send[pp] #0 (forward 3, 4 f32) while rank 1 called receive[pp] #0 " +
      "(forward 2, 4 f32)",
  );
}, 60_000);

test("a rank that never comes to the group is named", async () => {
  const results = await startRanks("rank_group_messages.ts", 3, ["absent"]).results();
  for (const rank of [0, 2]) {
    const text = "group pp: not all of ranks 0, 1, 2 came within 0.5 s; missing 1";
    expect(results[rank]!.error).toContain(text);
  }
}, 60_000);
