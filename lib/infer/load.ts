// A trained model from a checkpoint.
//
//   const { model, step } = loadModel(latestCheckpoint("runs/moby-dick/checkpoints")!);

import { loadCheckpoint } from "../checkpoint/load.ts";
import { type Part, wholePart } from "../checkpoint/pieces.ts";
import { type ModelConfig, type ModelConfigInput, resolveConfig } from "../nn/config.ts";
import { XLSTM } from "../nn/model.ts";
import { noGrad, type Tensor } from "../tensor/index.ts";

/** A model, and the step after which it was saved. */
export interface LoadedModel {
  readonly model: XLSTM;
  readonly step: number;
  /** The recipe that was stored with it. */
  readonly recipe: Readonly<Record<string, unknown>>;
}

export interface LoadOptions {
  /** Dtype of activations. Default: what the checkpoint says, often "auto": bf16 on a GPU. */
  dtype?: ModelConfig["dtype"];
}

/**
 * The model at a checkpoint's path, as `latestCheckpoint` returns it, for inference on one process,
 * whatever mesh has saved it: on a GPU with
 * bf16 activations its matrices are held in bf16. Throws a CheckpointError when a file is damaged,
 * a ConfigError when the stored recipe has no proper model configuration.
 */
export function loadModel(path: string, { dtype }: LoadOptions = {}): LoadedModel {
  using checkpoint = loadCheckpoint(path);
  const recipe = checkpoint.manifest.recipe as Record<string, unknown>;
  const stored = recipe["model"] as ModelConfigInput;
  const config = resolveConfig(dtype === undefined ? stored : { ...stored, dtype });
  const model = new XLSTM(config, { inference: true });
  loadParameters(model, (name, part) => checkpoint.loadPart(name, part));
  return { model, step: checkpoint.step, recipe };
}

/**
 * Fills the parameters of a model, one after the other, with what `load` returns for their names
 * and the parts of the stored tensors that they are: a tensor of the parameter's shape, which is
 * disposed of.
 */
export function loadParameters(model: XLSTM, load: (name: string, part: Part) => Tensor): void {
  for (const [name, parameter] of model.parameters()) {
    using stored = load(name, wholePart(parameter.placement));
    noGrad(() => parameter.write_(stored));
  }
}
