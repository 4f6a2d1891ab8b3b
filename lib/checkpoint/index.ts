// Files of tensors and checkpoints.

export { alone, type Ranks } from "./agreement.ts";
export { CheckpointError, NoSoundCheckpointError, UnreadableError } from "./errors.ts";
export { Checkpoint, loadCheckpoint } from "./load.ts";
export { type Manifest, NewerFormatError } from "./manifest.ts";
export { exportWeights, mergeCheckpoint } from "./merge.ts";
export {
  type CheckpointContents,
  latestCheckpoint,
  listCheckpoints,
  saveCheckpoint,
} from "./protocol.ts";
export type { Part } from "./pieces.ts";
export type { Keep } from "./retention.ts";
export { openSafetensors, type TensorEntry, type TensorFile } from "./safetensors.ts";
export { type Piece, saveShared, type SharedContents } from "./shared.ts";
export { openCheckpointFiles } from "./sharded.ts";
export { saveSafetensors, type StoredFile, type StoredTensor } from "./writer.ts";
