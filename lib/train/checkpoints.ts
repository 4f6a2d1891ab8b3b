// What a training run keeps in its checkpoints, and when it makes them. The files and their commit
// are lib/checkpoint's. On a mesh every rank calls the same methods at the same steps.

import { alone, type Ranks } from "../checkpoint/agreement.ts";
import { CheckpointError } from "../checkpoint/errors.ts";
import { ranksOf } from "../checkpoint/group_ranks.ts";
import { type Checkpoint, loadCheckpoint } from "../checkpoint/load.ts";
import { momentPrefix } from "../checkpoint/merge.ts";
import { type Json, latestCheckpoint } from "../checkpoint/protocol.ts";
import type { Keep } from "../checkpoint/retention.ts";
import { type Piece, saveShared } from "../checkpoint/shared.ts";
import type { BatchStream, DataState } from "../data/batches.ts";
import { warnUser } from "../log/index.ts";
import type { XLSTM } from "../nn/model.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { noGrad, type Tensor } from "../tensor/index.ts";
import type { Parallel } from "./parallel.ts";

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
  /** Its state is that of the whole run, the same on every rank. */
  readonly stream: BatchStream;
  readonly seed: number;
  /** What of the model lies on this rank. Default: all of it, on a process of its own. */
  readonly parallel?: Parallel | undefined;
}

/** A checkpoint that had to be written could not be. Exit code 74. */
export class NotSavedError extends Error {
  override readonly name = "NotSavedError";
  readonly exitCode = 74;
}

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
   * NotSavedError. It fails on every rank when it fails on one; rank 0 warns.
   */
  save(parts: RunParts, step: number, occasion: "periodic" | "last"): void {
    if (this.#newest?.step === step) return;
    const { recipe, keep = { newest: 2 }, whenNotSaved = "continue" } = this.#options;
    const data = parts.stream.state() as unknown as Json;
    const rng = { seed: parts.seed, step };
    const ranks = ranksFor(parts);
    parts.parallel?.mesh.heartbeat(step, "save");
    const facts = { step, recipe, data, rng, metrics: this.#metrics, mesh: meshSizes(parts) };
    try {
      const contents = { pieces: piecesOf(parts), ...facts };
      const path = saveShared(this.directory, contents, ranks, { keep, warn: this.#warn });
      this.#newest = { path, step };
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      const before = this.newest ? `; the newest one is ${this.newest}` : "";
      const message = `${error.message}${before}`;
      if (occasion === "last" || whenNotSaved === "stop") {
        throw new NotSavedError(message, { cause: error });
      }
      if (ranks.rank === 0) this.#warn(`CHECKPOINT NOT WRITTEN ${message}; training goes on`);
    }
  }

  /**
   * Puts the newest sound checkpoint into the parts, whatever mesh has saved it; undefined when
   * there is none. The run goes on with the same global sample.
   */
  restore(parts: RunParts): { path: string; step: number } | undefined {
    const ranks = ranksFor(parts);
    const path = latestCheckpoint(this.directory, { warn: this.#warn, ranks });
    if (path === undefined) return undefined;
    using checkpoint = loadCheckpoint(path);
    const { step, manifest } = checkpoint;
    const { seed } = manifest.rng as { seed: number };
    if (seed !== parts.seed) {
      throw new CheckpointError({ path }, `was made with seed ${seed}, this run has ${parts.seed}`);
    }
    parts.stream.from(manifest.data as unknown as DataState);
    load(parts, checkpoint);
    this.#newest = { path, step };
    return this.#newest;
  }
}

function ranksFor({ parallel }: RunParts): Ranks {
  return parallel ? ranksOf(parallel.mesh.world) : alone;
}

function meshSizes({ parallel }: RunParts): Record<string, number> {
  return parallel ? { ...parallel.mesh.topology.sizes } : {};
}

/** A tensor of the model as far as it lies here. */
type Owned = Omit<Piece, "tensor"> & { readonly tensor: Tensor };

/** The parameters of this rank by name. */
function ownedBy({ model, parallel }: RunParts): Map<string, Owned> {
  if (!parallel) {
    const all = [...model.parameters()].map(([name, tensor]) => {
      const { placement, size: to } = tensor;
      return [name, { name, tensor, placement, from: 0, to, isOwner: true }] as const;
    });
    return new Map(all);
  }
  const { mesh, shards } = parallel;
  const replicas = mesh.size("dp") * mesh.size("cp");
  const replica = mesh.coordinate("dp") * mesh.size("cp") + mesh.coordinate("cp");
  const all = [...shards.slices].map(([name, { leaf, tensor, from, to, counts }], index) => {
    // Every replica writes its share of what all of them have.
    const isOwner = counts && index % replicas === replica && !isSecondCopy(parallel, name);
    return [name, { name, tensor, placement: leaf.placement, from, to, isOwner }] as const;
  });
  return new Map(all);
}

/** A table that serves the first and the last stage is written by the first one. */
function isSecondCopy({ mesh }: Parallel, name: string): boolean {
  return name === "embedding.table" && mesh.coordinate("pp") > 0;
}

/** Parameters, then moments, which are cut as their parameters are. */
function* piecesOf(parts: RunParts): Generator<Piece> {
  const owned = ownedBy(parts);
  yield* owned.values();
  for (const [name, tensor] of parts.optimizer.state().tensors) {
    yield { ...ownerOf(owned, name), name: momentPrefix + name, tensor };
  }
}

/** The parameter of a moment `<parameter>.moment1`. */
function ownerOf(owned: ReadonlyMap<string, Owned>, moment: string): Owned {
  return owned.get(moment.replace(/\.moment\d+$/, ""))!;
}

function load(parts: RunParts, checkpoint: Checkpoint): void {
  const owned = ownedBy(parts);
  const read = (name: string, part: Owned): Tensor =>
    shaped(checkpoint.loadPart(name, part), part.tensor.shape);
  noGrad(() => {
    for (const part of owned.values()) {
      using stored = read(part.name, part);
      part.tensor.write_(stored);
    }
    parts.optimizer.load(checkpoint.step, (name) =>
      read(momentPrefix + name, ownerOf(owned, name)),
    );
  });
  parts.parallel?.shards.fsdp?.release();
}

/** What lies in a flat vector is a vector, be it all of a matrix. */
function shaped(stored: Tensor, shape: readonly number[]): Tensor {
  if (stored.shape.join() === shape.join()) return stored;
  using whole = stored;
  return whole.reshape(shape);
}
