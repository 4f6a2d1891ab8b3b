// One case on one mesh: gradients of a batch, and a few optimizer steps, as whole tensors that can
// be compared with those of another mesh.

import type { Mesh } from "../mesh/mesh.ts";
import { elementRuns } from "../mesh/placement.ts";
import type { Slice } from "../mesh/shards.ts";
import { resolveConfig } from "../nn/config.ts";
import { xlstm } from "../nn/model.ts";
import { elements, parameterSpecs } from "../nn/parameters.ts";
import type { Recompute } from "../nn/stack.ts";
import type { ResidualMode } from "../nn/tensor_parallel.ts";
import { adamw } from "../optim/optimizer.ts";
import { type DType, type Gradients, type Tensor, tensor } from "../tensor/index.ts";
import { microbatchesOf } from "../train/microbatches.ts";
import { Parallel } from "../train/parallel.ts";
import { takeStep } from "../train/step.ts";
import { batchOf, configOf, type Kind, type Precision, rows, scramble } from "./cases.ts";

/** Everything that a run depends on, besides the mesh. */
export interface Case {
  readonly kind: Kind;
  readonly blocks: number;
  readonly dtype: Precision | "bf16";
  /** Rows of a microbatch: accumulation follows from it. */
  readonly microbatchRows: number;
  readonly recompute: Recompute;
  readonly residual: ResidualMode;
  /** Default true. */
  readonly reshard?: boolean;
  /** Default 0: fsdp cuts everything. */
  readonly minSize?: number;
  /** Dtype of gathered weights; default: the parameter's. */
  readonly gather?: DType;
  /** Blocks per stage; default: balanced. */
  readonly stages?: readonly number[];
  /** Whether the head is the table of the embedding. Default false. */
  readonly tied?: boolean;
}

/** What a run gives, as plain numbers; the same on every rank. */
export interface Outcome {
  /** Mean loss of each step. */
  readonly losses: readonly number[];
  /** Global gradient norm of each step. */
  readonly norms: readonly number[];
  /** Gradients of the first step by parameter. */
  readonly gradients: ReadonlyMap<string, Float64Array>;
  /** Weights after the last step by parameter. */
  readonly weights: ReadonlyMap<string, Float64Array>;
  /** Weights before scrambling, as the model's own rules made them. */
  readonly initial: string;
}

/** Optimizer updates of a run. */
const steps = 3;

/**
 * A larger eps than training has: elements whose gradient is nothing but rounding move by up to
 * lr / eps times that rounding, which with 1e-8 would hide behind 1e-12.
 */
const settings = { lr: 1e-3, weightDecay: 0.1, beta2: 0.95, eps: 1e-3, gradClipNorm: 0.5 };

/** Runs a case; every rank of the mesh calls it. */
export function runCase(mesh: Mesh, given: Case): Outcome {
  const { kind, blocks, dtype, recompute, residual, stages, tied = false } = given;
  const config = resolveConfig({ ...configOf(kind, blocks, dtype), tieEmbeddings: tied });
  const model = xlstm(config, { mesh, recompute, residual, stages, seed: 5 });
  const uncut = new Parallel(model, mesh, { minSize: Infinity });
  const initial = hashOf(gather(uncut, ({ tensor }) => tensor));
  scramble(model);
  const { reshard: reshardAfterForward = true, minSize = 0, gather: gatherDtype = null } = given;
  const parallel = new Parallel(model, mesh, { reshardAfterForward, minSize, gatherDtype });
  const optimizer = adamw(parallel.parameters(), settings, parallel);
  const pieces = rows / (parallel.dataSize * given.microbatchRows);
  const share = { rank: parallel.dataRank, ranks: parallel.dataSize, pieces };
  const batch = (step: number) => microbatchesOf(batchOf(kind, step), share);
  try {
    let gradients = new Map<string, Float64Array>();
    const facts = Array.from({ length: steps }, (_, step) => {
      const watch = (all: Gradients) => {
        if (step === 0) gradients = gather(parallel, ({ tensor }) => all.get(tensor));
      };
      return takeStep(parallel, optimizer, batch(step), { seed: 1, step }, watch);
    });
    const losses = facts.map(({ loss }) => loss);
    const norms = facts.map(({ norm }) => norm);
    const weights = gather(parallel, ({ tensor }) => tensor);
    return { losses, norms, gradients, weights, initial };
  } finally {
    optimizer.dispose();
    parallel.dispose();
    model.dispose();
  }
}

/** Whole tensors of the model, put together from what the ranks own, on every rank. */
function gather(
  parallel: Parallel,
  valuesOf: (slice: Slice) => Tensor | undefined,
): Map<string, Float64Array> {
  const { mesh, model, shards } = parallel;
  const starts = new Map<string, { start: number; size: number }>();
  let total = 0;
  for (const { name, shape } of parameterSpecs(model.config)) {
    const size = elements(shape);
    starts.set(name, { start: total, size });
    total += size;
  }
  const own = new Float64Array(total);
  for (const slice of shards.slices.values()) {
    const values = slice.counts && mesh.coordinate("dp") === 0 ? valuesOf(slice) : undefined;
    if (!values || slice.from === slice.to) continue;
    const data = values.dataSync();
    const { start } = starts.get(slice.name)!;
    let at = 0;
    for (const [first, length] of elementRuns(slice.leaf.placement, slice.from, slice.to)) {
      own.set(data.subarray(at, at + length), start + first);
      at += length;
    }
  }
  using mine = tensor(own);
  using all = mesh.world.allReduce(mine, { site: "whole tensors" });
  const values = all.dataSync() as Float64Array;
  return new Map(
    [...starts].map(([name, { start, size }]) => [name, values.slice(start, start + size)]),
  );
}

/** The first digits of the SHA-256 of numbers, in the order of the names. */
export function hashOf(tensors: ReadonlyMap<string, Float64Array>, more: number[] = []): string {
  const hash = new Bun.CryptoHasher("sha256");
  for (const values of tensors.values()) hash.update(values);
  return hash.update(Float64Array.from(more)).digest("hex").slice(0, 12);
}
