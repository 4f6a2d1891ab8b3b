// The pipeline executor (mesh.md §10): the 1F1B op list of a stage with the transfers between
// neighbours, and the loop that runs it. One stage is a pipeline, too: it transfers nothing.

import type { DType, Tensor } from "../tensor/index.ts";
import type { Group } from "./group.ts";
import type { PipelineOp } from "./schedule.ts";

/** Activations x go to the next stage, their gradients dx to the previous one. */
export interface Parcel {
  readonly what: "x" | "dx";
  readonly microbatch: number;
}

/** One thing that a stage does. */
export type PipelineAction =
  | { readonly kind: "forward" | "backward"; readonly microbatch: number }
  /** With both, one neighbour gets and gives at once, and makes the opposite transfer. */
  | { readonly kind: "transfer"; readonly send?: Parcel; readonly receive?: Parcel };

/** Stage `stage` of `stages`; `ops` are the op lists of all of them. */
export interface PipelinePlan {
  readonly stages: number;
  readonly stage: number;
  readonly ops: (stage: number) => readonly PipelineOp[];
}

/**
 * The op list of one stage with its transfers. A send that is followed by a receive from the same
 * neighbour is one transfer where the neighbour's list has the counterpart: then neither waits for
 * the other to begin.
 */
export function pipelineActions({ stages, stage, ops }: PipelinePlan): PipelineAction[] {
  const mine = ops(stage);
  const neighbourAt = (at: number): Neighbour => {
    const exists = at >= 0 && at < stages;
    return { exists, turns: exists ? turnsOf(ops(at)) : new Set() };
  };
  const previous = neighbourAt(stage - 1);
  const next = neighbourAt(stage + 1);
  const actions: PipelineAction[] = [];
  let isHere = false;
  mine.forEach((op, at) => {
    const { kind, microbatch } = op;
    const [from, to] = kind === "forward" ? [previous, next] : [next, previous];
    const parcel = { what: kind === "forward" ? "x" : "dx", microbatch } as const;
    if (from.exists && !isHere) actions.push({ kind: "transfer", receive: parcel });
    actions.push({ kind, microbatch });
    const following = mine[at + 1];
    isHere = following !== undefined && to.turns.has(turn(following, op));
    if (!to.exists) return;
    if (!isHere) actions.push({ kind: "transfer", send: parcel });
    else {
      const what = parcel.what === "x" ? "dx" : "x";
      const receive = { what, microbatch: following!.microbatch } as const;
      actions.push({ kind: "transfer", send: parcel, receive });
    }
  });
  return actions;
}

interface Neighbour {
  readonly exists: boolean;
  readonly turns: ReadonlySet<string>;
}

/** Where a list goes from a forward to a backward or back. */
function turnsOf(ops: readonly PipelineOp[]): Set<string> {
  const found = new Set<string>();
  ops.slice(1).forEach((op, at) => {
    if (op.kind !== ops[at]!.kind) found.add(turn(ops[at]!, op));
  });
  return found;
}

function turn(first: PipelineOp, second: PipelineOp): string {
  return `${first.kind} ${first.microbatch} ${second.kind} ${second.microbatch}`;
}

/** What a stage computes. A tensor that it is given is its own from then on. */
export interface PipelineWork {
  /** Of x from the previous stage (none on the first one): what goes to the next one, if any. */
  forward(microbatch: number, x: Tensor | undefined): Tensor | undefined;
  /** Of the gradient of that (none on the last one): the gradient of x, if any. */
  backward(microbatch: number, dy: Tensor | undefined): Tensor | undefined;
  /** Shape and dtype of x between stages. */
  readonly between: { readonly shape: readonly number[]; readonly dtype: DType };
}

/** Runs the actions of this rank's stage; `pp` is the group of its pipeline, in stage order. */
export function runPipeline(
  actions: readonly PipelineAction[],
  work: PipelineWork,
  pp: Group,
): void {
  const held = new Map<string, Tensor>();
  const take = (what: Parcel["what"], microbatch: number): Tensor | undefined => {
    const tensor = held.get(`${what} ${microbatch}`);
    held.delete(`${what} ${microbatch}`);
    return tensor;
  };
  const put = ({ what, microbatch }: Parcel, tensor: Tensor | undefined) => {
    if (tensor) held.set(`${what} ${microbatch}`, tensor);
  };
  for (const action of actions) {
    if (action.kind === "transfer") {
      const { send, receive } = action;
      const tensor = send && take(send.what, send.microbatch);
      const got = transfer(pp, work, action, tensor);
      tensor?.dispose();
      if (receive) put(receive, got);
      continue;
    }
    const { kind, microbatch } = action;
    if (kind === "forward") {
      put({ what: "x", microbatch }, work.forward(microbatch, take("x", microbatch)));
    } else put({ what: "dx", microbatch }, work.backward(microbatch, take("dx", microbatch)));
  }
}

function transfer(
  pp: Group,
  { between: { shape, dtype } }: PipelineWork,
  { send, receive }: { send?: Parcel; receive?: Parcel },
  tensor: Tensor | undefined,
): Tensor | undefined {
  const siteOf = ({ what, microbatch }: Parcel) => `${what} of microbatch ${microbatch}`;
  const out = send && {
    x: tensor!,
    peer: pp.rank + (send.what === "x" ? 1 : -1),
    site: siteOf(send),
  };
  const into = receive && {
    shape,
    dtype,
    peer: pp.rank - (receive.what === "x" ? 1 : -1),
    site: siteOf(receive),
  };
  return pp.exchange(out, into);
}
