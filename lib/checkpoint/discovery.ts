// Which checkpoint of a directory to go on with (reliability.md §2): the newest sound one, and
// nothing but what is damaged is passed over.

import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { warnUser } from "../log/index.ts";
import {
  type Agreement,
  agreed,
  alone,
  onFirst,
  type Place,
  type Ranks,
  together,
} from "./agreement.ts";
import { CheckpointError, NoSoundCheckpointError, UnreadableError } from "./errors.ts";
import { type Files, quietly, systemFiles, writeDurably } from "./files.ts";
import { manifestName, NewerFormatError } from "./manifest.ts";
import { verifyCheckpoint, verifyStructure } from "./verify.ts";

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
 * With `ranks` all of them look for it together, share the reading, and get the same answer.
 */
export function latestCheckpoint(
  directory: string,
  { ranks = alone, ...options }: FindOptions & { readonly ranks?: Ranks } = {},
): string | undefined {
  return together(ranks, findingLatest(directory, ranks, options));
}

/** `latestCheckpoint` as a task of several ranks. */
export function* findingLatest(
  directory: string,
  place: Place,
  { verify = "full", allowFresh = false, files = systemFiles, warn = warnUser }: FindOptions = {},
): Agreement<string | undefined> {
  const left = new Set<string>();
  let damaged: { readonly path: string; readonly reason: string } | undefined;
  for (;;) {
    const next = yield* onFirst(place, () => {
      if (damaged) putAside(damaged, left, files, warn);
      return candidate(directory, left, allowFresh);
    });
    if (next === null) return undefined;
    const path = join(directory, `step-${next}`);
    const verdicts = yield* agreed(place, () => damageOf(path, next, verify, place));
    const reason = verdicts.find((verdict) => verdict !== null);
    if (reason === undefined) return path;
    damaged = { path, reason };
  }
}

/** Step of the newest checkpoint that was not left where it is; null when a fresh start is due. */
function candidate(
  directory: string,
  left: ReadonlySet<string>,
  allowFresh: boolean,
): number | null {
  const next = listCheckpoints(directory).find(({ path }) => !left.has(path));
  if (next) return next.step;
  const damaged = [...[...left].map((path) => basename(path)), ...listSetAside(directory)];
  if (allowFresh || damaged.length === 0) return null;
  const reason =
    `none of its checkpoints is sound (${damaged.join(", ")}); ` +
    "repair one and give it its name back, or allow a fresh start";
  throw new NoSoundCheckpointError({ path: directory }, reason);
}

function putAside(
  { path, reason }: { readonly path: string; readonly reason: string },
  left: Set<string>,
  files: Files,
  warn: (line: string) => void,
): void {
  if (!existsSync(path)) return; // A run that is saving deleted it; it has a newer one.
  const moved = setAside(path, reason, files);
  if (!moved) left.add(path);
  const where = moved ? `moved to ${moved}` : "left where it is";
  warn(`DAMAGED CHECKPOINT ${reason} (${where}); trying the one before`);
}

/** What this rank finds wrong; null when all that it looks at is sound. */
function damageOf(
  path: string,
  step: number,
  verify: "full" | "quick",
  place: Place,
): string | null {
  try {
    const manifest = verify === "full" ? verifyCheckpoint(path, place) : verifyStructure(path);
    if (manifest.step === step) return null;
    throw new CheckpointError({ path }, `its manifest is of step ${manifest.step}`);
  } catch (error) {
    if (isDamage(error)) return error.message;
    throw error;
  }
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
