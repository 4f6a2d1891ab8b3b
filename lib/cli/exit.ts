// Exit codes of every recipe (reliability.md §3).

export const ExitCode = {
  /** Finished, or saved and stopped on a signal. */
  finished: 0,
  /** A check that the recipe makes (`verify`) found failures. */
  failed: 1,
  /** Wrong argument, flag or configuration. */
  usage: 64,
  /** Input data missing, damaged or unusable. */
  data: 65,
  /** No loadable checkpoint. */
  noCheckpoint: 66,
  /** A peer was lost or out of step. */
  peer: 69,
  /** Internal error, or a second interrupt. */
  internal: 70,
  /** A checkpoint could not be written. */
  notSaved: 74,
  /** Non-finite value under policy `stop`. */
  nonFinite: 76,
  /** Authentication or permission. */
  permission: 77,
} as const;

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** Ends a recipe with a message and an exit code, without a stack trace. */
export class ExitError extends Error {
  override readonly name: string = "ExitError";
  readonly exitCode: number;

  constructor(exitCode: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** A wrong command line. The message says what was expected and the way out. */
export class UsageError extends ExitError {
  override readonly name = "UsageError";

  constructor(message: string) {
    super(ExitCode.usage, message);
  }
}
