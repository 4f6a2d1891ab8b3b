// A residual block: mixer branch, and a feed-forward branch where the block has one (models.md §4).

import { add, type Tensor } from "../tensor/index.ts";
import { release, transient } from "../tensor/tape.ts";
import type { BlockKind, ModelConfig } from "./config.ts";
import type { BlockState, ForwardContext } from "./context.ts";
import { FeedForward, Norm, type Stream } from "./layers.ts";
import { PaperMixer, V1Mixer } from "./mixers.ts";
import type { ParameterStore } from "./parameter.ts";
import { SlstmMixer } from "./slstm.ts";

const mixers = { v1: V1Mixer, paper: PaperMixer, slstm: SlstmMixer };

/** x ← x + [postNorm] branch(norm(x)), once or twice. */
export class Block {
  readonly kind: BlockKind;
  readonly mixerNorm: Norm;
  readonly mixer: V1Mixer | PaperMixer | SlstmMixer;
  readonly mixerPostNorm: Norm | undefined;
  readonly ffnNorm: Norm | undefined;
  readonly ffn: FeedForward | undefined;
  readonly ffnPostNorm: Norm | undefined;

  constructor(store: ParameterStore, name: string, config: ModelConfig, kind: BlockKind) {
    this.kind = kind;
    this.mixerNorm = new Norm(store, `${name}.mixer_norm`, config);
    this.mixer = new mixers[kind](store, `${name}.mixer`, config);
    const post = (branch: string) =>
      config.postNorm ? new Norm(store, `${name}.${branch}_post_norm`, config) : undefined;
    this.mixerPostNorm = post("mixer");
    const ffn = kind === "slstm" ? config.slstmFfn : config.ffn;
    if (kind === "paper" || ffn.type === null) return;
    this.ffnNorm = new Norm(store, `${name}.ffn_norm`, config);
    this.ffn = new FeedForward(store, `${name}.ffn`, ffn);
    this.ffnPostNorm = post("ffn");
  }

  /** x [B, S, D] → the same shape, and the block's last state when it was asked for. */
  forward(
    x: Tensor,
    context: ForwardContext,
    state?: BlockState,
  ): { y: Tensor; state: BlockState | undefined } {
    const run = () => {
      const result = this.#run({ x, branch: undefined }, context, state);
      return { y: closed(result.stream), state: result.state };
    };
    return transient(run, ({ y, state: last }) => [y, ...Object.values(last ?? {})]);
  }

  /**
   * As `forward`, but leaves the last sum to the norm that follows, which makes both in one pass.
   * The stream is taken over.
   */
  advance(stream: Stream, context: ForwardContext, state?: BlockState): Advanced {
    const result = transient(
      () => this.#run(stream, context, state),
      (made) => [...Object.values(made.stream), ...Object.values(made.state ?? {})],
    );
    if (result.stream.x !== stream.x) release(stream.x);
    return result;
  }

  #run(stream: Stream, context: ForwardContext, state: BlockState | undefined): Advanced {
    const first = this.mixerNorm.residual(stream);
    const mixed = this.mixer.forward(first.y, context, state);
    const branch = this.mixerPostNorm ? this.mixerPostNorm.forward(mixed.y) : mixed.y;
    const half: Stream = { x: first.sum, branch };
    if (!this.ffn) return { stream: half, state: mixed.state };
    const second = this.ffnNorm!.residual(half);
    const inner = this.ffn.forward(second.y, context);
    const last = this.ffnPostNorm ? this.ffnPostNorm.forward(inner) : inner;
    return { stream: { x: second.sum, branch: last }, state: mixed.state };
  }
}

interface Advanced {
  readonly stream: Stream;
  readonly state: BlockState | undefined;
}

/** The sum that a stream stands for. */
export function closed({ x, branch }: Stream): Tensor {
  if (!branch) return x;
  const y = add(x, branch);
  branch.dispose();
  return y;
}
