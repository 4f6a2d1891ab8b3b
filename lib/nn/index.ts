// Models: configuration, presets, parameters, blocks.

export { type ModelConfig, type ModelConfigInput, resolveConfig } from "./config.ts";
export type { BlockState, ForwardContext, ModelState } from "./context.ts";
export {
  type Batch,
  type ForwardOptions,
  type ModelOptions,
  type Targets,
  type Tokens,
  XLSTM,
  xlstm,
} from "./model.ts";
export { Parameter } from "./parameter.ts";
export { countParameters, parameterSpecs } from "./parameters.ts";
export { preset, type PresetName, presetNames } from "./presets.ts";
