// Which blocks a stage of the pipeline holds.

import { expect, test } from "bun:test";
import type { ModelMesh } from "../../lib/nn/context.ts";
import { isOnStage, stageOf } from "../../lib/nn/stages.ts";

function stages(numBlocks: number, count: number, sizes?: readonly number[]) {
  return Array.from({ length: count }, (_, pp) => {
    const mesh = { size: () => count, coordinate: () => pp } as unknown as ModelMesh;
    return stageOf(numBlocks, mesh, sizes);
  });
}

test("every block lies on one stage, in order, and the last stage has fewer", () => {
  for (let count = 1; count <= 9; count++) {
    for (let blocks = count; blocks <= 40; blocks++) {
      const list = stages(blocks, count);
      const sizes = list.map(({ from, to }) => to - from);
      expect(list[0]!.from).toBe(0);
      expect(list.at(-1)!.to).toBe(blocks);
      list.slice(1).forEach(({ from }, i) => expect(from).toBe(list[i]!.to));
      expect(Math.min(...sizes)).toBeGreaterThanOrEqual(1);
      // With the head as one more block of the last stage, no two stages differ by more than one.
      const costs = sizes.map((size, i) => (i === count - 1 ? size + 1 : size));
      const spread = Math.max(...costs) - Math.min(...costs);
      expect(spread).toBeLessThanOrEqual(1);
      expect(list.filter(({ isFirst }) => isFirst).length).toBe(1);
      expect(list.filter(({ isLast }) => isLast).length).toBe(1);
    }
  }
  expect(stages(32, 4).map(({ from, to }) => to - from)).toEqual([9, 8, 8, 7]);
});

test("sizes that are given", () => {
  expect(stages(5, 2, [1, 4]).map(({ from, to }) => [from, to])).toEqual([
    [0, 1],
    [1, 5],
  ]);
  expect(() => stages(5, 2, [1, 3])).toThrow(/\[1, 3\] adds up to 4, not to 5 blocks/);
  expect(() => stages(5, 2, [1, 2, 2])).toThrow(/\[1, 2, 2\] has 3 sizes for 2 stages of pp/);
  expect(() => stages(5, 2, [0, 5])).toThrow(/every stage needs a whole number of blocks/);
  expect(() => stages(2, 3)).toThrow(/2 blocks are fewer than the 3 stages of pp/);
});

test("a tied table lies on the first and on the last stage, everything else on one", () => {
  const list = stages(4, 3);
  const where = (name: string, tied: boolean) => {
    const spec = { name, shape: [1], init: { kind: "constant", value: 0 }, decay: false } as const;
    return list.flatMap((stage) => (isOnStage(stage, spec, tied) ? [stage.index] : []));
  };
  expect(where("embedding.table", false)).toEqual([0]);
  expect(where("embedding.table", true)).toEqual([0, 2]);
  expect(where("lm_head.weight", false)).toEqual([2]);
  expect(where("out_norm.scale", true)).toEqual([2]);
  for (const block of [0, 1, 2, 3]) {
    expect(where(`blocks.${block}.mixer.q.weight`, true).length).toBe(1);
  }
});
