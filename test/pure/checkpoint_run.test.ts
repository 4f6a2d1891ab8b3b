// Ranks that open a run together: one folder, one checkpoint, the same settings or the same error.

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { RankError } from "../../lib/checkpoint/agreement.ts";
import { savingShared } from "../../lib/checkpoint/shared.ts";
import { openingRun, openRun } from "../../lib/train/resume.ts";
import { onRanks, threePieces, valuesOf } from "./checkpoint_ranks.ts";

let runs: string;
beforeEach(() => {
  runs = mkdtempSync(join(tmpdir(), "xlstm-runs-"));
});
afterEach(() => rmSync(runs, { recursive: true, force: true }));

const schema = z.strictObject({
  run: z.string().optional(),
  runs: z.string(),
  resume: z.boolean(),
  steps: z.int(),
  lr: z.number(),
  mesh: z.strictObject({ tp: z.int().default(1), fsdp: z.int().default(1) }).prefault({}),
});

const mesh = { tp: 3, fsdp: 1 };

function open(steps: number, resume: boolean, provenance: [string, string][] = []) {
  const given = { runs, resume, steps, lr: 1, mesh };
  return onRanks(3, (place) => openingRun(schema, given, new Map(provenance), "novel", place));
}

function save(run: string, step: number, recipe: object): void {
  const outcomes = onRanks(3, (place) => {
    const pieces = threePieces(step, place.rank);
    const facts = { recipe: recipe as never, data: {}, rng: {}, mesh: { tp: 3 } };
    return savingShared(join(runs, run, "checkpoints"), { step, pieces, ...facts }, place);
  });
  valuesOf(outcomes);
}

test("a new run: one folder for all ranks, the next name when it is taken", () => {
  for (const name of ["novel", "novel-2"]) {
    for (const { run, settings } of valuesOf(open(7, false))) {
      expect(run).toMatchObject({ name, path: join(runs, name) });
      expect(settings).toMatchObject({ steps: 7, lr: 1 });
    }
  }
  expect(readdirSync(runs).sort()).toEqual(["novel", "novel-2"]);
  const config = JSON.parse(readFileSync(join(runs, "novel/config.json"), "utf8"));
  expect(config).toMatchObject({ steps: 7 });
  const given = { runs, resume: false, steps: 7, lr: 1, mesh };
  expect(openRun(schema, given, new Map(), "novel").run.name).toBe("novel-3");
});

test("resume: every rank has the settings of the newest sound checkpoint", () => {
  valuesOf(open(7, false));
  const stored = { runs, resume: false, mesh: { tp: 1, fsdp: 8 } };
  save("novel", 4, { ...stored, steps: 7, lr: 0.25 });
  save("novel", 5, { ...stored, steps: 8, lr: 0.5 });
  for (const { run, settings } of valuesOf(open(40, true))) {
    expect(run.name).toBe("novel");
    expect(settings).toEqual({ runs, resume: false, steps: 8, lr: 0.5, mesh });
  }
  truncateSync(join(runs, "novel/checkpoints/step-5/rank-1.safetensors"), 9);
  for (const { settings } of valuesOf(open(40, true, [["steps", "command line"]]))) {
    expect(settings).toEqual({ runs, resume: false, steps: 40, lr: 0.25, mesh });
  }
});

test("nothing to resume from: exit code 66 on every rank", () => {
  for (const [rank, { error }] of open(7, true).entries()) {
    expect(error).toMatchObject({ exitCode: 66 });
    expect(error!.message).toContain("has a checkpoint: make one with");
    expect(error instanceof RankError).toBe(rank !== 0);
  }
});
