// Which folder a recipe trains in, and with which settings: a new run, or one that goes on.

import { z } from "zod";
import { loadCheckpoint } from "../checkpoint/load.ts";
import { latestCheckpoint } from "../checkpoint/protocol.ts";
import { ConfigError, parseConfig } from "../config/errors.ts";
import { createRun, findRun, NoRunError, type RunFolder, writeConfig } from "./run_folder.ts";

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
 * given anew. NoRunError without a sound checkpoint, ConfigError when the model would change.
 */
export function openRun<S extends z.ZodObject>(
  schema: S,
  given: z.output<S> & RunSettings,
  provenance: ReadonlyMap<string, string>,
  name: string,
): OpenedRun<z.output<S>> {
  if (!given.resume) {
    const run = createRun(given.runs, given.run ?? name);
    writeConfig(run, given);
    return { run, settings: given };
  }
  const run = findRun(given.runs, given.run);
  const path = latestCheckpoint(run.checkpoints);
  if (path === undefined) {
    throw new NoRunError(
      `no checkpoint in ${run.checkpoints} is sound: names now end in .bad, with the reason ` +
        "in them; start anew with `bun run train`",
    );
  }
  using checkpoint = loadCheckpoint(path);
  const stored = checkpoint.manifest.recipe as Record<string, unknown>;
  return { run, settings: parseConfig(schema, laidOver(stored, given, provenance), "settings") };
}

/** The stored settings, with every one replaced that does not come from a default. */
function laidOver(
  stored: Readonly<Record<string, unknown>>,
  given: Readonly<Record<string, unknown>>,
  provenance: ReadonlyMap<string, string>,
): Record<string, unknown> {
  const merged = structuredClone(stored) as Record<string, unknown>;
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
