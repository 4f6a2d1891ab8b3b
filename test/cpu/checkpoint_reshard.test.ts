import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Manifest } from "../../lib/checkpoint/manifest.ts";
import { PartReader } from "../../lib/checkpoint/part_reader.ts";
import { savingShared } from "../../lib/checkpoint/shared.ts";
import { saveCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { verifyCheckpoint } from "../../lib/checkpoint/verify.ts";
import { bytesOf, onRanks, unsynced, valuesOf } from "../pure/checkpoint_ranks.ts";
import { modelTensors, piecesOn, type TestMesh, testMeshes } from "./checkpoint_meshes.ts";

const folder = mkdtempSync(join(tmpdir(), "xlstm-reshard-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const meshes = testMeshes();
const facts = { recipe: {}, data: { row: 640 }, rng: { seed: 1 } };
const saved = new Map<TestMesh, { path: string; manifest: Manifest }>();

/** The checkpoint that the ranks of a mesh have written. */
function savedOn(mesh: TestMesh) {
  const known = saved.get(mesh);
  if (known) return known;
  const directory = join(folder, mesh.name);
  const outcomes = onRanks(mesh.world, (place) => {
    const pieces = piecesOn(mesh, place.rank);
    const contents = { step: 3, pieces, mesh: {}, ...facts };
    return savingShared(directory, contents, place, { files: unsynced });
  });
  const path = valuesOf(outcomes)[0]!;
  const made = { path, manifest: verifyCheckpoint(path) };
  saved.set(mesh, made);
  return made;
}

/** Reads what every rank of a mesh has; the bytes must be those of the whole tensors. */
function expectSame(path: string, manifest: Manifest, mesh: TestMesh): number {
  const stored = new Map(manifest.tensors.map((tensor) => [tensor.name, tensor]));
  let elements = 0;
  for (let rank = 0; rank < mesh.world; rank++) {
    const reader = new PartReader(path, manifest);
    for (const part of mesh.heldBy(rank)) {
      const { tensor, from, to } = part;
      const bytes = reader.read(stored.get(tensor.name)!, part);
      if (Buffer.compare(bytes, part.bytes) !== 0) {
        throw new Error(`${tensor.name}: other bytes on rank ${rank} of ${mesh.name}`);
      }
      elements += to - from;
    }
  }
  return elements;
}

/** Every mesh loads as often as it saves. */
const steps = [0, 1, 5, 12, 23];
const pairs = meshes.length * steps.length;

test(`saved on any mesh, loaded on any other: ${pairs} pairs, equal bytes`, () => {
  expect(pairs).toBeGreaterThan(200);
  const loaded = new Set<TestMesh>();
  let total = 0;
  for (const [index, from] of meshes.entries()) {
    const { path, manifest } = savedOn(from);
    expect(manifest.tensors).toHaveLength(modelTensors.length);
    for (const step of steps) {
      const to = meshes[(index + step) % meshes.length]!;
      total += expectSame(path, manifest, to);
      loaded.add(to);
    }
  }
  expect(loaded.size).toBe(meshes.length);
  expect(total).toBeGreaterThan(1e6);
}, 60_000);

test("a plain checkpoint on every mesh; every element is stored once", () => {
  const tensors = modelTensors.map(
    ({ name, dtype, shape, bytes }) => [name, bytesOf(dtype, shape, bytes)] as const,
  );
  const path = saveCheckpoint(join(folder, "plain"), { step: 3, tensors, ...facts });
  const manifest = verifyCheckpoint(path);
  for (const mesh of meshes) expectSame(path, manifest, mesh);
  const bytes = modelTensors.reduce((sum, tensor) => sum + tensor.bytes.length, 0);
  for (const { manifest: other } of saved.values()) {
    const held = other.files.reduce((sum, file) => sum + file.bytes - file.headerBytes, 0);
    expect(held).toBe(bytes);
  }
}, 60_000);
