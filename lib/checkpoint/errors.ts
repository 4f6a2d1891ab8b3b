// One error for everything that can be wrong with files of tensors and checkpoints.

export interface Damage {
  /** File or directory that is wrong. */
  readonly path: string;
  /** Tensor that is wrong, when it is one. */
  readonly tensor?: string;
}

/** A checkpoint could not be written or is not fit to be read. */
export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
  readonly path: string;
  readonly tensor: string | undefined;

  constructor(damage: Damage, reason: string, cause?: unknown) {
    const tensor = damage.tensor === undefined ? "" : ` tensor ${JSON.stringify(damage.tensor)}:`;
    super(`${damage.path}:${tensor} ${reason}`, cause === undefined ? undefined : { cause });
    this.path = damage.path;
    this.tensor = damage.tensor;
  }
}

/** The file may be sound, this process cannot read it: no rights, no descriptors, no memory. */
export class UnreadableError extends CheckpointError {}

/** There are checkpoints and not one of them is sound. Exit code 66. */
export class NoSoundCheckpointError extends CheckpointError {
  readonly exitCode = 66;
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
