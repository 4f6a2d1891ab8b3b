import { expect, test } from "bun:test";
import { blockBytes, blockHashes, hashOf } from "../../lib/checkpoint/hash.ts";
import {
  type Box,
  boxFault,
  common,
  placementOf,
  tilingFault,
  wholePlacement,
} from "../../lib/checkpoint/pieces.ts";

test("elements that two parts have in common, and where they lie in each", () => {
  // Columns 0 to 1 of [3, 4], elements 1 to 6 of it: 1, 4, 5, 8, 9 of the tensor.
  const columns = placementOf([3, 4], [[[0, 3]], [[0, 2]]]);
  const a = { placement: columns, from: 1, to: 6 };
  const b = { placement: wholePlacement([3, 4]), from: 5, to: 12 };
  expect([...common(a, b)]).toEqual([
    { a: 2, b: 0, length: 1 },
    { a: 3, b: 3, length: 2 },
  ]);
  expect([...common(b, a)]).toEqual([
    { a: 0, b: 2, length: 1 },
    { a: 3, b: 3, length: 2 },
  ]);
  const others = { placement: placementOf([3, 4], [[[0, 3]], [[2, 2]]]), from: 0, to: 6 };
  expect([...common(a, others)]).toEqual([]);
});

test("boxes that are none of their tensor", () => {
  const good: Box[] = [
    [
      [[0, 2]],
      [
        [1, 1],
        [3, 2],
      ],
    ],
    [[[0, 4]], [[0, 5]]],
  ];
  for (const box of good) expect(boxFault([4, 5], box)).toBeUndefined();
  const bad: [Box, RegExp][] = [
    [[[[0, 4]]], /a box of 1 dims, the tensor has 2/],
    [[[[0, 5]], [[0, 5]]], /dim 0 has 4 elements/],
    [
      [
        [[0, 4]],
        [
          [2, 2],
          [1, 1],
        ],
      ],
      /elements 1 to 2 after 4/,
    ],
    [
      [
        [[0, 4]],
        [
          [2, 2],
          [3, 2],
        ],
      ],
      /elements 3 to 5 after 4/,
    ],
    [[[[0, 4]], [[2, 0]]], /elements 2 to 2/],
  ];
  for (const [box, reason] of bad) expect(boxFault([4, 5], box)).toMatch(reason);
});

test("pieces are every element once, or it is said which are not", () => {
  const left: Box = [[[0, 4]], [[0, 3]]];
  const right: Box = [[[0, 4]], [[3, 3]]];
  const piece = (file: string, from: number, to: number, box?: Box) => ({ file, from, to, box });
  const shape = [4, 6];
  const fault = (...pieces: ReturnType<typeof piece>[]) => tilingFault(shape, pieces);
  expect(fault(piece("a", 0, 24))).toBeUndefined();
  expect(fault(piece("b", 10, 24), piece("a", 0, 10))).toBeUndefined();
  const halves = [piece("a", 0, 12, left), piece("b", 0, 5, right), piece("c", 5, 12, right)];
  expect(fault(...halves)).toBeUndefined();
  expect(tilingFault([0, 3], [])).toBeUndefined();
  expect(tilingFault([], [piece("a", 0, 1)])).toBeUndefined();
  expect(fault(piece("a", 0, 10))?.reason).toMatch(/^elements 10 to 24 of 24 are in no file/);
  expect(fault(piece("a", 0, 10), piece("b", 12, 24))?.reason).toMatch(/^elements 10 to 12 of 24/);
  expect(fault(piece("b", 3, 24))?.reason).toMatch(/^elements 0 to 3 of 24/);
  expect(fault(...halves.slice(1))?.reason).toMatch(/^12 of its 24 elements are in no file/);
  expect(fault(halves[0]!, halves[2]!)?.reason).toMatch(/^elements 0 to 5 of 12 are in no file/);
  expect(fault()?.reason).toMatch(/^24 of its 24 elements/);
  const overlapping = fault(piece("a", 0, 10), piece("b", 8, 24));
  expect(overlapping).toEqual({
    file: "b",
    reason: "elements 8 to 10 are in a, too; pieces must not overlap",
  });
  const boxes = fault(piece("a", 0, 12, left), piece("b", 0, 16, [[[0, 4]], [[2, 4]]]));
  expect(boxes).toEqual({ file: "b", reason: "its box overlaps that in a" });
  expect(fault(piece("a", 0, 24), piece("b", 0, 12, left))?.reason).toMatch(/overlaps that in a/);
});

test("a hash for every block of 1 MiB, the last one shorter", () => {
  const bytes = Uint8Array.from({ length: 2 * blockBytes + 5 }, (_, i) => i % 251);
  expect(blockHashes(bytes)).toEqual([
    hashOf(bytes.subarray(0, blockBytes)),
    hashOf(bytes.subarray(blockBytes, 2 * blockBytes)),
    hashOf(bytes.subarray(2 * blockBytes)),
  ]);
  expect(blockHashes(new Uint8Array())).toEqual([]);
  expect(hashOf(new Uint8Array())).toBe("2d06800538d394c2");
});
