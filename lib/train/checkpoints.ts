// What a training run keeps in its checkpoints, and when it makes them. The files and their commit
// are lib/checkpoint's.

import { CheckpointError } from "../checkpoint/errors.ts";
import { loadCheckpoint } from "../checkpoint/load.ts";
import { type Json, latestCheckpoint, saveCheckpoint } from "../checkpoint/protocol.ts";
import type { Keep } from "../checkpoint/retention.ts";
import type { BatchStream, DataState } from "../data/batches.ts";
import { loadParameters } from "../infer/load.ts";
import { warnUser } from "../log/index.ts";
import type { XLSTM } from "../nn/model.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import type { Tensor } from "../tensor/index.ts";

export interface CheckpointsOptions {
  /** Steps between two checkpoints; 0 = only at the end. */
  readonly every: number;
  /** The resolved recipe, stored with every checkpoint. */
  readonly recipe: Json;
  /** Default: the newest 2. */
  readonly keep?: Keep;
  /** What a periodic checkpoint that could not be written does. Default "continue". */
  readonly whenNotSaved?: "continue" | "stop";
  readonly warn?: (line: string) => void;
}

/** What a checkpoint is made of. */
export interface RunParts {
  readonly model: XLSTM;
  readonly optimizer: Optimizer;
  readonly stream: BatchStream;
  readonly seed: number;
}

/** A checkpoint that had to be written could not be. Exit code 74. */
export class NotSavedError extends Error {
  override readonly name = "NotSavedError";
  readonly exitCode = 74;
}

/** Optimiser moments lie beside the parameters, under this name. */
const momentPrefix = "optimizer.";

export class Checkpoints {
  readonly directory: string;
  readonly #options: CheckpointsOptions;
  readonly #warn: (line: string) => void;
  #newest: { path: string; step: number } | undefined;
  #metrics: Record<string, number> = {};

  constructor(directory: string, options: CheckpointsOptions) {
    this.directory = directory;
    this.#options = options;
    this.#warn = options.warn ?? warnUser;
  }

  /** Path of the newest checkpoint this run made or was restored from. */
  get newest(): string | undefined {
    return this.#newest?.path;
  }

  isDue(step: number): boolean {
    const { every } = this.#options;
    return every > 0 && step % every === 0;
  }

  /** Metrics for the next checkpoint's manifest. */
  note(metrics: Readonly<Record<string, number>>): void {
    Object.assign(this.#metrics, metrics);
  }

  /**
   * Saves the run after `step` steps, unless that step is saved already. When that fails, the older
   * checkpoints are untouched; a periodic one is then a warning by default, the last one of a run a
   * NotSavedError.
   */
  save(parts: RunParts, step: number, occasion: "periodic" | "last"): void {
    if (this.#newest?.step === step) return;
    const { recipe, keep = { newest: 2 }, whenNotSaved = "continue" } = this.#options;
    const data = parts.stream.state() as unknown as Json;
    const rng = { seed: parts.seed, step };
    const tensors = tensorsOf(parts);
    const metrics = this.#metrics;
    try {
      const contents = { step, tensors, recipe, data, rng, metrics };
      const path = saveCheckpoint(this.directory, contents, { keep, warn: this.#warn });
      this.#newest = { path, step };
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      const before = this.newest ? `; the newest one is ${this.newest}` : "";
      const message = `${error.message}${before}`;
      if (occasion === "last" || whenNotSaved === "stop") {
        throw new NotSavedError(message, { cause: error });
      }
      this.#warn(`CHECKPOINT NOT WRITTEN ${message}; training goes on`);
    }
  }

  /** Puts the newest sound checkpoint into the parts; undefined when there is none. */
  restore(parts: RunParts): { path: string; step: number } | undefined {
    const path = latestCheckpoint(this.directory, { warn: this.#warn });
    if (path === undefined) return undefined;
    using checkpoint = loadCheckpoint(path);
    const { step, manifest } = checkpoint;
    const { seed } = manifest.rng as { seed: number };
    if (seed !== parts.seed) {
      throw new CheckpointError({ path }, `was made with seed ${seed}, this run has ${parts.seed}`);
    }
    parts.stream.from(manifest.data as unknown as DataState);
    loadParameters(parts.model, (name) => checkpoint.load(name));
    parts.optimizer.load(step, (name) => checkpoint.load(momentPrefix + name));
    this.#newest = { path, step };
    return this.#newest;
  }
}

function* tensorsOf({ model, optimizer }: RunParts): Generator<readonly [string, Tensor]> {
  yield* model.parameters();
  for (const [name, moment] of optimizer.state().tensors) yield [momentPrefix + name, moment];
}
