// Runs the blocks of a model one after the other: unit by unit for sharded weights (mesh.md §7.1),
// and with activations that the backward pass makes again instead of keeping them (§12).

import type { Unit } from "../mesh/flat_shard.ts";
import type { UnitHooks } from "../mesh/fsdp.ts";
import { checkpoint, gradEnabled, type Tensor } from "../tensor/index.ts";
import { release, transient } from "../tensor/tape.ts";
import { type Advanced, type Block, closed } from "./block.ts";
import type { BlockState, ForwardContext } from "./context.ts";
import type { Stream } from "./layers.ts";
import type { Parameter } from "./parameter.ts";

/** What the backward pass makes again: nothing, each block as a whole, or each residual half. */
export type Recompute = "none" | "block" | "half";

/** A part of the stack that is recomputed as a whole, and whose weights are used together. */
interface Piece {
  readonly unit: Unit;
  /** Place of the block among those of this stage. */
  readonly place: number;
  run(stream: Stream, context: ForwardContext, state?: BlockState): Advanced;
}

/** The residual stream after the blocks, and their states where they were asked for. */
export interface Stacked {
  readonly stream: Stream;
  readonly states: BlockState[];
}

export class Stack {
  readonly #pieces: readonly Piece[];
  readonly #recompute: Recompute;

  constructor(blocks: readonly Block[], parameters: Parameters, recompute: Recompute) {
    const cut = recompute === "half" ? halves : whole;
    this.#pieces = blocks.flatMap((block, place) => cut(block, place, parameters));
    this.#recompute = recompute;
  }

  /** A unit per block; per residual half where those are recomputed one by one. */
  units(): Unit[] {
    return this.#pieces.map(({ unit }) => unit);
  }

  /** x is the closed stream before the first block; `states` are those of the blocks, in order. */
  run(
    x: Tensor,
    context: ForwardContext,
    given: { states?: readonly BlockState[] | undefined; hooks: UnitHooks | undefined },
  ): Stacked {
    const { hooks } = given;
    const again = this.#recompute !== "none" && gradEnabled() && !context.returnState;
    const states: BlockState[] = [];
    let stream: Stream = { x, branch: undefined };
    for (const piece of this.#pieces) {
      const state = given.states?.[piece.place];
      if (again) {
        const run = (from: Stream) => piece.run(from, context, state).stream;
        stream = recomputed(piece.unit, stream, run, hooks);
        continue;
      }
      hooks?.enter(piece.unit);
      const result = advance(piece, stream, context, state);
      stream = left(piece, result.stream, hooks);
      if (result.state) states.push(result.state);
    }
    return { stream, states };
  }
}

/** Runs what reads a unit's parameters; returns its result to go on with. */
export function within(hooks: UnitHooks | undefined, unit: Unit, body: () => Tensor): Tensor {
  if (!hooks) return body();
  hooks.enter(unit);
  return hooks.leave(unit, [body()])[0]!;
}

/** Runs a piece; what it makes on the way is the tape's. The stream is taken over. */
function advance(
  piece: Piece,
  stream: Stream,
  context: ForwardContext,
  state?: BlockState,
): Advanced {
  const result = transient(
    () => piece.run(stream, context, state),
    (made) => [...Object.values(made.stream), ...Object.values(made.state ?? {})],
  );
  if (result.stream.x !== stream.x) release(stream.x);
  return result;
}

/** The stream behind a unit. */
function left(piece: Piece, stream: Stream, hooks: UnitHooks | undefined): Stream {
  if (!hooks) return stream;
  const { x, branch } = stream;
  const outputs = hooks.leave(piece.unit, branch ? [x, branch] : [x]);
  if (branch && outputs[1] !== branch) branch.dispose();
  return { x: outputs[0]!, branch: branch && outputs[1] };
}

/** Runs a unit on the closed stream, of which nothing else is kept. */
function recomputed(
  unit: Unit,
  stream: Stream,
  run: (from: Stream) => Stream,
  hooks: UnitHooks | undefined,
): Stream {
  const body = (x: Tensor): Tensor =>
    within(hooks, unit, () =>
      transient(
        () => closed(run({ x, branch: undefined })),
        (made) => [made],
      ),
    );
  return { x: checkpoint(body, [closed(stream)], "all"), branch: undefined };
}

type Parameters = ReadonlyMap<string, Parameter>;

function whole(block: Block, place: number, parameters: Parameters): Piece[] {
  const name = `blocks.${block.index}`;
  const unit = unitOf(name, `${name}.`, parameters);
  return [{ unit, place, run: (...given) => block.run(...given) }];
}

function halves(block: Block, place: number, parameters: Parameters): Piece[] {
  const half = (branch: string) => {
    const name = `blocks.${block.index}.${branch}`;
    return unitOf(name, name, parameters);
  };
  const mixer: Piece = { unit: half("mixer"), place, run: (...given) => block.mix(...given) };
  if (!block.ffn) return [mixer];
  const run: Piece["run"] = (stream, context) => {
    return { stream: block.feed(stream, context), state: undefined };
  };
  return [mixer, { unit: half("ffn"), place, run }];
}

/** The parameters whose names begin with `prefix`. */
function unitOf(name: string, prefix: string, parameters: Parameters): Unit {
  const own = [...parameters.values()].filter((parameter) => parameter.name.startsWith(prefix));
  return { name, parameters: own };
}
