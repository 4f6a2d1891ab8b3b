// Who is behind, from heartbeats and from what ranks that wait say about it.

import { expect, test } from "bun:test";
import { rankList, ranksNamed } from "../../lib/launch/errors.ts";
import { Monitor } from "../../lib/launch/monitor.ts";
import type { Beat, Phase } from "../../lib/launch/phases.ts";

const deadlines = { init: 300, step: 100, save: 1800, eval: 1800, heartbeat: 60 };

/** A monitor on a clock in seconds, with ranks 0 to 3 that can move and be heard of. */
function scene(given: Partial<typeof deadlines> = {}) {
  const monitor = new Monitor({ ...deadlines, ...given }, (rank) => `rank ${rank} (n0${rank})`);
  const beats = new Map<number, Beat>();
  const move = (rank: number, step: number, phase: Phase, at: number) => {
    const beat = { step, phase, ticks: (beats.get(rank)?.ticks ?? 0) + 1 };
    beats.set(rank, beat);
    monitor.beat(rank, beat, 1000 * at);
  };
  const all = (step: number, phase: Phase, at: number) => {
    for (const rank of [0, 1, 2, 3]) move(rank, step, phase, at);
  };
  const hear = (at: number, ranks = [0, 1, 2, 3]) => {
    for (const rank of ranks) monitor.beat(rank, beats.get(rank)!, 1000 * at);
  };
  return { monitor, move, all, hear, check: (at: number) => monitor.check(1000 * at) };
}

test("a rank that stays in its data phase is named with step and phase, others as waiting", () => {
  const { all, move, hear, check } = scene();
  all(1, "forward", 0);
  all(2, "data", 10);
  for (const rank of [0, 1, 3]) move(rank, 2, "forward", 11);
  hear(110);
  expect(check(110)).toBeUndefined();
  hear(112);
  expect(check(112)).toEqual({
    reason:
      "rank 2 (n02) is behind at step 2, data, no progress for 102 s; " +
      "ranks 0, 1, 3 wait at step 2, forward",
    late: [2],
  });
});

test("the account of a rank that waits names the operation, and comes at once", () => {
  const { monitor, all, move, check } = scene();
  all(2, "data", 10);
  for (const rank of [0, 1, 3]) move(rank, 2, "forward", 11);
  const account = "all_reduce[dp] #812 (loss): rank 2 did not come within 5 s";
  monitor.failure(1, account, 16_000);
  expect(check(16)).toBeUndefined();
  monitor.failure(0, `the group was given up: ${account}`, 16_100);
  // Rank 3 has not reported either, but has come further.
  expect(check(16.6)).toEqual({
    reason:
      "rank 2 (n02) is behind at step 2, data, no progress for 6.6 s; " +
      `ranks 0, 1, 3 wait at step 2, forward: ${account}`,
    late: [2],
  });
});

test("nothing is collected any longer once every rank has failed", () => {
  const { monitor, all, check } = scene();
  all(2, "forward", 10);
  for (const rank of [0, 1, 2, 3]) monitor.failure(rank, `desync, says ${rank}`, 11_000);
  expect(check(11)).toEqual({
    reason: "desync, says 0; ranks 0-3 are at step 2, forward",
    late: [],
  });
});

test("the first step, saves and evaluations have limits of their own", () => {
  const { all, hear, check } = scene();
  all(7, "forward", 0);
  hear(250);
  expect(check(250)).toBeUndefined();
  hear(302);
  expect(check(302)?.reason).toStartWith("no rank moves, no progress for 302 s; ranks 0-3 are at");
  all(8, "save", 310);
  hear(1500);
  expect(check(1500)).toBeUndefined();
  all(8, "eval", 2000);
  hear(3799);
  expect(check(3799)).toBeUndefined();
  hear(3802);
  expect(check(3802)).toBeDefined();
});

test("others wait for a rank that saves as long as a save may take", () => {
  const { all, move, hear, check } = scene();
  all(1, "forward", 0);
  all(2, "save", 10);
  for (const rank of [1, 2, 3]) move(rank, 3, "forward", 20);
  hear(1000);
  expect(check(1000)).toBeUndefined();
  hear(1812);
  expect(check(1812)?.late).toEqual([0]);
});

test("a rank that is not heard of is stopped or cut off", () => {
  const { all, hear, check } = scene();
  all(2, "forward", 0);
  hear(50, [0, 2]);
  expect(check(59)).toBeUndefined();
  const are = "ranks 1, 3 are stopped or cut off at step 2, forward: no heartbeat for 60 s";
  expect(check(61)).toEqual({ reason: are, late: [1, 3] });
});

test("a rank that has left is waited for by nobody", () => {
  const { monitor, all, move, hear, check } = scene();
  all(2, "data", 0);
  monitor.leave(1);
  for (const rank of [0, 2, 3]) move(rank, 3, "forward", 100);
  hear(150, [0, 2, 3]);
  expect(check(150)).toBeUndefined();
});

test("ranks in words", () => {
  expect(rankList([5, 0, 1, 2, 7, 8])).toBe("0-2, 5, 7, 8");
  expect(ranksNamed([3])).toBe("rank 3");
  expect(ranksNamed([3, 1])).toBe("ranks 1, 3");
});
