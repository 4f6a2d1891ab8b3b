// What a forward pass carries to every block besides the activations, and the ranks it runs on.

import type { Mesh } from "../mesh/mesh.ts";
import type { Tensor } from "../tensor/index.ts";

/** What a model asks of the mesh. */
export type ModelMesh = Pick<Mesh, "size" | "coordinate" | "group">;

/**
 * Recurrent state of one block; which fields exist depends on the block. f32 (f64 in f64 models).
 */
export interface BlockState {
  /** mLSTM: C [B, NH, DQK, DV], n [B, NH, DQK], m [B, NH]; the sigmoid gate has no m. */
  c?: Tensor | undefined;
  n?: Tensor | undefined;
  m?: Tensor | undefined;
  /** sLSTM: [B, 4, NH, DH] in the order y, c, n, m. */
  slstm?: Tensor | undefined;
  /** The last K − 1 inputs of the causal convolution [B, K − 1, C]. */
  conv?: Tensor | undefined;
}

/** State of a whole model: one entry per block, and how many tokens it has seen. */
export interface ModelState {
  readonly blocks: BlockState[];
  position: number;
}

/**
 * Where dropout masks come from: they depend on (seed, step, layer, site) and the position only.
 */
export interface DropoutKey {
  readonly seed: number;
  readonly step: number;
  /** Row of the global batch that row 0 of this batch is. */
  readonly sample: number;
}

/** Options of one forward pass. */
export interface ForwardContext {
  /** Dropout on. */
  train: boolean;
  dropout: DropoutKey;
  /** u8 [B, S], 1 where a document starts. */
  borders: Tensor | undefined;
  /** i32 [B]: valid tokens of right-padded rows. */
  lengths: Tensor | undefined;
  /** Whether blocks return their last state. */
  returnState: boolean;
  /** One token per row: the state that is given moves on where it lies. */
  inPlace: boolean;
}

/** Output of a mixer: the branch, and the state after the last token when it was asked for. */
export interface Mixed {
  y: Tensor;
  state: BlockState | undefined;
}
