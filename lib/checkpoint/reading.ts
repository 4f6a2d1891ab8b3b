// Reading of the files of a checkpoint, which nobody may have tampered with: plain files only, no
// links, and trouble of this process is never taken for damage of the file.

import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { CheckpointError, messageOf, UnreadableError } from "./errors.ts";

/** What goes away when the process has more rights, descriptors or memory. */
const processTrouble = new Set(["EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN"]);

export interface OpenFile extends Disposable {
  /** Length when the file was opened. */
  readonly bytes: number;
  /** `length` bytes from `offset` on; a file that ends before is a CheckpointError. */
  read(offset: number, length: number): Uint8Array;
}

/**
 * Opens a plain file for reading (reliability.md §10: no symbolic link, no pipe, no device). Throws
 * an UnreadableError for what the process lacks, and a CheckpointError for everything else.
 */
export function openPlainFile(path: string): OpenFile {
  // Non-blocking, so that a pipe of that name cannot hang the program.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const descriptor = attempt(path, () => openSync(path, flags));
  const close = () => closeSync(descriptor);
  try {
    const status = attempt(path, () => fstatSync(descriptor));
    if (!status.isFile()) throw new CheckpointError({ path }, "is not a plain file");
    const read = (offset: number, length: number) => readRange(path, descriptor, offset, length);
    return { bytes: status.size, read, [Symbol.dispose]: close };
  } catch (error) {
    close();
    throw error;
  }
}

function readRange(path: string, descriptor: number, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const count = attempt(path, () =>
      readSync(descriptor, bytes, done, length - done, offset + done),
    );
    if (count === 0) throw new CheckpointError({ path }, "became shorter while it was read");
    done += count;
  }
  return bytes;
}

/** Runs an operation of the file system and turns what it throws into an error of ours. */
function attempt<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const code = (error as { code?: string }).code ?? "";
    if (code === "ENOENT") throw new CheckpointError({ path }, "is missing", error);
    if (code === "ELOOP") throw new CheckpointError({ path }, "is a symbolic link", error);
    const reason = `cannot be read: ${messageOf(error)}`;
    if (processTrouble.has(code)) throw new UnreadableError({ path }, reason, error);
    throw new CheckpointError({ path }, reason, error);
  }
}
