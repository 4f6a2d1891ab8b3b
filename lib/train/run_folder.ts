// Folders of runs: `runs/<name>` with config.json, metrics.jsonl, loss.svg and checkpoints/.

import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { listCheckpoints } from "../checkpoint/protocol.ts";
import { suggestion } from "../config/suggest.ts";

export interface RunFolder {
  readonly name: string;
  readonly path: string;
  /** Where its checkpoints are. */
  readonly checkpoints: string;
}

/** No such run, or none with a checkpoint. Exit code 66. */
export class NoRunError extends Error {
  override readonly name = "NoRunError";
  readonly exitCode = 66;
}

/** The run of that name, whether it exists or not. RangeError for a name that is a path. */
export function runFolder(root: string, name: string): RunFolder {
  if (!/^[A-Za-z0-9_][\w.-]*$/.test(name)) {
    throw new RangeError(`run name "${name}": expected letters, digits, ".", "-" and "_"`);
  }
  const path = join(root, name);
  return { name, path, checkpoints: join(path, "checkpoints") };
}

/** Makes a new folder: `name`, or `name-2`, `name-3`, … when there is one already. */
export function createRun(root: string, name: string): RunFolder {
  mkdirSync(root, { recursive: true });
  for (let number = 1; ; number++) {
    const run = runFolder(root, number === 1 ? name : `${name}-${number}`);
    try {
      // Not recursive: of two runs that start at once, only one gets the folder.
      mkdirSync(run.path);
      return run;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

/**
 * The run of that name, or without a name the one that was saved last. NoRunError when it has no
 * checkpoint.
 */
export function findRun(root: string, name?: string): RunFolder {
  const runs = savedRuns(root);
  if (name === undefined) {
    if (runs[0]) return runs[0];
    throw new NoRunError(`no run in ${root}/ has a checkpoint: make one with \`bun run train\``);
  }
  const found = runs.find((run) => run.name === runFolder(root, name).name);
  if (found) return found;
  const hint = suggestion(
    name,
    runs.map((run) => run.name),
  );
  throw new NoRunError(`there is no checkpoint in ${runFolder(root, name).checkpoints}${hint}`);
}

/** Runs with checkpoints, the one saved last first. */
function savedRuns(root: string): RunFolder[] {
  if (!statSync(root, { throwIfNoEntry: false })?.isDirectory()) return [];
  return readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && /^[A-Za-z0-9_][\w.-]*$/.test(entry.name))
    .map((entry) => runFolder(root, entry.name))
    .flatMap((run) => {
      const [newest] = listCheckpoints(run.checkpoints);
      return newest ? [{ run, time: statSync(newest.path).mtimeMs }] : [];
    })
    .sort((a, b) => b.time - a.time)
    .map(({ run }) => run);
}

/** Writes `config.json`: what was asked for, and everything it was resolved to. */
export function writeConfig(run: RunFolder, config: object): void {
  writeFileSync(join(run.path, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
}
