// A run that is saved on one mesh and goes on on another ends where the unbroken run ends (mesh.md
// §17, §22 M7): weights, moments, position in the data, losses.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readManifest } from "../../lib/checkpoint/manifest.ts";
import { PartReader } from "../../lib/checkpoint/part_reader.ts";
import { wholePart, wholePlacement } from "../../lib/checkpoint/pieces.ts";
import { verifyCheckpoint } from "../../lib/checkpoint/verify.ts";
import type { MeshSizes } from "../../lib/mesh/topology.ts";
import type { ResumeJob } from "../helpers/rank_resume.ts";
import { startRanks, valuesOf } from "../helpers/ranks.ts";

const folder = mkdtempSync(join(tmpdir(), "xlstm-resume-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Sets of meshes, all pairs of which are run; with several axes, a table that two stages share. */
const sets: { title: string; tied: boolean; meshes: Record<string, MeshSizes> }[] = [
  {
    title: "one axis",
    tied: false,
    meshes: { "1": {}, dp2: { dp: 2 }, fsdp2: { fsdp: 2 }, tp2: { tp: 2 }, pp2: { pp: 2 } },
  },
  {
    title: "several axes, tied embeddings",
    tied: true,
    meshes: {
      pp2: { pp: 2 },
      "fsdp2 tp2": { fsdp: 2, tp: 2 },
      "pp2 dp2": { pp: 2, dp: 2 },
    },
  },
];

const half = 10;
const steps = 20;

interface Report {
  readonly start: number;
  readonly rows: readonly number[];
  readonly losses: readonly number[];
}

/** Trains in the folders on a mesh; what rank 0 says of each. */
async function train(job: ResumeJob): Promise<Report[]> {
  const world = Object.values(job.sizes).reduce((product, size) => product * size, 1);
  const args = [`127.0.0.1:${freePort()}`, JSON.stringify(job)];
  const reports = await valuesOf<Report[]>(startRanks("rank_resume.ts", world, args));
  for (const other of reports) expect(other).toEqual(reports[0]!);
  return reports[0]!;
}

function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}

/** Every tensor of a checkpoint, as f64 numbers. */
function tensorsOf(path: string): Map<string, Float64Array> {
  const manifest = verifyCheckpoint(path);
  const reader = new PartReader(path, manifest);
  const all = manifest.tensors.map((tensor) => {
    const bytes = reader.read(tensor, wholePart(wholePlacement(tensor.shape)));
    return [tensor.name, new Float64Array(bytes.buffer)] as const;
  });
  return new Map(all);
}

/** Largest |a − b| of a tensor relative to its largest element, over all tensors. */
function difference(path: string, other: string): number {
  const [a, b] = [tensorsOf(path), tensorsOf(other)];
  expect([...a.keys()].sort()).toEqual([...b.keys()].sort());
  let worst = 0;
  for (const [name, x] of a) {
    const y = b.get(name)!;
    expect({ name, length: x.length }).toEqual({ name, length: y.length });
    const size = x.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const gap = x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i]!)), 0);
    worst = Math.max(worst, gap / (size || 1));
  }
  return worst;
}

/** Only tp adds some sums in another order: those over tokens, for norms on the residual stream. */
const barOf = (...used: string[]) => (used.some((name) => name.includes("tp2")) ? 1e-12 : 0);

describe.each(sets)("$title", ({ title, tied, meshes }) => {
  const names = Object.keys(meshes);
  const sizesOf = (name: string) => meshes[name]!;
  const at = (...parts: string[]) => join(folder, title, ...parts);
  const end = `step-${steps}`;
  const first = names[0]!;
  /** Runs without a break, by mesh. */
  const unbroken = new Map<string, Report>();

  beforeAll(async () => {
    for (const name of names) {
      const directories = [at("whole", name)];
      const job = { sizes: sizesOf(name), tied, directories, steps, every: half };
      unbroken.set(name, (await train(job))[0]!);
    }
  }, 120_000);

  test("unbroken runs end alike on every mesh", () => {
    const { losses } = unbroken.get(first)!;
    expect(losses).toHaveLength(steps);
    expect(losses.at(-1)!).toBeLessThan(0.9 * losses[0]!);
    for (const name of names.slice(1)) {
      const gap = difference(at("whole", first, end), at("whole", name, end));
      expect({ name, fine: gap <= barOf(name), gap }).toMatchObject({ name, fine: true });
    }
    const middle = at("whole", first, `step-${half}`);
    expect(difference(at("whole", first, end), middle)).toBeGreaterThan(1e-3);
  });

  test.each(names)(
    "saved on every mesh, resumed on %s: ends where the unbroken run ends",
    async (to) => {
      const directories = names.map((from) => {
        const step = `step-${half}`;
        cpSync(at("whole", from, step), at("resumed", to, from, step), { recursive: true });
        return at("resumed", to, from);
      });
      const reports = await train({ sizes: sizesOf(to), tied, directories, steps, every: 0 });
      const { data } = readManifest(at("whole", first, end));
      for (const [index, from] of names.entries()) {
        const report = reports[index]!;
        expect(report.start).toBe(half);
        expect(report.rows).toEqual(unbroken.get(first)!.rows.slice(half));
        const ended = join(directories[index]!, end);
        // The same mesh again: the same bits, tp or not.
        const bar = from === to ? 0 : barOf(from, to);
        const gap = difference(at("whole", from === to ? to : first, end), ended);
        expect({ from, fine: gap <= bar, gap }).toMatchObject({ from, fine: true });
        const { format, rng, data: position } = readManifest(ended);
        expect({ format, rng }).toEqual({
          format: to === "1" ? 1 : 2,
          rng: { seed: 7, step: steps },
        });
        expect(position).toEqual(data);
      }
    },
    120_000,
  );
});

/** A small file system, where root may mount one. */
function mountSmall(kibibytes: number): string | undefined {
  const path = mkdtempSync(join(folder, "disk-"));
  const options = ["-t", "tmpfs", "-o", `size=${kibibytes}k`, "tmpfs", path];
  if (Bun.which("mount") && Bun.spawnSync(["mount", ...options]).success) return path;
  return undefined;
}

/** KiB of a file system that holds one checkpoint, and not two. */
function roomForOne(): number {
  const { files } = readManifest(join(folder, sets[0]!.title, "whole/fsdp2", `step-${steps}`));
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  return Math.ceil((1.6 * bytes) / 1024);
}

test("a full disk: no rank saves, all go on, and the last save fails everywhere", async () => {
  const place = mountSmall(roomForOne());
  if (place === undefined) {
    console.warn("SKIPPED: mounting a small file system is not allowed here");
    return;
  }
  try {
    const directory = join(place, "checkpoints");
    const job = { sizes: { fsdp: 2 }, directories: [directory], steps: 12, every: 4 };
    const args = [`127.0.0.1:${freePort()}`, JSON.stringify(job)];
    const results = await startRanks("rank_resume.ts", 2, args).results();
    const sentence = /step-12: was not saved: .*ENOSPC.*the newest one is .*step-4$/;
    for (const { error } of results) expect(error).toMatch(sentence);
    const warnings = results.map(({ stderr }) => stderr.match(/CHECKPOINT NOT WRITTEN/g)?.length);
    expect(warnings).toEqual([1, undefined]);
    expect(results[0]!.stderr).toMatch(/NOT WRITTEN .*step-8.*training goes on/);
    expect(readdirSync(directory).sort()).toEqual(["latest", "step-4"]);
    verifyCheckpoint(join(directory, "step-4"));
  } finally {
    Bun.spawnSync(["umount", place]);
  }
}, 60_000);
