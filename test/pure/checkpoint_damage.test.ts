import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  copyFileSync,
  cpSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CheckpointError } from "../../lib/checkpoint/errors.ts";
import { blockBytes } from "../../lib/checkpoint/hash.ts";
import { readManifest } from "../../lib/checkpoint/manifest.ts";
import { PartReader } from "../../lib/checkpoint/part_reader.ts";
import { wholePart, wholePlacement } from "../../lib/checkpoint/pieces.ts";
import { latestCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { savingShared } from "../../lib/checkpoint/shared.ts";
import { verifyCheckpoint, verifyStructure } from "../../lib/checkpoint/verify.ts";
import { columnsOf, globalTensor, onRanks, pieceOf, valuesOf } from "./checkpoint_ranks.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-damage-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const vector = (seed: number) => globalTensor("runs", "f32", [50], seed);
const matrix = (seed: number) => globalTensor("columns", "bf16", [4, 6], seed);

/** A checkpoint of two ranks. */
function saved(step: number): string {
  const task = onRanks(2, (place) => {
    const placement = columnsOf([4, 6], place.rank, 2);
    const range = place.rank === 0 ? { to: 20 } : { from: 20 };
    const pieces = [pieceOf(vector(step), range), pieceOf(matrix(step), { placement })];
    const facts = { recipe: {}, data: { row: step }, rng: {} };
    return savingShared(folder, { step, pieces, mesh: { tp: 2 }, ...facts }, place);
  });
  return valuesOf(task)[0]!;
}

const fileOf = (path: string, rank: number) => join(path, `rank-${rank}.safetensors`);

test("files cut, grown, missing, exchanged: the file and the tensor are named", () => {
  const path = saved(1);
  const other = saved(2);
  const good = readFileSync(fileOf(path, 1));
  const damages: [() => void, RegExp][] = [
    [() => truncateSync(fileOf(path, 1), good.length - 1), /rank-1\.safetensors: has \d+ bytes/],
    [() => writeFileSync(fileOf(path, 1), Buffer.concat([good, good])), /rank-1.*: has \d+ bytes/],
    [() => rmSync(fileOf(path, 1)), /rank-1\.safetensors: is missing/],
    [() => copyFileSync(fileOf(path, 0), fileOf(path, 1)), /rank-1\.safetensors: has \d+ bytes/],
    [
      () => copyFileSync(fileOf(other, 1), fileOf(path, 1)),
      /rank-1\.safetensors: tensor "(runs|columns)": the data/,
    ],
  ];
  for (const [damage, reason] of damages) {
    damage();
    expect(() => verifyCheckpoint(path)).toThrow(CheckpointError);
    expect(() => verifyCheckpoint(path)).toThrow(reason);
    writeFileSync(fileOf(path, 1), good);
    verifyCheckpoint(path);
  }
});

test("files of equal length that changed their names: the header or the data is wrong", () => {
  const task = onRanks(2, (place) => {
    const pieces = [pieceOf(matrix(1), { placement: columnsOf([4, 6], place.rank, 2) })];
    const facts = { recipe: {}, data: {}, rng: {} };
    return savingShared(folder, { step: 1, pieces, mesh: {}, ...facts }, place);
  });
  const path = valuesOf(task)[0]!;
  renameSync(fileOf(path, 0), join(folder, "aside"));
  renameSync(fileOf(path, 1), fileOf(path, 0));
  renameSync(join(folder, "aside"), fileOf(path, 1));
  expect(() => verifyCheckpoint(path)).toThrow(/rank-0\.safetensors: tensor "columns": the data/);
});

test("800 flips of single bits: all detected, and the tensor is named where it is one", () => {
  const path = saved(1);
  const files = ["manifest.json", "rank-0.safetensors", "rank-1.safetensors"].map((name) => {
    return { file: join(path, name), bytes: readFileSync(join(path, name)) };
  });
  let state = 977;
  const next = (limit: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
  const named = new Set<string>();
  for (let round = 0; round < 800; round++) {
    const { file, bytes } = files[round % 3]!;
    const damaged = Uint8Array.from(bytes);
    const position = next(bytes.length);
    damaged[position] = damaged[position]! ^ (1 << next(8));
    writeFileSync(file, damaged);
    let message = "";
    try {
      verifyCheckpoint(path);
    } catch (error) {
      expect(error).toBeInstanceOf(CheckpointError);
      message = (error as Error).message;
    }
    if (!message.startsWith(file)) throw new Error(`byte ${position} of ${file}: "${message}"`);
    const tensor = /tensor "(\w+)": the data/.exec(message)?.[1];
    if (tensor) named.add(`${tensor} in ${file.slice(path.length + 1)}`);
    writeFileSync(file, bytes);
  }
  expect(named.size).toBe(4);
});

interface RawPiece {
  file: string;
  offset: number;
  bytes: number;
  box?: [number, number][][];
  from: number;
  to: number;
  hashes: string[];
}

interface RawManifest {
  files: { name: string; bytes: number }[];
  tensors: { name: string; shape: number[]; pieces: RawPiece[] }[];
}

/** A copy of a checkpoint with another manifest, whose own hash is right. */
function resealed(path: string, change: (manifest: RawManifest) => void): string {
  const copy = join(folder, "resealed");
  rmSync(copy, { recursive: true, force: true });
  cpSync(path, copy, { recursive: true });
  const { sha256: _, ...manifest } = JSON.parse(readFileSync(join(path, "manifest.json"), "utf8"));
  change(manifest);
  const body = JSON.stringify(manifest);
  const hash = new Bun.CryptoHasher("sha256").update(body).digest("hex");
  writeFileSync(join(copy, "manifest.json"), `${body.slice(0, -1)},"sha256":"${hash}"}\n`);
  return copy;
}

const lies: [string, (manifest: RawManifest) => void, RegExp][] = [
  [
    "a piece is missing",
    ({ tensors }) => tensors[0]!.pieces.pop(),
    /tensor "runs": elements 20 to 50 of 50 are in no file; a piece is missing/,
  ],
  [
    "a box is missing",
    ({ tensors }) => tensors[1]!.pieces.shift(),
    /tensor "columns": 12 of its 24 elements are in no file/,
  ],
  [
    "two pieces overlap",
    ({ tensors }) => {
      const piece = tensors[0]!.pieces[1]!;
      piece.from -= 3;
      piece.to -= 3;
    },
    /rank-1\.safetensors: tensor "runs": elements 17 to 20 are in rank-0\.safetensors, too/,
  ],
  [
    "two boxes overlap",
    ({ tensors }) => (tensors[1]!.pieces[1]!.box![1] = [[2, 3]]),
    /rank-1\.safetensors: tensor "columns": its box overlaps that in rank-0\.safetensors/,
  ],
  [
    "a box is larger than the tensor",
    ({ tensors }) => (tensors[1]!.pieces[1]!.box![1] = [[3, 4]]),
    /rank-1\.safetensors: tensor "columns": has a box with elements 3 to 7/,
  ],
  [
    "a piece has more elements than bytes",
    ({ tensors }) => (tensors[0]!.pieces[1]!.to = 49),
    /rank-1\.safetensors: tensor "runs": its piece has 120 bytes, expected 116/,
  ],
  [
    "a piece ends after the tensor",
    ({ tensors }) => (tensors[0]!.shape = [49]),
    /rank-1\.safetensors: tensor "runs": its piece is elements 20 to 50 of 49/,
  ],
  [
    "a hash is missing",
    ({ tensors }) => tensors[0]!.pieces[1]!.hashes.pop(),
    /rank-1\.safetensors: tensor "runs": its piece has 0 hashes, expected 1/,
  ],
  [
    "bytes of a file belong to no piece",
    ({ tensors }) => tensors.pop(),
    /its tensors end at byte|begins at byte/,
  ],
  ["a file is not listed", ({ files }) => files.pop(), /which the manifest does not list/],
];

for (const [what, lie, reason] of lies) {
  test(`a manifest that lies is refused: ${what}`, () => {
    const path = saved(1);
    verifyStructure(resealed(path, () => {}));
    const copy = resealed(path, lie);
    expect(() => verifyStructure(copy)).toThrow(CheckpointError);
    expect(() => verifyStructure(copy)).toThrow(reason);
  });
}

test("a damaged checkpoint in pieces is set aside, and the one before is found", () => {
  const path = saved(1);
  const newer = saved(2);
  const bytes = readFileSync(fileOf(newer, 1));
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(fileOf(newer, 1), bytes);
  const lines: string[] = [];
  expect(latestCheckpoint(folder, { warn: (line) => lines.push(line) })).toBe(path);
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatch(/step-2\/rank-1\.safetensors: tensor "columns": the data/);
});

test("a part is read block by block: only its own blocks, and each with its hash", () => {
  const elements = (3 * blockBytes) / 4;
  const large = globalTensor("large", "f32", [elements]);
  const task = onRanks(2, (place) => {
    const range = place.rank === 0 ? { to: elements - 100 } : { from: elements - 100 };
    const facts = { recipe: {}, data: {}, rng: {} };
    const pieces = [pieceOf(large, range)];
    return savingShared(folder, { step: 1, pieces, mesh: {}, ...facts }, place);
  });
  const path = valuesOf(task)[0]!;
  const manifest = readManifest(path);
  const [tensor] = manifest.tensors as [(typeof manifest.tensors)[number]];
  expect(tensor.pieces.map(({ hash }) => hash.length)).toEqual([3, 1]);
  const bytes = readFileSync(fileOf(path, 0));
  // The middle block of the first file is wrong.
  bytes[tensor.pieces[0]!.offset + blockBytes + 5]! ^= 1;
  writeFileSync(fileOf(path, 0), bytes);
  const reader = new PartReader(path, manifest);
  const whole = wholePlacement([elements]);
  const read = (from: number, to: number) => reader.read(tensor, { placement: whole, from, to });
  const expected = (from: number, to: number) => large.bytes.subarray(4 * from, 4 * to);
  const block = blockBytes / 4;
  for (const [from, to] of [
    [0, block],
    [7, 9],
    [2 * block, elements],
    [elements - 101, elements - 99],
    [elements, elements],
  ] as const) {
    expect(Buffer.compare(read(from, to), expected(from, to))).toBe(0);
  }
  const error = /rank-0\.safetensors: tensor "large": the data/;
  expect(() => read(block - 1, block + 1)).toThrow(error);
  expect(() => read(block + 100, block + 101)).toThrow(error);
  expect(() => reader.read(tensor, wholePart(whole))).toThrow(error);
});

test("a part of another tensor is refused", () => {
  const path = saved(1);
  const manifest = readManifest(path);
  const reader = new PartReader(path, manifest);
  const [, columns] = manifest.tensors as [unknown, (typeof manifest.tensors)[number]];
  const wrong = wholePart(columnsOf([4, 8], 0, 2));
  expect(() => reader.read(columns, wrong)).toThrow(
    /tensor "columns": has shape \[4,6\], the model's has shape \[4,8\]/,
  );
  const part = wholePart(columnsOf([4, 6], 0, 2));
  expect(() => reader.read(columns, part, 10, 3)).toThrow(RangeError);
  expect(reader.read(columns, part, 10, 2)).toHaveLength(4);
});
