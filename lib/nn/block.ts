// A residual block: mixer branch, and a feed-forward branch where the block has one (models.md §4).

import { add, type Tensor } from "../tensor/index.ts";
import type { BlockKind, ModelConfig } from "./config.ts";
import type { BlockState, ForwardContext } from "./context.ts";
import { FeedForward, Norm } from "./layers.ts";
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
    const mixed = this.mixer.forward(this.mixerNorm.forward(x), context, state);
    const branch = this.mixerPostNorm ? this.mixerPostNorm.forward(mixed.y) : mixed.y;
    const y = add(x, branch);
    if (!this.ffn) return { y, state: mixed.state };
    const inner = this.ffn.forward(this.ffnNorm!.forward(y), context);
    const second = this.ffnPostNorm ? this.ffnPostNorm.forward(inner) : inner;
    return { y: add(y, second), state: mixed.state };
  }
}
