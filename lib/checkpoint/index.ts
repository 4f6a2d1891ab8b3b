// Files of tensors and checkpoints.

export { CheckpointError } from "./errors.ts";
export { openSafetensors, type TensorEntry, type TensorFile } from "./safetensors.ts";
export { openCheckpointFiles } from "./sharded.ts";
export { saveSafetensors, type StoredFile, type StoredTensor } from "./writer.ts";
