// How the layers of a model cross the ranks of the mesh axis tp (mesh.md §8): heads and FFN columns
// are split over them, and the residual stream is either split along the sequence or whole.

import { type ConfigIssue, ConfigError } from "../config/errors.ts";
import type { Group } from "../mesh/group.ts";
import { allToAll, enter, gather, part, scatterSum, sum } from "../mesh/redistribute.ts";
import { arithmetic, type DType, ShapeError, type Tensor } from "../tensor/index.ts";
import { partsOf } from "../tensor/shared_sums.ts";
import { blockKinds, type ModelConfig } from "./config.ts";
import type { ModelMesh } from "./context.ts";
import type { Parameter } from "./parameter.ts";
import { VocabularyPart } from "./vocabulary.ts";

/**
 * Where the residual stream [B, S, D] lies: S(1), every rank has a piece of the sequence, or I,
 * every rank has it all and repeats what is done to it (decoding, lengths that do not divide).
 */
export type ResidualMode = "sequence" | "replicated";

/** Whether layers between `spread` and `collect` look at the order of tokens. */
export type TokenOrder = "sequence" | "any";

const what = "the model does not fit the mesh";
const rows = 0;
const sequence = 1;
const features = 2;

export class TensorParallel {
  readonly group: Group | undefined;
  readonly mode: ResidualMode;
  readonly size: number;
  readonly rank: number;

  constructor(group?: Group, mode: ResidualMode = "sequence") {
    this.group = group && group.size > 1 ? group : undefined;
    this.mode = mode;
    this.size = this.group?.size ?? 1;
    this.rank = this.group?.rank ?? 0;
  }

  /** How a model of this configuration lies on a mesh. ConfigError when it does not fit. */
  static of(
    config: ModelConfig,
    mesh: ModelMesh | undefined,
    mode: ResidualMode = "sequence",
  ): TensorParallel {
    if (mesh && mesh.size("cp") > 1) {
      const message = `cp is ${mesh.size("cp")}: models do not pass states between ranks; use cp 1`;
      throw new ConfigError(what, [{ path: "mesh.cp", message }]);
    }
    const tp = new TensorParallel(mesh && mesh.size("tp") > 1 ? mesh.group("tp") : undefined, mode);
    tp.check(config);
    return tp;
  }

  /** The ids of this rank, of a table or head [V, D] whose rows are split over the ranks. */
  vocabularyPart(table: Parameter, dtype: DType): VocabularyPart | undefined {
    return this.group && new VocabularyPart(table, this.group, arithmetic(dtype));
  }

  /** Whether the residual stream is split along the sequence. */
  get isSequence(): boolean {
    return this.size > 1 && this.mode === "sequence";
  }

  /** In how many runs a rank adds its part of a sum over heads, columns or ids (`partsOf`). */
  get parts(): number {
    return partsOf(this.size);
  }

  /** ConfigError with every size of the model that the ranks do not divide. */
  check(config: ModelConfig): void {
    if (this.size === 1) return;
    const issues: ConfigIssue[] = [];
    const expect = (path: string, value: number, what: string) => {
      if (value % this.size === 0) return;
      const message = `${value} ${what} are not divisible by tp ${this.size}`;
      issues.push({ path, message });
    };
    const kinds = new Set(blockKinds(config));
    const hasMlstm = kinds.has("v1") || kinds.has("paper");
    if (hasMlstm) expect("mlstm.numHeads", config.mlstm.numHeads, "heads");
    if (kinds.has("slstm")) expect("slstm.numHeads", config.slstm.numHeads, "heads");
    const { ffn, slstmFfn, vocabSize } = config;
    const perRank = Math.ceil(vocabSize / this.size);
    if (perRank * (this.size - 1) >= vocabSize) {
      const parts = `${vocabSize} ids, ${perRank} per rank`;
      const message = `${parts}, leave none for the last rank of tp ${this.size}`;
      issues.push({ path: "vocabSize", message });
    }
    if (kinds.has("v1") && ffn.type) expect("ffn.hiddenDim", ffn.hiddenDim, "columns");
    if (kinds.has("slstm") && slstmFfn.type) {
      expect("slstmFfn.hiddenDim", slstmFfn.hiddenDim, "columns");
    }
    if (issues.length > 0) throw new ConfigError(what, issues);
  }

  /** The configuration that the cells of one rank see: its own heads. */
  localConfig(config: ModelConfig): ModelConfig {
    if (this.size === 1) return config;
    const { mlstm, slstm } = config;
    return {
      ...config,
      mlstm: { ...mlstm, numHeads: mlstm.numHeads / this.size },
      slstm: { ...slstm, numHeads: slstm.numHeads / this.size },
    };
  }

  /** Throws where a sequence of `length` tokens cannot be split over the ranks. */
  checkLength(length: number): void {
    if (!this.isSequence || length % this.size === 0) return;
    throw new ShapeError(
      `${length} tokens per row are not divisible by tp ${this.size}; ` +
        'pad them, or build the model with { residual: "replicated" }',
    );
  }

  /** Global position of the first token of a residual stream x [B, S or S/t, D]. */
  firstPosition(x: Tensor): number {
    return this.isSequence ? this.rank * x.shape[sequence]! : 0;
  }

  /** Global number of the first feature of x [.., D/t]. */
  firstFeature(x: Tensor): number {
    return this.rank * x.shape.at(-1)!;
  }

  /**
   * Residual → R, for column-parallel layers. Takes x over. In any order, [B, S/t, D] may become
   * [t·B, S/t, D].
   */
  spread(x: Tensor, site: string, order: TokenOrder = "sequence"): Tensor {
    if (!this.group) return x;
    const whole = this.isSequence
      ? gather(x, this.group, tokenDim(x, order), "R", `${site}.in`)
      : enter(x, this.group, `${site}.in`);
    x.dispose();
    return whole;
  }

  /** P, of row-parallel layers, → residual. Takes y over; tokens lie as `spread` left them. */
  collect(y: Tensor, site: string, order: TokenOrder = "sequence"): Tensor {
    if (!this.group) return y;
    const total = this.isSequence
      ? scatterSum(y, this.group, tokenDim(y, order), `${site}.out`)
      : sum(y, this.group, `${site}.out`);
    y.dispose();
    return total;
  }

  /** Residual → S(features) [B, S, D/t], for layers that keep features apart. Takes x over. */
  toFeatures(x: Tensor, site: string): Tensor {
    if (!this.group) return x;
    const own = this.isSequence
      ? allToAll(x, this.group, { split: features, join: sequence }, `${site}.in`)
      : part(x, this.group, features, "I", `${site}.in`);
    x.dispose();
    return own;
  }

  /** S(features) [B, S, D/t] → residual. Takes y over. */
  fromFeatures(y: Tensor, site: string): Tensor {
    if (!this.group) return y;
    const residual = this.isSequence
      ? allToAll(y, this.group, { split: sequence, join: features }, `${site}.out`)
      : gather(y, this.group, features, "I", `${site}.out`);
    y.dispose();
    return residual;
  }

  /** Sums [.., NH] of this rank's channels for all heads (P) → the sums of its own heads. */
  ownHeads(x: Tensor, site: string): Tensor {
    return this.group ? scatterSum(x, this.group, x.rank - 1, site) : x;
  }

  /** Residual → I, for what every rank repeats. */
  whole(x: Tensor, site: string): Tensor {
    if (!this.group || !this.isSequence) return x;
    return gather(x, this.group, sequence, "I", site);
  }
}

/**
 * The dim along which tokens of ranks are joined: that of the sequence costs a copy of all. On a
 * CPU one process adds over tokens in their order, and ranks with the same bits.
 */
function tokenDim({ device }: Tensor, order: TokenOrder): number {
  return order === "any" && device === "cuda" ? rows : sequence;
}
