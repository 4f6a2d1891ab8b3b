// How every parameter of the models lies on the ranks of tp (mesh.md §8.1 to §8.5).

import { check, native, scratch } from "../native/library.ts";
import { type Split } from "./placement.ts";

export const blockKinds = ["v1", "paper", "slstm"] as const;
/** Where the residual stream lies on the ranks of tp: S(sequence), S(features), or I. */
export const residualModes = ["sequence", "feature", "replicated"] as const;
export type PlannedResidual = (typeof residualModes)[number];

/** What of a model decides where its parameters lie. */
export interface LayoutModel {
  /** By block. */
  readonly kinds: readonly (typeof blockKinds)[number][];
  /** Channels of queries, keys and values, where the gates of paper blocks read all of them. */
  readonly gateSegments?: readonly number[] | undefined;
}

export interface TensorParallelLayout {
  /** Undefined: every rank has all of it. */
  readonly split?: Split;
  /** Whether its gradient is a partial sum over tp when the backward pass ends. */
  readonly partial: boolean;
}

/** The layout of a parameter of `shape` over tp. A NativeError for names that no model has. */
export function tensorParallelSplit(
  name: string,
  shape: readonly number[],
  model: LayoutModel,
  residual: PlannedResidual = "sequence",
): TensorParallelLayout {
  const [, block] = /^blocks\.(\d+)\./.exec(name) ?? [];
  const kind = block === undefined ? 0 : blockKinds.indexOf(model.kinds[Number(block)]!);
  const { written } = new TextEncoder().encodeInto(name, scratch().text);
  const mode = residualModes.indexOf(residual);
  check(native().xl_plan_rule(kind, shape.length, mode, written), "layout");
  const [dim, hasSegments] = scratch().numbers;
  if (dim! < 0) return { partial: dim === -1 };
  const segments = hasSegments === 1 ? model.gateSegments : undefined;
  return { split: segments ? { dim: dim!, segments } : { dim: dim! }, partial: false };
}
