// The file operations that writing a checkpoint is made of, each of them a place where the disk may
// be full or the power may go. Tests replace them one by one.

import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";

export interface Files {
  /** Creates a file that must not exist; returns its descriptor. */
  create(path: string): number;
  /** Writes all of the bytes. */
  write(descriptor: number, bytes: Uint8Array): void;
  /** Waits until the file's bytes are on the disk. */
  sync(descriptor: number): void;
  close(descriptor: number): void;
  /** Creates a directory and those above it; existing ones are fine. */
  makeDirectory(path: string): void;
  /** Waits until the directory's names are on the disk. */
  syncDirectory(path: string): void;
  rename(from: string, to: string): void;
  /** Removes a file or a tree; a missing one is fine. */
  remove(path: string): void;
  list(path: string): string[];
}

export const systemFiles: Files = {
  create: (path) => openSync(path, "wx", 0o644),
  write(descriptor, bytes) {
    let done = 0;
    while (done < bytes.length) done += writeSync(descriptor, bytes, done, bytes.length - done);
  },
  sync: fsyncSync,
  close: closeSync,
  makeDirectory(path) {
    mkdirSync(path, { recursive: true });
  },
  syncDirectory(path) {
    const descriptor = openSync(path, "r");
    try {
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  },
  rename: renameSync,
  remove(path) {
    rmSync(path, { recursive: true, force: true });
  },
  list: (path) => readdirSync(path),
};

/** Runs `body` with a new file, and makes its bytes durable before it is closed. */
export function writeDurably(
  files: Files,
  path: string,
  body: (write: (bytes: Uint8Array) => void) => void,
): void {
  const descriptor = files.create(path);
  let open = true;
  try {
    body((bytes) => files.write(descriptor, bytes));
    files.sync(descriptor);
    open = false;
    files.close(descriptor);
  } finally {
    if (open) quietly(() => files.close(descriptor));
  }
}

/** For clean-up after a failure: what goes wrong here must not hide the reason. */
export function quietly(action: () => void): void {
  try {
    action();
  } catch {
    // The first error is on its way to the caller.
  }
}
