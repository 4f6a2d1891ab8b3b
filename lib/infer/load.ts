// A trained model from a checkpoint.
//
//   const { model, step } = loadModel(latestCheckpoint("runs/moby-dick/checkpoints")!);

import { loadCheckpoint } from "../checkpoint/load.ts";
import { type ModelConfigInput, resolveConfig } from "../nn/config.ts";
import { XLSTM } from "../nn/model.ts";
import { scope, type Tensor } from "../tensor/index.ts";

/** A model, and the step after which it was saved. */
export interface LoadedModel {
  readonly model: XLSTM;
  readonly step: number;
  /** The recipe that was stored with it. */
  readonly recipe: Readonly<Record<string, unknown>>;
}

/**
 * The model at a checkpoint's path, as `latestCheckpoint` returns it. Throws a CheckpointError when
 * a file is damaged, a ConfigError when the stored recipe has no proper model configuration.
 */
export function loadModel(path: string): LoadedModel {
  using checkpoint = loadCheckpoint(path);
  const recipe = checkpoint.manifest.recipe as Record<string, unknown>;
  const model = new XLSTM(resolveConfig(recipe["model"] as ModelConfigInput));
  loadParameters(model, (name) => checkpoint.load(name));
  return { model, step: checkpoint.step, recipe };
}

/** Fills the parameters of a model from tensors of the same names, which are disposed of. */
export function loadParameters(model: XLSTM, load: (name: string) => Tensor): void {
  scope(() => {
    const all = [...model.parameters().keys()].map((name) => [name, load(name)] as const);
    model.load(new Map(all));
  });
}
