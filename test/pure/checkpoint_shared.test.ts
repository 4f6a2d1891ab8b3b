import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { alone, type Place } from "../../lib/checkpoint/agreement.ts";
import { findingLatest } from "../../lib/checkpoint/discovery.ts";
import { CheckpointError } from "../../lib/checkpoint/errors.ts";
import { type Files, systemFiles } from "../../lib/checkpoint/files.ts";
import { PartReader } from "../../lib/checkpoint/part_reader.ts";
import { wholePart, wholePlacement } from "../../lib/checkpoint/pieces.ts";
import { latestCheckpoint, saveCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { saveShared, savingShared } from "../../lib/checkpoint/shared.ts";
import { verifyCheckpoint } from "../../lib/checkpoint/verify.ts";
import {
  bytesOf,
  columnsOf,
  type GlobalTensor,
  globalTensor,
  Killed,
  onRanks,
  pieceOf,
  threePieces,
  threeTensors,
  unsynced,
  valuesOf,
  watchedFiles,
} from "./checkpoint_ranks.ts";
import { DiskModel } from "./disk_model.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-shared-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const facts = { recipe: { width: 6 }, data: { row: 12 }, rng: { seed: 3 } };

function contents(step: number, rank: number, pieces = threePieces(step, rank)) {
  return { step, pieces, mesh: { tp: 3 }, ...facts };
}

interface Saving {
  readonly filesOf?: (rank: number) => Files;
  readonly isDead?: (rank: number) => boolean;
  readonly lines?: string[];
  readonly newest?: number;
  readonly make?: (rank: number) => ReturnType<typeof contents>;
}

function save(directory: string, step: number, options: Saving = {}) {
  const { filesOf, isDead, lines = [], newest = 1 } = options;
  const { make = (rank: number) => contents(step, rank) } = options;
  const task = (place: Place) => {
    const files = filesOf?.(place.rank) ?? unsynced;
    const warn = (line: string) => lines.push(line);
    return savingShared(directory, make(place.rank), place, { keep: { newest }, warn, files });
  };
  return onRanks(3, task, isDead);
}

/** Every tensor of a checkpoint by name, as hexadecimal digits. */
function contentsOf(path: string): Record<string, string> {
  const manifest = verifyCheckpoint(path);
  const reader = new PartReader(path, manifest);
  const all = manifest.tensors.map((tensor) => {
    const bytes = reader.read(tensor, wholePart(wholePlacement(tensor.shape)));
    return [tensor.name, Buffer.from(bytes).toString("hex")] as const;
  });
  return Object.fromEntries(all);
}

function expected(seed: number): Record<string, string> {
  const all: GlobalTensor[] = Object.values(threeTensors(seed));
  return Object.fromEntries(
    all.map(({ name, bytes }) => [name, Buffer.from(bytes).toString("hex")]),
  );
}

test("every rank writes what it owns; together the files hold every tensor once", () => {
  const directory = at("new/checkpoints");
  const paths = valuesOf(save(directory, 4));
  expect(new Set(paths)).toEqual(new Set([join(directory, "step-4")]));
  expect(readdirSync(directory).sort()).toEqual(["latest", "step-4"]);
  const [path] = paths as [string];
  const names = [0, 1, 2].map((rank) => `rank-${rank}.safetensors`);
  expect(readdirSync(path).sort()).toEqual(["manifest.json", ...names]);
  const manifest = verifyCheckpoint(path);
  expect(manifest).toMatchObject({ format: 2, step: 4, mesh: { tp: 3 }, ...facts });
  expect(manifest.tensors.map(({ name, shape, pieces }) => [name, shape, pieces.length])).toEqual([
    ["columns", [5, 6], 3],
    ["runs", [31], 2],
    ["copied", [3], 1],
    ["empty", [0, 4], 0],
  ]);
  expect(contentsOf(path)).toEqual(expected(4));
  expect(latestCheckpoint(directory)).toBe(path);
  // Each file by itself is a safetensors file: boxes keep their shape, runs are vectors.
  const header = (name: string) => {
    const bytes = readFileSync(join(path, name));
    return JSON.parse(bytes.toString("utf8", 8, 8 + Number(bytes.readBigUInt64LE(0))));
  };
  expect(header(names[1]!)).toEqual({
    columns: { dtype: "F32", shape: [5, 2], data_offsets: [0, 40] },
  });
  expect(Object.keys(header(names[2]!))).toEqual(["columns", "copied", "runs"]);
  expect(header(names[2]!).runs).toMatchObject({ dtype: "BF16", shape: [22] });
});

test("a rank that owns nothing writes no file", () => {
  const make = (rank: number) => {
    const whole = [pieceOf(threeTensors(1).columns, { isOwner: rank === 1 })];
    return contents(1, rank, whole);
  };
  const [path] = valuesOf(save(at("c"), 1, { make }));
  expect(readdirSync(path!).sort()).toEqual(["manifest.json", "rank-1.safetensors"]);
  expect(contentsOf(path!)["columns"]).toEqual(expected(1)["columns"]!);
});

test("a single rank writes a plain checkpoint, byte for byte", () => {
  const all = Object.values(threeTensors(7));
  const pieces = all.map((tensor) => pieceOf(tensor));
  const shared = saveShared(at("shared"), { step: 7, pieces, mesh: {}, ...facts }, alone);
  const tensors = all.map(
    ({ name, dtype, shape, bytes }) => [name, bytesOf(dtype, shape, bytes)] as const,
  );
  const plain = saveCheckpoint(at("plain"), { step: 7, tensors, ...facts });
  for (const name of ["manifest.json", "rank-0.safetensors"]) {
    expect(readFileSync(join(shared, name))).toEqual(readFileSync(join(plain, name)));
  }
  const part = [pieceOf(all[0]!, { from: 3 })];
  const saving = () => saveShared(at("x"), { step: 8, pieces: part, mesh: {}, ...facts }, alone);
  expect(saving).toThrow(/columns: a single rank has elements 3 to 30, not all of them/);
});

const disagreements: [string, (rank: number) => ReturnType<typeof contents>, RegExp][] = [
  ["steps", (rank) => contents(rank === 1 ? 8 : 7, rank), /rank 1 is at step 8, rank 0 at step 7/],
  [
    "positions in the data",
    (rank) => ({ ...contents(7, rank), data: { row: rank === 2 ? 11 : 12 } }),
    /rank 2 has another position in the data/,
  ],
  [
    "dtypes",
    (rank) => {
      const dtype = rank === 2 ? "bf16" : "f32";
      return contents(7, rank, [
        pieceOf(globalTensor("w", dtype, [3, 3]), { placement: columnsOf([3, 3], rank, 3) }),
      ]);
    },
    /w is bf16 \[3,3\] on rank 2, on rank 0 f32 \[3,3\]/,
  ],
  [
    "owners: two",
    (rank) => contents(7, rank, [pieceOf(threeTensors(7).copied)]),
    /rank-1\.safetensors: tensor "copied": elements 0 to 3 are in rank-0\.safetensors, too/,
  ],
  [
    "owners: none",
    (rank) =>
      contents(
        7,
        rank,
        threePieces(7, rank).map((piece) => ({ ...piece, isOwner: rank !== 1 })),
      ),
    /tensor "columns": 10 of its 30 elements are in no file/,
  ],
  [
    "bounds of a piece",
    (rank) => {
      const pieces = threePieces(7, rank).map((piece) => ({
        ...piece,
        to: piece.to + (rank === 1 ? 1 : 0),
      }));
      return contents(7, rank, pieces);
    },
    /piece of columns: elements 0 to 11 of 10/,
  ],
  [
    "facts that JSON does not hold",
    (rank) => ({ ...contents(7, rank), rng: { seed: rank === 1 ? Number.NaN : 3 } }),
    /rng\.seed is NaN/,
  ],
];

for (const [what, make, reason] of disagreements) {
  test(`ranks that do not agree on ${what}: no rank saves`, () => {
    const directory = at("c");
    valuesOf(save(directory, 1));
    for (const { error } of save(directory, 7, { make })) {
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error!.message).toMatch(/step-[78]: was not saved: /);
      expect(error!.message).toMatch(reason);
    }
    expect(readdirSync(directory).sort()).toEqual(["latest", "step-1"]);
  });
}

test("a step twice: an error on every rank, and the step stays", () => {
  const directory = at("c");
  valuesOf(save(directory, 1));
  for (const { error } of save(directory, 1)) expect(error!.message).toMatch(/is saved already/);
  expect(contentsOf(join(directory, "step-1"))).toEqual(expected(1));
});

test("ENOSPC at every file operation of every rank: all give up, or all have saved", () => {
  const outcomes = new Map<string, number>();
  for (const victim of [0, 1, 2]) {
    for (let failAt = 1; ; failAt++) {
      const directory = at(`run-${victim}-${failAt}`);
      valuesOf(save(directory, 1));
      let reached = false;
      const filesOf = (rank: number) =>
        watchedFiles((count, name) => {
          if (rank !== victim || count !== failAt) return;
          reached = true;
          throw new Error(`ENOSPC in ${name}`);
        });
      const lines: string[] = [];
      const results = save(directory, 2, { filesOf, lines });
      if (!reached) break;
      const failed = results.filter(({ error }) => error);
      if (failed.length > 0) {
        expect(failed).toHaveLength(3);
        for (const [rank, { error }] of results.entries()) {
          expect(error).toBeInstanceOf(CheckpointError);
          expect(error!.message).toMatch(/step-2: was not saved: .*ENOSPC in/);
          if (rank !== victim) expect(error!.message).toContain(`rank ${victim}: `);
        }
      }
      const step = failed.length > 0 ? 1 : 2;
      expect(latestCheckpoint(directory)).toBe(join(directory, `step-${step}`));
      expect(contentsOf(join(directory, `step-${step}`))).toEqual(expected(step));
      const what = failed.length > 0 ? "old" : lines.length > 0 ? "new with a line" : "new";
      outcomes.set(what, (outcomes.get(what) ?? 0) + 1);
      // The next save works and clears what was left behind.
      valuesOf(save(directory, 3));
      expect(readdirSync(directory).sort()).toEqual(["latest", "step-3"]);
      expect(contentsOf(join(directory, "step-3"))).toEqual(expected(3));
    }
  }
  expect([...outcomes.keys()].sort()).toEqual(["new with a line", "old"]);
  expect(outcomes.get("old")).toBeGreaterThan(15);
}, 60_000);

for (const [what, victim, lost] of [
  ["header of rank 2's file", 2, 1],
  ["data of rank 1's file", 1, 2],
  ["manifest", 0, 4],
] as const) {
  test(`a write that is lost without an error never commits: ${what}`, () => {
    const directory = at("c");
    valuesOf(save(directory, 1));
    let count = 0;
    const filesOf = (rank: number): Files => ({
      ...unsynced,
      write(descriptor, bytes) {
        if (rank !== victim || ++count !== lost) systemFiles.write(descriptor, bytes);
      },
    });
    for (const { error } of save(directory, 2, { filesOf })) {
      expect(error!.message).toMatch(
        /step-2: was not saved: .*(has \d+ bytes, expected|cut short)/,
      );
    }
    expect(readdirSync(directory).sort()).toEqual(["latest", "step-1"]);
  });
}

test("kill -9 of one rank, or of all, at every file operation: none is damaged", () => {
  const found = new Map<string, number>();
  for (const victim of [0, 1, 2]) {
    for (const all of [false, true]) {
      for (let killAt = 1; ; killAt++) {
        const directory = at(`run-${victim}-${all}-${killAt}`);
        valuesOf(save(directory, 1));
        let isOver = false;
        const filesOf = (rank: number) =>
          watchedFiles((count) => {
            isOver ||= rank === victim && count === killAt;
            if (isOver && (all || rank === victim)) throw new Killed();
          });
        const isDead = (rank: number) => isOver && (all || rank === victim);
        const results = save(directory, 2, { filesOf, isDead });
        if (!isOver) break;
        for (const [rank, { error, isDead: gone }] of results.entries()) {
          if (gone) expect(all || rank === victim).toBe(true);
          else if (error) expect(error.message).toMatch(/a peer is lost/);
        }
        const lines: string[] = [];
        const latest = latestCheckpoint(directory, { warn: (line) => lines.push(line) });
        expect(lines).toEqual([]);
        const step = Number(basename(latest!).slice(5));
        expect(contentsOf(latest!)).toEqual(expected(step));
        found.set(basename(latest!), (found.get(basename(latest!)) ?? 0) + 1);
        valuesOf(save(directory, 3));
        expect(readdirSync(directory).sort()).toEqual(["latest", "step-3"]);
      }
    }
  }
  expect([...found.keys()].sort()).toEqual(["step-1", "step-2"]);
}, 60_000);

test("bytes of all ranks are on the disk before the manifest is written", () => {
  const top = at("log");
  const model = new DiskModel(makeFolder(top));
  const filesOf = () => model.files;
  valuesOf(save(join(top, "c"), 1, { filesOf }));
  const { log } = model;
  const manifest = log.indexOf("create c/step-1.tmp/manifest.json");
  for (const rank of [0, 1, 2]) {
    const name = `c/step-1.tmp/rank-${rank}.safetensors`;
    const created = log.indexOf(`create ${name}.tmp`);
    const synced = log.indexOf(`sync ${name}.tmp`);
    expect(created).toBeGreaterThan(log.indexOf("makeDirectory c/step-1.tmp"));
    expect(synced).toBeGreaterThan(created);
    expect(log.indexOf(`rename ${name}`)).toBeGreaterThan(synced);
    expect(manifest).toBeGreaterThan(log.indexOf(`rename ${name}`));
  }
  const order = ["sync c/step-1.tmp/manifest.json", "rename c/step-1", "rename c/latest"];
  const places = order.map((line) => log.indexOf(line));
  expect(places.every((place) => place > manifest)).toBe(true);
  expect(places).toEqual(places.toSorted((x, y) => x - y));
});

for (const names of ["durable", "entries"] as const) {
  const kind = names === "durable" ? "are lost" : "reach the disk before the bytes";
  test(`power cut after every operation of any rank, names ${kind}: a sound checkpoint`, () => {
    const top = makeFolder(at("disk"));
    const model = new DiskModel(top);
    const directory = join(top, "c");
    valuesOf(save(directory, 1, { filesOf: () => model.files }));
    const found = new Set<string>();
    let count = 0;
    const filesOf = () =>
      watchedFiles(() => {
        const image = at(`image-${++count}`);
        model.image(image, names);
        const lines: string[] = [];
        const path = latestCheckpoint(join(image, "c"), { warn: (line) => lines.push(line) });
        expect(lines).toEqual([]);
        expect(contentsOf(path!)).toEqual(expected(Number(basename(path!).slice(5))));
        found.add(basename(path!));
      }, model.files);
    valuesOf(save(directory, 2, { filesOf }));
    expect(count).toBeGreaterThan(30);
    expect([...found]).toEqual(["step-1", "step-2"]);
  });
}

function makeFolder(path: string): string {
  mkdirSync(path);
  return path;
}

test("all ranks find the same newest checkpoint, and each looks into files of its own", () => {
  const directory = at("c");
  const find = (allowFresh = false) => {
    const lines: string[] = [];
    const options = { allowFresh, warn: (line: string) => lines.push(line) };
    const found = onRanks(3, (place) => findingLatest(directory, place, options));
    return { found, lines };
  };
  expect(valuesOf(find().found)).toEqual([undefined, undefined, undefined]);
  for (const step of [1, 2, 3]) valuesOf(save(directory, step, { newest: 3 }));
  expect(new Set(valuesOf(find().found))).toEqual(new Set([join(directory, "step-3")]));
  flip(join(directory, "step-3/rank-1.safetensors"), -1);
  flip(join(directory, "step-2/rank-2.safetensors"), -1);
  const { found, lines } = find();
  expect(new Set(valuesOf(found))).toEqual(new Set([join(directory, "step-1")]));
  expect(lines).toHaveLength(2);
  expect(lines[0]).toMatch(/DAMAGED .*step-3\/rank-1\.safetensors: tensor "columns": the data/);
  expect(lines[1]).toMatch(/DAMAGED .*step-2\/rank-2\.safetensors: tensor "runs": the data/);
  flip(join(directory, "step-1/manifest.json"), 20);
  for (const [rank, { error }] of find().found.entries()) {
    expect(error).toMatchObject({ exitCode: 66 });
    const sentence = "none of its checkpoints is sound (step-1.bad, step-2.bad, step-3.bad)";
    expect(error!.message).toContain(sentence);
    expect(error!.message.startsWith("rank 0: ")).toBe(rank !== 0);
  }
  expect(valuesOf(find(true).found)).toEqual([undefined, undefined, undefined]);
});

function flip(path: string, position: number): void {
  const bytes = readFileSync(path);
  const index = position < 0 ? bytes.length + position : position;
  bytes[index] = bytes[index]! ^ 0x10;
  writeFileSync(path, bytes);
}
