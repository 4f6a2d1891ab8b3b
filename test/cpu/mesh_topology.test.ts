// Meshes, placements, flat units and schedules as TypeScript sees them. The native tests go through
// all orders and sizes; these see that numbers cross the border, long lists too.

import { expect, test } from "bun:test";
import { elementRuns, place } from "../../lib/mesh/placement.ts";
import { schedule } from "../../lib/mesh/schedule.ts";
import { axes, Topology } from "../../lib/mesh/topology.ts";
import { flatUnit, ownedRange } from "../../lib/mesh/units.ts";

test("groups of 4096 ranks: every rank once, in order", () => {
  const topology = new Topology({ pp: 2, dp: -1, fsdp: 8, tp: 4 }, { world: 4096 });
  expect(topology.sizes).toEqual({ pp: 2, dp: 64, fsdp: 8, cp: 1, tp: 4 });
  const seen = new Set<number>();
  for (let rank = 0; rank < 32; rank++) {
    const group = topology.group(rank, ["pp", "dp"]);
    expect(group).toHaveLength(128);
    expect(group).toEqual(group.toSorted((a, b) => a - b));
    for (const member of group) {
      seen.add(member);
      expect(topology.coordinate(member, "tp")).toBe(topology.coordinate(rank, "tp"));
      expect(topology.coordinate(member, "fsdp")).toBe(topology.coordinate(rank, "fsdp"));
    }
  }
  expect(seen.size).toBe(4096);
  expect(topology.group(0, axes)).toEqual(Array.from({ length: 4096 }, (_, rank) => rank));
});

test("ranks and coordinates are one to one, also in another order", () => {
  const order = ["dp", "fsdp", "pp", "tp"] as const;
  const topology = new Topology({ pp: 2, dp: 3, tp: 2 }, { world: 12, order });
  expect(topology.order).toEqual([...order, "cp"]);
  for (let rank = 0; rank < 12; rank++) {
    const at = Object.fromEntries(axes.map((axis) => [axis, topology.coordinate(rank, axis)]));
    expect(topology.rankOf(at)).toBe(rank);
  }
  expect(topology.group(4, ["pp"])).toEqual([4, 6]);
  expect(topology.group(4, ["tp"])).toEqual([4, 5]);
});

test("meshes that do not fit name their numbers", () => {
  const make = (sizes: object, world = 24, order?: string[]) =>
    new Topology(sizes, { world, ...(order ? { order: order as never } : {}) });
  expect(() => make({ dp: -1, fsdp: 8, tp: 2 })).toThrow(
    "mesh: 24 ranks are not divisible by pp 1 × fsdp 8 × cp 1 × tp 2 = 16",
  );
  expect(() => make({ dp: 2 })).toThrow("= 2, but there are 24 ranks");
  expect(() => make({ dp: -1, tp: -1 })).toThrow("dp and tp are both -1");
  expect(() => make({ dp: 24.5 })).toThrow("24.5 is not the size of dp");
  expect(() => make({ cp: 24 }, 24, ["dp", "tp"])).toThrow("has no place for cp");
  expect(() => make({ dp: 24 }, 24, ["dp", "dp"])).toThrow("names dp twice");
  expect(() => make({ dp: 24 }, 24, ["dp", "ep"])).toThrow("the order names ep");
  const topology = make({ dp: 24 });
  expect(() => topology.coordinate(24, "dp")).toThrow("rank 24 of 24 ranks");
  expect(() => topology.rankOf({ dp: 24 })).toThrow("dp coordinate 24 of 24");
});

/** Global elements of a placement by a walk over its runs. */
function naive(shape: readonly number[], runs: ReturnType<typeof place>["runs"]): number[] {
  return runs.reduce(
    (elements, list, dim) =>
      elements.flatMap((before) =>
        list.flatMap(([start, length]) =>
          Array.from({ length }, (_, i) => before * shape[dim]! + start + i),
        ),
      ),
    [0],
  );
}

test("parts of a tensor are a partition, and element runs are their elements", () => {
  const shape = [6, 9, 4];
  const splits = [{ dim: 0 }, { dim: 1, segments: [6, 3] }, { dim: 2 }, undefined];
  for (const split of splits) {
    const parts = split ? 4 : 1;
    const seen: number[] = [];
    for (let part = 0; part < parts; part++) {
      const placement = place(shape, split, part, parts);
      const elements = naive(shape, placement.runs);
      const size = placement.localShape.reduce((product, length) => product * length, 1);
      expect(elements).toHaveLength(size);
      seen.push(...elements);
      for (const [from, to] of [
        [0, size],
        [1, size],
        [3, Math.max(3, size - 2)],
      ] as const) {
        if (to > size || from > to) continue;
        const runs = elementRuns(placement, from, to);
        const walked = runs.flatMap(([start, n]) => Array.from({ length: n }, (_, i) => start + i));
        expect(walked).toEqual(elements.slice(from, to));
      }
    }
    expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 216 }, (_, i) => i));
  }
});

test("more runs than fit into the scratch block", () => {
  const placement = place([5000, 6], { dim: 1 }, 1, 2);
  const runs = elementRuns(placement, 0, 15_000);
  expect(runs).toEqual(Array.from({ length: 5000 }, (_, row) => [6 * row + 3, 3] as const));
});

test("element numbers beyond 32 bits", () => {
  const placement = place([200_000, 200_000], { dim: 0 }, 1, 2);
  expect(elementRuns(placement, 5, 10)).toEqual([[2e10 + 5, 5]]);
});

test("placements that are wrong", () => {
  expect(() => place([4], { dim: 1 }, 0, 2)).toThrow("the shape [4] has none");
  expect(() => place([10], { dim: 0, segments: [4, 5] }, 0, 2)).toThrow("4 + 5 = 9 of dim 0");
  expect(() => place([10], { dim: 0 }, 2, 2)).toThrow("part 2 of 2");
  expect(() => elementRuns(place([4], undefined, 0, 1), 0, 5)).toThrow("elements 0 to 5");
});

test("flat units of many parameters", () => {
  const sizes = Array.from({ length: 300 }, (_, i) => 1000 * i + 1);
  const unit = flatUnit(sizes, 7);
  expect(unit.total).toBe(7 * unit.chunk);
  expect(unit.starts.every((start) => start % 4096 === 0)).toBe(true);
  sizes.forEach((size, index) => {
    const parts = Array.from({ length: 7 }, (_, part) => ownedRange(unit, index, size, part));
    const owned = parts.filter(({ from, to }) => to > from);
    expect(owned[0]!.from).toBe(0);
    expect(owned.at(-1)!.to).toBe(size);
    for (const [i, { from }] of owned.entries()) if (i > 0) expect(from).toBe(owned[i - 1]!.to);
  });
  expect(() => flatUnit([1], 0)).toThrow("0 shards");
  expect(() => ownedRange(unit, 300, 1, 0)).toThrow("parameter 300 of a unit of 300");
});

test("schedules", () => {
  const shown = (ops: ReturnType<typeof schedule>) =>
    ops.map(({ kind, microbatch }) => `${kind === "forward" ? "F" : "B"}${microbatch}`).join(" ");
  expect(shown(schedule(4, 8, 1))).toBe("F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 B6 B7");
  expect(shown(schedule(1, 3, 0))).toBe("F0 B0 F1 B1 F2 B2");
  const interleaved = schedule(2, 4, 0, 2);
  expect(interleaved.filter(({ chunk }) => chunk === 1)).toHaveLength(8);
  expect(() => schedule(4, 6, 0, 2)).toThrow("6 microbatches are not divisible by pp 4");
  expect(() => schedule(4, 6, 4)).toThrow("stage 4 of 4");
});
