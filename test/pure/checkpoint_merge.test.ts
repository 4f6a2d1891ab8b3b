import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportWeights, mergeCheckpoint } from "../../lib/checkpoint/merge.ts";
import { saveCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { savingShared } from "../../lib/checkpoint/shared.ts";
import { verifyCheckpoint } from "../../lib/checkpoint/verify.ts";
import {
  bytesOf,
  globalTensor,
  onRanks,
  pieceOf,
  threePieces,
  threeTensors,
  valuesOf,
} from "./checkpoint_ranks.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-merge-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const facts = {
  step: 9,
  recipe: { model: { width: 24 } },
  data: { row: 72 },
  rng: { seed: 5 },
  metrics: { loss: 2.5, spoiled: Number.NaN },
};

const moment = globalTensor("optimizer.runs.moment1", "f32", [31]);
const weights = Object.values(threeTensors(1));
const tensors = [...weights, moment].map(
  ({ name, dtype, shape, bytes }) => [name, bytesOf(dtype, shape, bytes)] as const,
);

/** Of three ranks. */
function saved(): string {
  const outcomes = onRanks(3, (place) => {
    const { rank } = place;
    const pieces = [...threePieces(1, rank), pieceOf(moment, { isOwner: rank === 1 })];
    return savingShared(at("pieces"), { ...facts, pieces, mesh: { tp: 3 } }, place);
  });
  return valuesOf(outcomes)[0]!;
}

test("merged pieces are what one process would have saved, byte for byte", () => {
  const merged = mergeCheckpoint(saved(), at("merged"));
  expect(merged).toBe(at("merged/step-9"));
  const plain = saveCheckpoint(at("plain"), { ...facts, tensors });
  for (const name of ["manifest.json", "rank-0.safetensors"]) {
    expect(readFileSync(join(merged, name)).equals(readFileSync(join(plain, name)))).toBe(true);
  }
  verifyCheckpoint(merged);
  // A plain one merges to itself.
  const again = mergeCheckpoint(merged, at("again"));
  const manifest = (path: string) => readFileSync(join(path, "manifest.json"), "utf8");
  expect(manifest(again)).toBe(manifest(plain));
});

test("exported weights: one file without moments, in a header that other tools read", () => {
  exportWeights(saved(), at("model.safetensors"));
  const bytes = readFileSync(at("model.safetensors"));
  const length = Number(bytes.readBigUInt64LE(0));
  const { __metadata__: metadata, ...header } = JSON.parse(bytes.toString("utf8", 8, 8 + length));
  expect(metadata).toEqual({ format: "pt" });
  expect(Object.keys(header).sort()).toEqual(weights.map(({ name }) => name).sort());
  for (const { name, shape, bytes: expected } of weights) {
    const { data_offsets: offsets, shape: found } = header[name];
    const data = bytes.subarray(8 + length + offsets[0], 8 + length + offsets[1]);
    expect({ name, found }).toEqual({ name, found: [...shape] });
    expect({ name, same: data.equals(expected) }).toEqual({ name, same: true });
  }
});

test("a damaged piece: nothing is merged or exported, the tensor is named", () => {
  const path = saved();
  const file = join(path, "rank-2.safetensors");
  const bytes = readFileSync(file);
  bytes[bytes.length - 9]! ^= 4;
  writeFileSync(file, bytes);
  const damage = /rank-2\.safetensors: tensor "runs": the data/;
  expect(() => mergeCheckpoint(path, at("merged"))).toThrow(damage);
  expect(readdirSync(at("merged"))).toEqual([]);
  writeFileSync(at("model.safetensors"), "old");
  expect(() => exportWeights(path, at("model.safetensors"))).toThrow(damage);
  expect(readFileSync(at("model.safetensors"), "utf8")).toBe("old");
});
