import { Status } from "./symbols.ts";

const names = new Map<number, string>(Object.entries(Status).map(([name, code]) => [code, name]));

/** A native call failed. `message` says what was expected, what came, and the way out. */
export class NativeError extends Error {
  override readonly name: string = "NativeError";
  /** Status name, e.g. `invalid_argument`. */
  readonly code: string;
  readonly operation: string;

  constructor(status: number, operation: string, text: string) {
    // Native code names its own function, which need not be called like the one the user called.
    super(text.replace(/^\w+: /, `${operation}: `));
    this.code = names.get(status) ?? `status ${status}`;
    this.operation = operation;
  }
}

/** The native library could not be loaded, or does not fit these sources. */
export class LibraryError extends Error {
  override readonly name = "LibraryError";
}
