// Which folder a recipe trains in, and with which settings: a new run, or one that goes on.

import { z } from "zod";
import {
  type Agreement,
  alone,
  onFirst,
  type Place,
  type Ranks,
  together,
} from "../checkpoint/agreement.ts";
import { findingLatest } from "../checkpoint/discovery.ts";
import { readManifest } from "../checkpoint/manifest.ts";
import { ConfigError, parseConfig } from "../config/errors.ts";
import {
  createRun,
  findRun,
  NoRunError,
  type RunFolder,
  runFolder,
  writeConfig,
} from "./run_folder.ts";

/** Settings of every recipe that trains. */
export interface RunSettings {
  /** Name of the run. */
  readonly run?: string | undefined;
  /** Folder of all runs. */
  readonly runs: string;
  readonly resume: boolean;
}

export interface OpenedRun<T> {
  readonly run: RunFolder;
  readonly settings: T;
}

/**
 * A new folder called `name` (or the next free name) with `config.json`; with `resume`, the run of
 * that name or the newest one, with its stored settings and over them what `provenance` says was
 * given anew. NoRunError without a sound checkpoint, ConfigError when the model would change. Of
 * several `ranks`, all of which call, the first one chooses the folder.
 */
export function openRun<S extends z.ZodObject>(
  schema: S,
  given: z.output<S> & RunSettings,
  provenance: ReadonlyMap<string, string>,
  name: string,
  ranks: Ranks = alone,
): OpenedRun<z.output<S>> {
  return together(ranks, openingRun(schema, given, provenance, name, ranks));
}

/** `openRun` as a task of several ranks. */
export function* openingRun<S extends z.ZodObject>(
  schema: S,
  given: z.output<S> & RunSettings,
  provenance: ReadonlyMap<string, string>,
  name: string,
  place: Place,
): Agreement<OpenedRun<z.output<S>>> {
  const chosen = yield* onFirst(place, () => chooseRun(given, name));
  const run = runFolder(given.runs, chosen);
  if (!given.resume) return { run, settings: given };
  const path = yield* findingLatest(run.checkpoints, place);
  if (path === undefined) {
    throw new NoRunError(
      `no checkpoint in ${run.checkpoints} is sound: names now end in .bad, with the reason ` +
        "in them; start anew with `bun run train`",
    );
  }
  const stored = readManifest(path).recipe as Record<string, unknown>;
  return { run, settings: parseConfig(schema, laidOver(stored, given, provenance), "settings") };
}

/** Name of the folder, which exists afterwards. */
function chooseRun(given: RunSettings, name: string): string {
  if (given.resume) return findRun(given.runs, given.run).name;
  const run = createRun(given.runs, given.run ?? name);
  writeConfig(run, given);
  return run.name;
}

/**
 * The stored settings, with every one replaced that does not come from a default. The mesh is that
 * of this start, whatever mesh has saved the run.
 */
function laidOver(
  stored: Readonly<Record<string, unknown>>,
  given: Readonly<Record<string, unknown>>,
  provenance: ReadonlyMap<string, string>,
): Record<string, unknown> {
  const merged = structuredClone(stored) as Record<string, unknown>;
  if ("mesh" in given) merged["mesh"] = given["mesh"];
  for (const [path, source] of provenance) {
    if (source === "default") continue;
    const keys = path.split(".");
    if (keys[0] === "model") {
      const message = "the weights of a run have its shapes: a new run can have another model";
      throw new ConfigError("--resume keeps the model", [{ path, message }]);
    }
    let target = merged;
    let value: unknown = given;
    for (const [at, key] of keys.entries()) {
      value = (value as Record<string, unknown>)[key];
      if (at < keys.length - 1) target = (target[key] ??= {}) as Record<string, unknown>;
      else target[key] = value;
    }
  }
  return merged;
}
