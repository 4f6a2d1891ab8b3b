// What saving by one process and saving by many have in common (reliability.md §1): the steps
// before the files of tensors, and those after them.

import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import library from "../../package.json" with { type: "json" };
import { listCheckpoints } from "./discovery.ts";
import { CheckpointError, messageOf } from "./errors.ts";
import { type Files, quietly, writeDurably } from "./files.ts";
import { type Json, plainJson } from "./json.ts";
import { encodeManifest, manifestName, type WrittenManifest } from "./manifest.ts";
import { type Keep, removable } from "./retention.ts";
import { verifyStructure } from "./verify.ts";

/** What a checkpoint holds beside its tensors. */
export interface CheckpointFacts {
  /** Steps that have been taken. */
  readonly step: number;
  /** The recipe as it was resolved. */
  readonly recipe: Json;
  /** Position in the training data; one record for all processes. */
  readonly data: Json;
  readonly rng: Json;
  /** For `keep.best`; what is not finite is stored as null. */
  readonly metrics?: Readonly<Record<string, number>>;
}

/** Path of a step's checkpoint, which must not be there yet. */
export function newPath(directory: string, step: number): string {
  const path = join(directory, `step-${step}`);
  if (!Number.isSafeInteger(step) || step < 0) {
    throw new CheckpointError({ path }, `step ${step} is not an integer from 0 on`);
  }
  if (existsSync(path)) throw new CheckpointError({ path }, "the step is saved already");
  return path;
}

/** The directory for checkpoints, and the one in it that the new one is written in. */
export function makeTemporary(directory: string, temporary: string, files: Files): void {
  makeDurably(directory, files);
  removeLeftovers(directory, files);
  files.makeDirectory(temporary);
}

/** Writes the manifest and gives the checkpoint its name: from then on it is there. */
export function commit(
  temporary: string,
  path: string,
  manifest: WrittenManifest,
  files: Files,
): void {
  const bytes = encodeManifest(path, manifest);
  writeDurably(files, join(temporary, manifestName), (write) => write(bytes));
  files.syncDirectory(temporary);
  // A write that was lost without an error must not become the newest checkpoint.
  verifyStructure(temporary);
  files.rename(temporary, path);
}

/** What comes after the commit, and is worth a line when it fails, and no more. */
export function conclude(
  directory: string,
  path: string,
  step: number,
  { keep, files, warn }: Concluding,
): void {
  const attempt = (what: string, action: () => void) => {
    try {
      action();
      return true;
    } catch (error) {
      warn(`checkpoint ${path}: saved, but ${what}: ${messageOf(error)}`);
      return false;
    }
  };
  // Until the new name is on the disk, the old checkpoints may be all there is after a power cut.
  const durable = attempt("its name may not be on the disk yet", () =>
    files.syncDirectory(directory),
  );
  attempt("`latest` was not updated", () => writeLatest(directory, basename(path), files));
  if (durable && keep) {
    attempt("old ones were not removed", () => removeOld(directory, step, keep, files));
  }
}

export interface Concluding {
  readonly keep?: Keep | undefined;
  readonly files: Files;
  readonly warn: (line: string) => void;
}

/** What the manifest says beside the tensors; checked before anything is written. */
export function plainFacts({ step, recipe, data, rng, metrics = {} }: CheckpointFacts) {
  const finite = Object.entries(metrics).map(([name, value]) => [
    name,
    Number.isFinite(value) ? value : null,
  ]);
  return {
    library: library.version,
    step,
    recipe: plainJson("recipe", recipe),
    data: plainJson("data", data),
    rng: plainJson("rng", rng),
    metrics: Object.fromEntries(finite) as WrittenManifest["metrics"],
  };
}

/** The name of a new directory must be on the disk, too, or everything in it is lost with it. */
function makeDurably(directory: string, files: Files): void {
  if (existsSync(directory)) return;
  const parent = dirname(directory);
  makeDurably(parent, files);
  files.makeDirectory(directory);
  files.syncDirectory(parent);
}

/** Advisory: people and scripts read it, discovery never trusts it. */
function writeLatest(directory: string, name: string, files: Files): void {
  const temporary = join(directory, `latest.tmp-${crypto.randomUUID()}`);
  try {
    writeDurably(files, temporary, (write) => write(new TextEncoder().encode(`${name}\n`)));
    files.rename(temporary, join(directory, "latest"));
  } catch (error) {
    quietly(() => files.remove(temporary));
    throw error;
  }
}

/** What an interrupted save or deletion left behind. */
function removeLeftovers(directory: string, files: Files): void {
  for (const name of files.list(directory)) {
    if (!/^(step-\d+\.(tmp|del)|latest\.tmp)-/.test(name)) continue;
    quietly(() => files.remove(join(directory, name)));
  }
}

function removeOld(directory: string, saved: number, keep: Keep, files: Files): void {
  for (const { path, step } of removable(listCheckpoints(directory), keep)) {
    // A run that went back to an older step saves below the newest; that one is its last good one.
    if (step === saved) continue;
    // Renamed first: a half-deleted tree must not look like a checkpoint.
    const doomed = `${path}.del-${crypto.randomUUID()}`;
    files.rename(path, doomed);
    files.remove(doomed);
  }
}
