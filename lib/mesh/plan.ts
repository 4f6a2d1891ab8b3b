// What a training step will do on a mesh, without ranks, data or weights (mesh.md §3, §4.3, §20,
// §23.1): where every parameter lies, the bytes of a rank by cause, everything that is sent, and
// whether the operations of all ranks come to an end.
//
//   const plan = planStep(model, new Topology({ dp: 32, fsdp: 8 }, { world: 256 }), step);
//   console.log(renderPlan(plan));

import { type ConfigIssue, ConfigError } from "../config/errors.ts";
import { check, native } from "../native/library.ts";
import { int32 } from "../tensor/tensor.ts";
import { takeRows } from "./lists.ts";
import { givePlan, type PlannedModel, type PlannedStep, takeText } from "./plan_model.ts";
import { type Axis, axes, type Topology } from "./topology.ts";

export { renderPlan } from "./plan_text.ts";
export type { PlannedModel, PlannedStep } from "./plan_model.ts";

/** Why a rank needs memory. */
export const memoryCauses = [
  "states",
  "gradients",
  "accumulation",
  "gathered",
  "activations",
  "working",
  "head",
  "transfers",
] as const;
export type MemoryCause = (typeof memoryCauses)[number];

/** Why a rank says something to others. */
export const callCauses = [
  "weights",
  "gradients",
  "layers",
  "loss",
  "pipeline",
  "scalars",
] as const;
export type CallCause = (typeof callCauses)[number];

export const callKinds = [
  "allGather",
  "reduceScatter",
  "allReduce",
  "allToAll",
  "send",
  "receive",
  "exchange",
] as const;

/** A parameter on a rank. */
export interface PlannedParameter {
  readonly name: string;
  readonly shape: readonly number[];
  /**
   * Dim that tp splits; "R" and "I": whole, and the ranks do different work with it, or the same.
   */
  readonly tp: number | "R" | "I";
  /** Whether fsdp cuts it, as a part of a flat vector. */
  readonly isCut: boolean;
  /** Elements on the first rank of tp. */
  readonly elements: number;
  /** Those of them that one rank of fsdp updates, on average. */
  readonly owned: number;
}

/** The calls of one kind, of one group, for one cause. */
export interface PlannedCalls {
  readonly cause: CallCause;
  readonly kind: (typeof callKinds)[number];
  readonly over: readonly Axis[];
  readonly calls: number;
  /** What one rank puts on the wire. */
  readonly wireBytes: number;
}

/** What is the same on all ranks of a stage, or the largest of them. */
export interface PlannedStage {
  /** Blocks [from, to). */
  readonly from: number;
  readonly to: number;
  readonly parameters: readonly PlannedParameter[];
  readonly bytes: Readonly<Record<MemoryCause, number>>;
  readonly totalBytes: number;
  readonly calls: readonly PlannedCalls[];
}

export interface StepPlan {
  readonly model: PlannedModel;
  readonly topology: Topology;
  readonly step: PlannedStep;
  /** Rows of a microbatch. */
  readonly rows: number;
  readonly stages: readonly PlannedStage[];
  /** Operations of a rank in program order, one a line: what, in which group, how many elements. */
  operations(rank: number): string[];
}

/**
 * Plans a step. A ConfigError lists everything that keeps the model off the mesh; a NativeError
 * names an operation that is not legal where it stands, a gradient that would stay a partial sum,
 * or ranks that would wait for each other.
 */
export function planStep(model: PlannedModel, topology: Topology, step: PlannedStep): StepPlan {
  const share = topology.size("dp") * topology.size("fsdp") * step.microbatches;
  const rows = Math.floor(step.batch / share);
  const { world } = topology;
  /** Each call of native code gets the whole question: it keeps nothing. */
  const ask = (call: () => number): number => {
    givePlan(model, step, rows);
    topology.give();
    return call();
  };
  const issues = takeText(
    ask(() => native().xl_plan_issues(world)),
    "plan",
  );
  if (issues) throw new ConfigError("the model does not fit the mesh", issuesOf(issues));
  check(
    ask(() => native().xl_plan_check(world)),
    "plan",
  );
  const parameters = takeRows(
    ask(() => native().xl_plan_parameters(world)),
    "plan",
    6,
  );
  const bytes = takeRows(
    ask(() => native().xl_plan_bytes(world)),
    "plan",
    memoryCauses.length,
  );
  const calls = takeRows(
    ask(() => native().xl_plan_calls(world)),
    "plan",
    6,
  );
  return {
    model,
    topology,
    step,
    rows,
    stages: stagesOf(model, step, { parameters, bytes, calls }),
    operations(rank) {
      const call = () => native().xl_plan_operations(world, int32(rank, "a rank"));
      return takeText(ask(call), "plan").trimEnd().split("\n");
    },
  };
}

function issuesOf(text: string): ConfigIssue[] {
  return text
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [path, message] = line.split("\t") as [string, string];
      return { path, message };
    });
}

interface Rows {
  readonly parameters: readonly number[][];
  readonly bytes: readonly number[][];
  readonly calls: readonly number[][];
}

function stagesOf(model: PlannedModel, step: PlannedStep, rows: Rows): PlannedStage[] {
  let from = 0;
  return step.stages.map((size, stage) => {
    const to = (from += size);
    const ofStage = (list: readonly number[][]) => list.filter(([number]) => number === stage);
    const bytes = rows.bytes[stage]!;
    return {
      from: to - size,
      to,
      parameters: ofStage(rows.parameters).map((row) => parameterOf(model, row)),
      bytes: Object.fromEntries(memoryCauses.map((cause, i) => [cause, bytes[i]!])) as Record<
        MemoryCause,
        number
      >,
      totalBytes: bytes.reduce((sum, one) => sum + one, 0),
      calls: ofStage(rows.calls).map(callsOf),
    };
  });
}

function parameterOf(model: PlannedModel, row: readonly number[]): PlannedParameter {
  const [, number, state, vector, elements, owned] = row as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const { name, shape } = model.parameters[number]!;
  const tp = state >= 0 ? state : state === -1 ? "R" : "I";
  return { name, shape, tp, isCut: vector >= 0, elements, owned };
}

function callsOf(row: readonly number[]): PlannedCalls {
  const [, cause, kind, bits, calls, wireBytes] = row as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const over = axes.filter((_, i) => (bits >> i) & 1);
  return { cause: callCauses[cause]!, kind: callKinds[kind]!, over, calls, wireBytes };
}
