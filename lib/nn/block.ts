// A residual block: mixer branch, and a feed-forward branch where the block has one (models.md §4).

import { add, type Tensor } from "../tensor/index.ts";
import type { BlockKind, ModelConfig } from "./config.ts";
import type { BlockState, ForwardContext } from "./context.ts";
import { FeedForward, Norm, type Stream } from "./layers.ts";
import { PaperMixer, V1Mixer } from "./mixers.ts";
import type { ParameterStore } from "./parameter.ts";
import { SlstmMixer } from "./slstm.ts";
import type { TensorParallel } from "./tensor_parallel.ts";

const mixers = { v1: V1Mixer, paper: PaperMixer, slstm: SlstmMixer };

/** Where a block stands in the model. */
export interface BlockPlace {
  /** Global number. */
  readonly index: number;
  readonly kind: BlockKind;
  readonly tp: TensorParallel;
}

/** x ← x + [postNorm] branch(norm(x)), once or twice. */
export class Block {
  readonly index: number;
  readonly kind: BlockKind;
  readonly mixerNorm: Norm;
  readonly mixer: V1Mixer | PaperMixer | SlstmMixer;
  readonly mixerPostNorm: Norm | undefined;
  readonly ffnNorm: Norm | undefined;
  readonly ffn: FeedForward | undefined;
  readonly ffnPostNorm: Norm | undefined;

  constructor(store: ParameterStore, config: ModelConfig, { index, kind, tp }: BlockPlace) {
    const name = `blocks.${index}`;
    this.index = index;
    this.kind = kind;
    this.mixerNorm = new Norm(store, `${name}.mixer_norm`, config, { joins: index > 0 });
    this.mixer = new mixers[kind](store, `${name}.mixer`, tp.localConfig(config), tp);
    const post = (branch: string) =>
      config.postNorm ? new Norm(store, `${name}.${branch}_post_norm`, config) : undefined;
    this.mixerPostNorm = post("mixer");
    const ffn = kind === "slstm" ? config.slstmFfn : config.ffn;
    if (kind === "paper" || ffn.type === null) return;
    this.ffnNorm = new Norm(store, `${name}.ffn_norm`, config, { joins: true });
    this.ffn = new FeedForward(store, `${name}.ffn`, ffn, tp);
    this.ffnPostNorm = post("ffn");
  }

  /**
   * Both branches; leaves the last sum to the norm that follows, which makes both in one pass. The
   * block's last state comes with it when it was asked for.
   */
  run(stream: Stream, context: ForwardContext, state?: BlockState): Advanced {
    const half = this.mix(stream, context, state);
    return this.ffn ? { ...half, stream: this.feed(half.stream, context) } : half;
  }

  /** The mixer branch alone. */
  mix(stream: Stream, context: ForwardContext, state?: BlockState): Advanced {
    const { sum, y } = this.mixerNorm.residual(stream);
    const mixed = this.mixer.forward(y, context, state);
    const branch = this.mixerPostNorm ? this.mixerPostNorm.forward(mixed.y) : mixed.y;
    return { stream: { x: sum, branch }, state: mixed.state };
  }

  /** The feed-forward branch alone, of a block that has one. */
  feed(stream: Stream, context: ForwardContext): Stream {
    const { sum, y } = this.ffnNorm!.residual(stream);
    const inner = this.ffn!.forward(y, context);
    return { x: sum, branch: this.ffnPostNorm ? this.ffnPostNorm.forward(inner) : inner };
  }
}

export interface Advanced {
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
