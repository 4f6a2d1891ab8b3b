// Forward and backward passes of a step over this rank's microbatches: the loss, and gradients that
// are complete on the whole mesh (mesh.md §6, §10, §11). Sums are divided once, by the number of
// valid targets of all ranks.

import { GradientSum, OrderedSum } from "../mesh/accumulate.ts";
import type { Microbatch as Mark } from "../mesh/fsdp.ts";
import { reduceGradients } from "../mesh/gradients.ts";
import { pipelineActions, type PipelineWork, runPipeline } from "../mesh/pipeline.ts";
import { schedule } from "../mesh/schedule.ts";
import type { DropoutKey } from "../nn/context.ts";
import type { ForwardOptions } from "../nn/model.ts";
import {
  full,
  Gradients,
  type LossOptions,
  type LossSum,
  onDevice,
  requireGrad,
  Tensor,
} from "../tensor/index.ts";
import { withValue } from "../tensor/known.ts";
import { transient } from "../tensor/tape.ts";
import { bytesOf, countOf, type Microbatch } from "./microbatches.ts";
import type { Parallel } from "./parallel.ts";

/** Where dropout masks of a step come from. */
export type StepKey = Pick<DropoutKey, "seed" | "step">;

export interface Differentiated {
  /** Mean loss in nats over the valid targets of all ranks; 0 when there are none. */
  readonly loss: number;
  /** Valid targets of all ranks. */
  readonly tokens: number;
  /** By the tensors of `parallel.parameters()`; undefined when no target is valid. */
  readonly gradients: Gradients | undefined;
}

/**
 * Loss and gradients of the mean over all valid targets of all ranks' microbatches. Every rank
 * calls it with equally many microbatches of one shape. Gathered weights stay until
 * `parallel.shards` lets go of them.
 */
export function differentiate(
  parallel: Parallel,
  microbatches: readonly Microbatch[],
  key: StepKey,
): Differentiated {
  const { mesh, shards } = parallel;
  const count = microbatches.reduce((sum, microbatch) => sum + countOf(microbatch), 0);
  const [tokens] = parallel.sumOverData([count], "valid targets") as [number];
  if (tokens === 0) return { loss: 0, tokens, gradients: undefined };
  const pass = new Pass(parallel, microbatches, { key, scale: 1 / tokens });
  const pp = mesh.group("pp");
  const ops = (stage: number) => schedule(pp.size, microbatches.length, stage);
  runPipeline(pipelineActions({ stages: pp.size, stage: pp.rank, ops }), pass, pp);
  const gradients = reduceGradients(shards, mesh, pass.gradients.finish());
  const [sum] = parallel.sumOverData([pass.lossSum()], "loss", { stages: true }) as [number];
  return { loss: sum / tokens, tokens, gradients: new Gradients(gradients) };
}

/** A microbatch between its forward and its backward pass. */
interface Live {
  readonly x: Tensor | undefined;
  readonly output: Tensor;
}

class Pass implements PipelineWork {
  readonly gradients: GradientSum;
  readonly #parallel: Parallel;
  readonly #microbatches: readonly Microbatch[];
  readonly #marks: readonly Mark[];
  readonly #key: StepKey;
  readonly #scale: number;
  readonly #live = new Map<number, Live>();
  readonly #losses: Tensor[] = [];

  constructor(
    parallel: Parallel,
    microbatches: readonly Microbatch[],
    { key, scale }: { key: StepKey; scale: number },
  ) {
    this.#parallel = parallel;
    this.#microbatches = microbatches;
    this.#key = key;
    this.#scale = scale;
    this.#marks = microbatches.map((_, m) => ({ isLast: m === microbatches.length - 1 }));
    this.gradients = new GradientSum(parallel.shards.order);
  }

  get between(): PipelineWork["between"] {
    return streamOf(this.#parallel, this.#microbatches[0]!);
  }

  forward(m: number, x: Tensor | undefined): Tensor | undefined {
    const { shards } = this.#parallel;
    shards.fsdp?.forward(this.#marks[m]!);
    if (x) requireGrad(x);
    const output = transient(
      () => this.#run(this.#microbatches[m]!, x),
      (made) => [made],
    );
    this.#live.set(m, { x, output });
    if (!this.#parallel.model.stage.isLast) return output.detach();
    this.#losses.push(output);
    return undefined;
  }

  backward(m: number, dy: Tensor | undefined): Tensor | undefined {
    const { x, output } = this.#live.get(m)!;
    this.#live.delete(m);
    this.#parallel.shards.fsdp?.backward(this.#marks[m]!);
    const all = new Map(output.backward(dy ?? this.#seed(output)));
    const dx = x && all.get(x);
    if (x) all.delete(x);
    this.gradients.push(new Gradients(all));
    x?.dispose();
    if (dy) output.dispose();
    dy?.dispose();
    return dx;
  }

  /** Σ loss of this rank's microbatches, 0 off the last stage. Waits for the device. */
  lossSum(): number {
    const sum = new OrderedSum<number>((a, b) => a + b);
    for (const loss of this.#losses) sum.push(loss.item());
    return sum.finish() ?? 0;
  }

  /** The loss on the last stage, otherwise what goes to the next one. */
  #run(microbatch: Microbatch, x: Tensor | undefined): Tensor {
    const dropout = { ...this.#key, sample: microbatch.row };
    const options = { train: true, dropout, expectedGradient: this.#scale };
    const made = runStage(this.#parallel, microbatch, x, options);
    return made instanceof Tensor ? made : made.loss;
  }

  #seed(loss: Tensor): Tensor {
    const value = loss.dtype === "f64" ? this.#scale : Math.fround(this.#scale);
    return onDevice(loss.device, () => withValue(full([], value, loss.dtype), value));
  }
}

/** Σ loss, right and valid targets of a microbatch on the last stage, zeros on the others. */
export function forwardSums(parallel: Parallel, microbatch: Microbatch): number[] {
  const { mesh, shards } = parallel;
  const pp = mesh.group("pp");
  const { isFirst } = parallel.model.stage;
  shards.fsdp?.forward({ isLast: true });
  const { shape, dtype } = streamOf(parallel, microbatch);
  const x = isFirst ? undefined : pp.receive(shape, dtype, pp.rank - 1, "x of evaluation");
  const made = runStage(parallel, microbatch, x, {});
  if (made instanceof Tensor) {
    pp.send(made, pp.rank + 1, "x of evaluation");
    return [0, 0, 0];
  }
  return [made.loss.item(), made.correct.item(), made.count.item()];
}

/** One forward pass of this rank's stage: the sums of the loss, or what goes to the next stage. */
function runStage(
  { model }: Parallel,
  { tokens, targets, ...given }: Microbatch,
  x: Tensor | undefined,
  options: ForwardOptions & LossOptions,
): LossSum | Tensor {
  return onDevice(model.device, () => {
    const [mask, borders] = [bytesOf(given.mask), bytesOf(given.borders)];
    const { count, isLast } = model.stage;
    if (count === 1) return model.lossSum({ tokens, targets, mask, borders }, options);
    const all = { ...options, borders };
    const y = model.advance(x ?? model.embed(tokens, all), all);
    return isLast ? model.lossOf(y, { targets, mask }, options) : y;
  });
}

/** Shape and dtype of the residual stream between two stages. */
function streamOf({ model }: Parallel, { tokens }: Microbatch): PipelineWork["between"] {
  const [rows, length] = tokens.shape;
  return { shape: model.streamShape(rows, length), dtype: model.dtype };
}
