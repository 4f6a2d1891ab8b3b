/** Data cannot be used: missing, empty, damaged, binary, or too short. Exit code 65. */
export class DataError extends Error {
  override readonly name = "DataError";
  readonly exitCode = 65;
}
