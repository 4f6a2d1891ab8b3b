import { afterEach, beforeEach, expect, test } from "bun:test";
import * as fc from "fast-check";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CheckpointError,
  loadCheckpoint,
  saveCheckpoint,
  saveSafetensors,
} from "../../lib/checkpoint/index.ts";
import { exportWeights } from "../../lib/checkpoint/merge.ts";
import { common, wholePart, wholePlacement } from "../../lib/checkpoint/pieces.ts";
import { openSafetensors } from "../../lib/checkpoint/safetensors.ts";
import { type Piece, savingShared } from "../../lib/checkpoint/shared.ts";
import { loadModel } from "../../lib/infer/load.ts";
import { elementRuns, place, type Split } from "../../lib/mesh/placement.ts";
import { xlstm } from "../../lib/nn/model.ts";
import { scope, slice, type Tensor, tensor } from "../../lib/tensor/index.ts";
import { onRanks, valuesOf } from "../pure/checkpoint_ranks.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-parts-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const facts = { recipe: {}, data: {}, rng: {} };

/** Saves tensors that `parts` ranks hold, each split along a dim or as a run of elements. */
function savedInParts(
  tensors: ReadonlyMap<string, Tensor>,
  parts: number,
  splitOf: (name: string) => Split | undefined,
  recipe = {},
): string {
  const outcomes = onRanks(parts, ({ rank, size }) => {
    const pieces = [...tensors].map(([name, whole]) => pieceOf(name, whole, splitOf(name), rank));
    return savingShared(folder, { step: 5, pieces, mesh: {}, ...facts, recipe }, { rank, size });
  });
  return valuesOf(outcomes)[0]!;

  function pieceOf(name: string, whole: Tensor, split: Split | undefined, rank: number): Piece {
    if (split) {
      const placement = place(whole.shape, split, rank, parts);
      const [start, length] = placement.runs[split.dim]![0]!;
      const held = slice(whole, split.dim, start, start + length).clone();
      return { name, tensor: held, placement, from: 0, to: held.size, isOwner: true };
    }
    const placement = wholePlacement(whole.shape);
    const bound = (part: number) => Math.floor((part * whole.size) / parts);
    const [from, to] = [bound(rank), bound(rank + 1)];
    const held = slice(whole.reshape([-1]), 0, from, to).clone();
    return { name, tensor: held, placement, from, to, isOwner: true };
  }
}

test("runs of elements are those of the mesh's own function, for any boxes and ranges", () => {
  const dim = fc.integer({ min: 1, max: 9 });
  const shapes = fc.array(dim, { minLength: 1, maxLength: 4 });
  const parts = fc.integer({ min: 1, max: 4 });
  const seeds = fc.tuple(fc.nat(), fc.nat(), fc.nat(), fc.nat());
  fc.assert(
    fc.property(shapes, parts, seeds, (shape, count, [at, part, a, b]) => {
      const split = { dim: at % shape.length };
      const placement = place(shape, split, part % count, count);
      const whole = wholePlacement(shape);
      const size = placement.localShape.reduce((product, length) => product * length, 1);
      const [from, to] = [a % (size + 1), b % (size + 1)].sort((x, y) => x - y) as [number, number];
      const all = wholePart(whole);
      const found = [...common({ placement, from, to }, all)].map(({ b, length }) => [b, length]);
      expect(found).toEqual(elementRuns(placement, from, to).map((run) => [...run]));
    }),
    { numRuns: 500 },
  );
});

test("parts and whole tensors of a checkpoint in pieces, in another dtype when asked", () => {
  using _ = scope();
  const matrix = tensor(
    Float32Array.from({ length: 60 }, (_, i) => i / 8),
    { shape: [6, 10] },
  );
  const vector = tensor(Int32Array.from({ length: 13 }, (_, i) => i * i - 7));
  const narrow = tensor([1.5, -2, 0.25, 3], { dtype: "bf16" });
  const tensors = new Map([
    ["matrix", matrix],
    ["vector", vector],
    ["narrow", narrow],
  ]);
  const path = savedInParts(tensors, 3, (name) => (name === "matrix" ? { dim: 0 } : undefined));
  using checkpoint = loadCheckpoint(path);
  for (const [name, whole] of tensors) {
    const loaded = checkpoint.load(name);
    expect(loaded).toMatchObject({ shape: [...whole.shape], dtype: whole.dtype });
    expect(loaded.bytesSync()).toEqual(whole.bytesSync());
  }
  expect(checkpoint.load("narrow", "f64").tolist()).toEqual([1.5, -2, 0.25, 3]);
  // Rows 2 to 3 of a matrix that was saved in rows, as columns of another mesh.
  const placement = place([6, 10], { dim: 1 }, 1, 5);
  const columns = checkpoint.loadPart("matrix", wholePart(placement));
  expect(columns.tolist()).toEqual(slice(matrix, 1, 2, 4).tolist());
  const run = checkpoint.loadPart("matrix", { placement, from: 3, to: 8 }, "f64");
  expect(run).toMatchObject({ shape: [5], dtype: "f64" });
  const flat = slice(matrix, 1, 2, 4).reshape([-1]).tolist() as number[];
  expect(run.tolist()).toEqual(flat.slice(3, 8));
  const nothing = checkpoint.loadPart("matrix", { placement, from: 4, to: 4 });
  expect(nothing.shape).toEqual([0]);
  const other = wholePart(place([10, 6], undefined, 0, 1));
  expect(() => checkpoint.loadPart("matrix", other)).toThrow(/the model's has shape \[10,6\]/);
  expect(() => checkpoint.load("none")).toThrow(/tensor "none": is not there; it has 3 tensors/);
});

test("a part of a plain checkpoint; damage is named when a tensor is loaded", () => {
  using _ = scope();
  const matrix = tensor(
    Float32Array.from({ length: 24 }, (_, i) => i),
    { shape: [4, 6] },
  );
  const tensors = [["matrix", matrix]] as const;
  const path = saveCheckpoint(folder, { step: 1, tensors, ...facts });
  const half = wholePart(place([4, 6], { dim: 1 }, 1, 2));
  const expected = slice(matrix, 1, 3, 6).tolist();
  using sound = loadCheckpoint(path);
  expect(sound.loadPart("matrix", half).tolist()).toEqual(expected);
  const file = join(path, "rank-0.safetensors");
  const bytes = readFileSync(file);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(file, bytes);
  using checkpoint = loadCheckpoint(path);
  expect(() => checkpoint.load("matrix")).toThrow(CheckpointError);
  expect(() => checkpoint.loadPart("matrix", half)).toThrow(
    /rank-0\.safetensors: tensor "matrix": the data/,
  );
});

test("a model that two ranks have saved is loaded by one process, and exported", () => {
  using _ = scope();
  const config = { vocabSize: 11, embeddingDim: 16, numBlocks: 2, numHeads: 2, slstmAt: [1] };
  const model = xlstm(config, { seed: 4 });
  const isRows = (name: string) => /table$|_gate\.weight$|up\.weight$/.test(name);
  const splitOf = (name: string) => (isRows(name) ? { dim: 0 } : undefined);
  const path = savedInParts(model.parameters(), 2, splitOf, { model: config });
  const loaded = loadModel(path);
  expect(loaded.step).toBe(5);
  const parameters = loaded.model.parameters();
  expect([...parameters.keys()]).toEqual([...model.parameters().keys()]);
  for (const [name, parameter] of model.parameters()) {
    expect({ name, same: parameters.get(name)!.bytesSync().toHex() }).toEqual({
      name,
      same: parameter.bytesSync().toHex(),
    });
  }
  exportWeights(path, join(folder, "exported.safetensors"));
  saveSafetensors(join(folder, "direct.safetensors"), model.parameters(), { format: "pt" });
  const read = (name: string) => readFileSync(join(folder, name));
  expect(read("exported.safetensors").equals(read("direct.safetensors"))).toBe(true);
  using file = openSafetensors(join(folder, "exported.safetensors"));
  expect(file.names).toHaveLength(parameters.size);
});
