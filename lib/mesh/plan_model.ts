// What native code is told of a model and a step that are to be planned: a list of numbers and a
// list of names, in the order in which native/src/ops/mesh_plan.zig reads them.

import { check, native, scratch } from "../native/library.ts";
import { DTypeCode } from "../native/symbols.ts";
import type { DType } from "../tensor/dtype.ts";
import {
  blockKinds,
  type LayoutModel,
  type PlannedResidual,
  residualModes,
  tensorParallelSplit,
} from "./layout.ts";
import { giveList } from "./lists.ts";

/** A model, by what a plan needs of it. */
export interface PlannedModel extends LayoutModel {
  readonly name: string;
  /** All parameters in order, with global shapes. */
  readonly parameters: readonly { readonly name: string; readonly shape: readonly number[] }[];
  readonly embeddingDim: number;
  readonly vocabSize: number;
  readonly tied: boolean;
  /** Heads of mLSTM and of sLSTM blocks; 0 where there are none. */
  readonly mlstmHeads: number;
  readonly slstmHeads: number;
  /** Width of the block-diagonal maps of paper blocks; 0 where there are none. */
  readonly blockSize: number;
}

export const recomputePolicies = ["none", "block", "half"] as const;
const devices = ["cpu", "cuda"] as const;
const orders = ["tree", "running"] as const;

/** A training step. */
export interface PlannedStep {
  /** Rows of a step on all ranks. */
  readonly batch: number;
  /** Tokens of a row. */
  readonly length: number;
  /** Microbatches of a step on each rank. */
  readonly microbatches: number;
  /** Blocks per stage of pp. */
  readonly stages: readonly number[];
  /** Dtypes of activations, of trained weights, of the head's product. */
  readonly activation: DType;
  readonly parameter: DType;
  readonly head: DType;
  /** Dtypes in which fsdp gathers weights and sums gradients. */
  readonly gather: DType;
  readonly scatter: DType;
  readonly reshardAfterForward: boolean;
  /** Parameters of at most so many elements stay whole on every rank of fsdp. */
  readonly minSize: number;
  readonly recompute: (typeof recomputePolicies)[number];
  readonly residual: PlannedResidual;
  readonly device: (typeof devices)[number];
  /** How gradients of microbatches are added. */
  readonly order: (typeof orders)[number];
}

/** Makes a model and a step what the next call of native code is about. */
export function givePlan(model: PlannedModel, step: PlannedStep, rows: number): void {
  giveNames(model.parameters.map(({ name }) => name));
  const { kinds, parameters } = model;
  const blocks = kinds.map((kind) => blockKinds.indexOf(kind));
  giveList(
    [
      step.batch,
      model.mlstmHeads,
      model.slstmHeads,
      model.blockSize,
      ...settingsOf(model, step, rows),
      blocks.length,
      ...blocks,
      step.stages.length,
      ...step.stages,
      parameters.length,
      ...parameters.flatMap(({ name, shape }) => {
        const { split } = tensorParallelSplit(name, shape, model, step.residual);
        const segments = split?.segments ?? [];
        return [shape.length, ...shape, segments.length, ...segments];
      }),
    ],
    "plan",
  );
}

function settingsOf(model: PlannedModel, step: PlannedStep, rows: number): number[] {
  const dtypes = [step.activation, step.parameter, step.head, step.gather, step.scatter];
  return [
    rows,
    step.length,
    step.microbatches,
    model.embeddingDim,
    model.vocabSize,
    ...dtypes.map((dtype) => DTypeCode[dtype]),
    Number(step.reshardAfterForward),
    step.minSize,
    recomputePolicies.indexOf(step.recompute),
    residualModes.indexOf(step.residual),
    Number(model.tied),
    devices.indexOf(step.device),
    orders.indexOf(step.order),
  ];
}

function giveNames(names: readonly string[]): void {
  const bytes = new TextEncoder().encode(names.join("\n"));
  const page = scratch().text;
  let first = 0;
  do {
    const part = bytes.subarray(first, first + page.length);
    page.set(part);
    check(native().xl_plan_write_names(first, part.length), "plan");
    first += part.length;
  } while (first < bytes.length);
}

/** The text that the call with this status made. */
export function takeText(status: number, operation: string): string {
  check(status, operation);
  const bytes = new Uint8Array(scratch().numbers[0]!);
  for (let first = 0; first < bytes.length;) {
    check(native().xl_plan_read_text(first), operation);
    const length = scratch().numbers[0]!;
    bytes.set(scratch().text.subarray(0, length), first);
    first += length;
  }
  return new TextDecoder().decode(bytes);
}
