// Groups whose other ranks do not exist: results, records, and finding ranks that would wait for
// each other forever without running them.

import { expect, test } from "bun:test";
import { Group } from "../../lib/mesh/group.ts";
import { flightRecord, type RecordedOperation } from "../../lib/mesh/comm_record.ts";
import { scope, tensor, zeros } from "../../lib/tensor/index.ts";

const ranks = Array.from({ length: 96 }, (_, i) => i);

function numberOf(line: string): number {
  return (JSON.parse(line) as RecordedOperation).number;
}

test("results are those of equal ranks; the record tells the calls", () => {
  // Other tests of this process have left their calls in the record.
  const first = flightRecord().length === 0 ? 0 : numberOf(flightRecord().at(-1)!) + 1;
  using group = Group.fake("fsdp", ranks, 5);
  expect([group.size, group.rank]).toEqual([96, 5]);
  expect(group.allReduce(tensor([1, 2]), { site: "grads" }).tolist()).toEqual([1, 2]);
  expect(group.allGather(tensor([[1], [2]]), 1).shape).toEqual([2, 96]);
  const wide = tensor(new Float32Array(192).fill(3));
  expect(group.reduceScatter(wide, 0).tolist()).toEqual([3, 3]);
  const into = { shape: [2], dtype: "f32", peer: 4, site: "b" } as const;
  expect(group.exchange({ x: wide, peer: 6, site: "a" }, into).tolist()).toEqual([0, 0]);
  group.barrier("end");
  const lines = flightRecord(first).map((line) => JSON.parse(line));
  expect(lines.map(({ op, site, count }) => [op, site, count])).toEqual([
    ["all_reduce", "grads", 2],
    ["all_gather", "", 2],
    ["reduce_scatter", "", 2],
    ["send", "a", 192],
    ["receive", "b", 2],
    ["barrier", "end", 0],
  ]);
  expect(lines.every(({ group }) => group === "fsdp")).toBe(true);
});

/** What all ranks call in a small step; `change` makes one of them differ. */
function step(change: (rank: number, group: Group) => boolean): Group[] {
  return ranks.map((_, rank) => {
    const group = Group.fake("pp", ranks, rank);
    scope(() => {
      if (rank < 95) group.send(zeros([4]), rank + 1, "forward 0");
      if (rank > 0) group.receive([4], "f32", rank - 1, "forward 0");
      if (change(rank, group)) return;
      group.allReduce(zeros([2]), { site: "loss" });
      group.allGather(zeros([8]), 0, "weights");
    });
    return group;
  });
}

test("equal sequences pass, whatever their messages", () => {
  const groups = step(() => false);
  Group.checkSequences(groups);
  for (const group of groups) group.dispose();
});

test("a swapped, a missing and an unmatched call are found, with both sides", () => {
  const swapped = step((rank, group) => {
    if (rank !== 40) return false;
    group.allGather(zeros([8]), 0, "weights");
    group.allReduce(zeros([2]), { site: "loss" });
    return true;
  });
  expect(() => Group.checkSequences(swapped)).toThrow(
    /rank 0 calls all_reduce\[pp\] #1 \(loss, 2 f32\) while rank 40 calls all_gather\[pp\]/,
  );
  const missing = step((rank) => rank === 41);
  expect(() => Group.checkSequences(missing)).toThrow("while rank 41 calls nothing more");
  const lost = step((rank, group) => {
    if (rank === 42) group.send(zeros([1]), 7, "too much");
    return false;
  });
  expect(() => Group.checkSequences(lost)).toThrow(
    /rank 42 calls send\[pp\] #2 \(too much, 1 f32\) while rank 7 calls nothing more/,
  );
  expect(() => Group.checkSequences(lost.slice(1))).toThrow("one group per rank");
  for (const group of [...swapped, ...missing, ...lost]) group.dispose();
  expect(() => Group.checkSequences(lost)).toThrow("was disposed of");
});
