// The commit protocol for one process (reliability.md §1 and §2): a checkpoint is visible complete
// or not at all, whatever fails and whenever the power goes.
//
//   const path = saveCheckpoint("checkpoints", { step, tensors, recipe, data, rng });
//   const latest = latestCheckpoint("checkpoints");
//   using checkpoint = loadCheckpoint(latest!);
//   const weight = checkpoint.load("lm_head.weight");

import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import library from "../../package.json" with { type: "json" };
import { warnUser } from "../log/index.ts";
import { CheckpointError, messageOf, NoSoundCheckpointError, UnreadableError } from "./errors.ts";
import { type Files, quietly, systemFiles, writeDurably } from "./files.ts";
import { type Json, plainJson } from "./json.ts";
import {
  encodeManifest,
  formatVersion,
  type Manifest,
  manifestName,
  NewerFormatError,
} from "./manifest.ts";
import { type Keep, removable } from "./retention.ts";
import { verifyCheckpoint, verifyStructure } from "./verify.ts";
import { saveSafetensors, type StoredFile, type TensorBytes } from "./writer.ts";

export type { Json };

export interface CheckpointContents {
  /** Steps that have been taken. */
  readonly step: number;
  /** Parameters, optimiser states, … by name. */
  readonly tensors: Iterable<readonly [string, TensorBytes]>;
  /** The recipe as it was resolved. */
  readonly recipe: Json;
  /** Position in the training data; one record for all processes. */
  readonly data: Json;
  readonly rng: Json;
  /** For `keep.best`; what is not finite is stored as null. */
  readonly metrics?: Readonly<Record<string, number>>;
}

export interface SaveOptions {
  readonly keep?: Keep;
  readonly files?: Files;
  /** Where lines about what went wrong without harm to the checkpoint go. */
  readonly warn?: (line: string) => void;
}

const tensorsName = "rank-0.safetensors";

/**
 * Saves a checkpoint as `directory/step-N` and returns that path; afterwards old ones go as `keep`
 * says. Throws a CheckpointError when anything fails before the commit, or when the step is there
 * already: the checkpoints that were there stay as they are. One writer per directory.
 */
export function saveCheckpoint(
  directory: string,
  contents: CheckpointContents,
  { keep, files = systemFiles, warn = warnUser }: SaveOptions = {},
): string {
  const { step } = contents;
  const path = join(directory, `step-${step}`);
  if (!Number.isSafeInteger(step) || step < 0) {
    throw new CheckpointError({ path }, `step ${step} is not an integer from 0 on`);
  }
  if (existsSync(path)) throw new CheckpointError({ path }, "the step is saved already");
  const temporary = `${path}.tmp-${crypto.randomUUID()}`;
  try {
    const facts = plainFacts(contents);
    makeDurably(directory, files);
    removeLeftovers(directory, files);
    files.makeDirectory(temporary);
    const stored = saveSafetensors(join(temporary, tensorsName), contents.tensors, {}, files);
    const manifest = encodeManifest(path, describe(facts, stored));
    writeDurably(files, join(temporary, manifestName), (write) => write(manifest));
    files.syncDirectory(temporary);
    // A write that was lost without an error must not become the newest checkpoint.
    verifyStructure(temporary);
    files.rename(temporary, path);
  } catch (error) {
    quietly(() => files.remove(temporary));
    throw new CheckpointError({ path }, `was not saved: ${messageOf(error)}`, error);
  }
  // The checkpoint is there: what fails from here on is worth a line and no more.
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
  return path;
}

/** The name of a new directory must be on the disk, too, or everything in it is lost with it. */
function makeDurably(directory: string, files: Files): void {
  if (existsSync(directory)) return;
  const parent = dirname(directory);
  makeDurably(parent, files);
  files.makeDirectory(directory);
  files.syncDirectory(parent);
}

/** What the manifest says beside the tensors; checked before anything is written. */
function plainFacts({ step, recipe, data, rng, metrics = {} }: CheckpointContents) {
  const finite = Object.entries(metrics).map(([name, value]) => [
    name,
    Number.isFinite(value) ? value : null,
  ]);
  return {
    step,
    recipe: plainJson("recipe", recipe),
    data: plainJson("data", data),
    rng: plainJson("rng", rng),
    metrics: Object.fromEntries(finite) as Manifest["metrics"],
  };
}

function describe(facts: ReturnType<typeof plainFacts>, stored: StoredFile): Manifest {
  const { bytes, headerBytes, headerHash } = stored;
  return {
    format: formatVersion,
    library: library.version,
    files: [{ name: tensorsName, bytes, headerBytes, headerHash }],
    tensors: [...stored.tensors].map(([name, { dtype, shape, offset, bytes, hash }]) => {
      return { name, file: tensorsName, dtype, shape: [...shape], offset, bytes, hash };
    }),
    ...facts,
  };
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

export interface ListedCheckpoint {
  readonly step: number;
  readonly path: string;
}

/** Committed checkpoints, newest first; nothing about them is verified. */
export function listCheckpoints(directory: string): ListedCheckpoint[] {
  if (!existsSync(directory)) return [];
  const named = readdirSync(directory).flatMap((name) => {
    const match = /^step-(0|[1-9]\d*)$/.exec(name);
    return match ? [{ step: Number(match[1]), path: join(directory, name) }] : [];
  });
  const listed = named.filter(({ path }) => existsSync(join(path, manifestName)));
  // A run that is saving deletes old ones: what it saved since then may not be among the names.
  if (named.some(({ path }) => !existsSync(path))) return listCheckpoints(directory);
  return listed.sort((a, b) => b.step - a.step);
}

export interface FindOptions {
  /** `full` reads and hashes every byte; `quick` looks at manifests and file sizes. */
  readonly verify?: "full" | "quick";
  /** None is sound, start from scratch: undefined instead of a NoSoundCheckpointError. */
  readonly allowFresh?: boolean;
  readonly files?: Files;
  readonly warn?: (line: string) => void;
}

/**
 * Path of the newest checkpoint that is sound; undefined in a directory that never had one. Damaged
 * ones are renamed to `step-N.bad` with the reason beside them, and one line says which file and
 * tensor. Throws a NoSoundCheckpointError when damaged ones are all there is (see `allowFresh`),
 * and for what is no damage: a checkpoint of a newer format, or one that the process may not read.
 */
export function latestCheckpoint(
  directory: string,
  { verify = "full", allowFresh = false, files = systemFiles, warn = warnUser }: FindOptions = {},
): string | undefined {
  const left: string[] = [];
  for (;;) {
    const next = listCheckpoints(directory).find(({ path }) => !left.includes(path));
    if (!next) break;
    try {
      return verified(next, verify);
    } catch (error) {
      if (!isDamage(error)) throw error;
      if (!existsSync(next.path)) continue; // A run that is saving deleted it; it has a newer one.
      const moved = setAside(next.path, error.message, files);
      if (!moved) left.push(next.path);
      const place = moved ? `moved to ${moved}` : "left where it is";
      warn(`DAMAGED CHECKPOINT ${error.message} (${place}); trying the one before`);
    }
  }
  const damaged = [...left.map((path) => basename(path)), ...listSetAside(directory)];
  if (allowFresh || damaged.length === 0) return undefined;
  const reason =
    `none of its checkpoints is sound (${damaged.join(", ")}); ` +
    "repair one and give it its name back, or allow a fresh start";
  throw new NoSoundCheckpointError({ path: directory }, reason);
}

function verified({ path, step }: ListedCheckpoint, verify: "full" | "quick"): string {
  const manifest = verify === "full" ? verifyCheckpoint(path) : verifyStructure(path);
  if (manifest.step === step) return path;
  throw new CheckpointError({ path }, `its manifest is of step ${manifest.step}`);
}

function isDamage(error: unknown): error is CheckpointError {
  if (error instanceof NewerFormatError || error instanceof UnreadableError) return false;
  return error instanceof CheckpointError;
}

function listSetAside(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .filter((name) => /^step-\d+\.bad(\.\d+)?$/.test(name))
    .sort();
}

/** Renames to `.bad`, `.bad.1`, …; undefined when the file system does not let us. */
function setAside(path: string, reason: string, files: Files): string | undefined {
  let target = `${path}.bad`;
  for (let i = 1; existsSync(target); i++) target = `${path}.bad.${i}`;
  try {
    files.rename(path, target);
  } catch {
    return undefined;
  }
  quietly(() => {
    const bytes = new TextEncoder().encode(`${reason}\n`);
    writeDurably(files, join(target, "reason.txt"), (write) => write(bytes));
  });
  return target;
}
