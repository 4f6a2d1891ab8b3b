// A corpus is two runs of bytes: what is trained on and what is held out.
//
//   const text = corpus("moby-dick")              // the embedded novel
//   for (const batch of text.batches({ size: 16, length: 256, seed: 0 })) { ... }
//   for (const batch of text.evaluation({ size: 16, length: 256 })) { ... }

import { readFileSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import mobyDickFile from "../../assets/moby-dick.txt.zst" with { type: "file" };
import { suggestion } from "../config/suggest.ts";
import { type BatchOptions, BatchStream } from "./batches.ts";
import { DataError } from "./errors.ts";
import { Evaluation, type EvaluationOptions } from "./evaluation.ts";
import { checkText } from "./text_check.ts";

export type Split = "train" | "validation";

/** Corpora that ship with the library (assets/PROVENANCE.md). */
export const embedded = ["moby-dick"] as const;
export type EmbeddedName = (typeof embedded)[number];

export interface CorpusOptions {
  /** Part of the bytes, at the end, that is held out. Default 0.1. */
  validationFraction?: number;
  /** Accept files that are no text: every byte is a token. Default false. */
  allowBinary?: boolean;
}

/** Bytes of text in a training and a validation split, with iterators over batches of both. */
export class Corpus {
  readonly name: string;
  readonly train: Uint8Array;
  readonly validation: Uint8Array;
  /** XXH3-64 of all bytes in hexadecimal: a saved data state only resumes on the same bytes. */
  readonly fingerprint: string;

  constructor(name: string, bytes: Uint8Array, options: CorpusOptions = {}) {
    const fraction = options.validationFraction ?? 0.1;
    if (!(fraction >= 0 && fraction < 1)) {
      throw new RangeError(
        `validationFraction is ${fraction}: expected a number from 0 to below 1`,
      );
    }
    const cut = Math.floor(bytes.length * (1 - fraction));
    this.name = name;
    this.train = bytes.subarray(0, cut);
    this.validation = bytes.subarray(cut);
    this.fingerprint = Bun.hash.xxHash3(bytes).toString(16).padStart(16, "0");
  }

  /** An endless, resumable stream of shuffled batches [B,S]; see BatchStream. */
  batches(options: BatchOptions): BatchStream {
    return new BatchStream(this, options);
  }

  /** One pass over the held-out bytes in order, each the target exactly once; see Evaluation. */
  evaluation(options: EvaluationOptions): Evaluation {
    return new Evaluation(this, options);
  }

  toString(): string {
    const { train, validation } = this;
    return `Corpus(${this.name}: ${train.length} + ${validation.length} bytes)`;
  }
}

/** An embedded corpus by name. RangeError with a suggestion for unknown names. */
export function corpus(name: EmbeddedName): Corpus {
  if (name !== "moby-dick") {
    const hint = suggestion(name, embedded);
    throw new RangeError(`no embedded corpus "${name}"${hint}; corpusFromFile(path) reads a file`);
  }
  // In a bundle the imported path is relative to the bundle, not to the working directory.
  const path = resolve(import.meta.dir, mobyDickFile);
  return new Corpus(name, unpack(read(path), path));
}

/**
 * A corpus from a text file (`.zst` and `.gz` are unpacked); its last tenth is held out. DataError
 * for a missing, empty or binary file; invalid UTF-8 and NUL bytes of up to a tenth of the file are
 * kept as they are, since every byte is a token.
 */
export function corpusFromFile(path: string, options: CorpusOptions = {}): Corpus {
  const bytes = unpack(read(path), path);
  if (bytes.length === 0) {
    throw new DataError(`${path} is empty: give a text file of at least a few thousand bytes`);
  }
  if (!options.allowBinary) rejectBinary(bytes, path);
  return new Corpus(basename(path), bytes, options);
}

const largestFile = 2 ** 32 - 1;

function read(path: string): Uint8Array {
  try {
    const file = statSync(path);
    if (!file.isFile()) {
      throw new DataError(`${path} is not a file: give the path of one text file`);
    }
    if (file.size > largestFile) {
      throw new DataError(
        `${path} has ${file.size} bytes; one corpus holds at most ${largestFile}: split the file`,
      );
    }
    return readFileSync(path);
  } catch (error) {
    if (error instanceof DataError) throw error;
    const code = (error as NodeJS.ErrnoException).code;
    const reason = code === "ENOENT" ? "there is no such file" : (error as Error).message;
    throw new DataError(`cannot read ${path}: ${reason}`, { cause: error });
  }
}

function unpack(bytes: Uint8Array, path: string): Uint8Array {
  try {
    if (path.endsWith(".zst")) return new Uint8Array(Bun.zstdDecompressSync(bytes));
    if (path.endsWith(".gz")) return Bun.gunzipSync(new Uint8Array(bytes));
    return bytes;
  } catch (error) {
    const reason = (error as Error).message;
    throw new DataError(`${path} is damaged or not what its ending says: ${reason}`, {
      cause: error,
    });
  }
}

function rejectBinary(bytes: Uint8Array, path: string): void {
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)) {
    throw new DataError(`${path} is UTF-16: convert it first, iconv -f UTF-16 -t UTF-8`);
  }
  const { invalidBytes, nulBytes, firstBad } = checkText(bytes);
  const bad = invalidBytes + nulBytes;
  if (bad * 10 <= bytes.length) return;
  const percent = Math.round((100 * bad) / bytes.length);
  const hex = bytes[firstBad]!.toString(16).padStart(2, "0");
  throw new DataError(
    `${path} is not text: ${percent} % of its bytes are NUL or no UTF-8 ` +
      `(the first is 0x${hex} at offset ${firstBad}); give a UTF-8 text file, ` +
      "or set allowBinary to train on raw bytes",
  );
}
