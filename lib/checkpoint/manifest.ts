// `manifest.json`: what a checkpoint consists of, with a hash over itself. A checkpoint is as good
// as its manifest says, and nothing beside it.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { parseConfig } from "../config/errors.ts";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import { CheckpointError, messageOf } from "./errors.ts";
import { type Box, elementsOf } from "./pieces.ts";
import { openPlainFile } from "./reading.ts";

export const manifestName = "manifest.json";

/** Far above what a million tensors need; a larger file is none of ours. */
const maxManifestBytes = 400_000_000;

/** Layout with every tensor whole in one file: what one process writes. */
export const plainFormat = 1;

/** Layout with tensors in pieces; the newest that this library reads. */
export const pieceFormat = 2;

const count = z.int().nonnegative();
const hash = z.string().regex(/^[0-9a-f]{16}$/);
const fileName = z.string().regex(/^[A-Za-z0-9_-][A-Za-z0-9._-]*$/);
const dtype = z.enum(["f32", "bf16", "f16", "f64", "i32", "u8"]);
const shape = z.array(count).max(8);

// The order of members is that of the file.
const plainTensor = z.strictObject({
  file: fileName,
  dtype,
  shape,
  /** Position of the first byte in the file. */
  offset: count,
  bytes: count,
  /** XXH3-64 of the bytes, chained over pieces of 64 MiB. */
  hash,
  name: z.string(),
});

const piece = z.strictObject({
  file: fileName,
  /** Position of the first byte in the file. */
  offset: count,
  bytes: count,
  /** Box of the tensor: [start, length] runs of every dim. Absent: all of it. */
  box: z
    .array(z.array(z.tuple([count, count])).min(1))
    .max(8)
    .optional(),
  /** The piece is elements [from, to) of the box in row-major order. */
  from: count,
  to: count,
  /** XXH3-64 of every block of 1 MiB. */
  hashes: z.array(hash),
});

const piecedTensor = z.strictObject({ name: z.string(), dtype, shape, pieces: z.array(piece) });

const common = {
  step: count,
  /** Version of the library that wrote the checkpoint. */
  library: z.string(),
  /** `header` and `headerHash` cover everything before the data. */
  files: z.array(
    z.strictObject({ name: fileName, bytes: count, headerBytes: count, headerHash: hash }),
  ),
};
const facts = {
  recipe: z.json(),
  data: z.json(),
  rng: z.json(),
  metrics: z.record(z.string(), z.number().nullable()),
};

const manifestSchema = z.discriminatedUnion("format", [
  z.strictObject({
    format: z.literal(plainFormat),
    ...common,
    tensors: z.array(plainTensor),
    ...facts,
  }),
  z.strictObject({
    format: z.literal(pieceFormat),
    ...common,
    /** Sizes of the axes of the mesh that wrote it; for people, loading does not need them. */
    mesh: z.record(z.string(), count),
    tensors: z.array(piecedTensor),
    ...facts,
  }),
]);

/** What is written: the members of the file. */
export type WrittenManifest = z.output<typeof manifestSchema>;
export type WrittenPiece = z.output<typeof piece>;

/** A part of a tensor in one file. */
export interface StoredPiece {
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
  readonly box?: Box | undefined;
  readonly from: number;
  readonly to: number;
  /** Of all bytes, chained (`PieceHash`), or of every block (`blockHashes`). */
  readonly hash: string | readonly string[];
}

/** A tensor, in however many pieces it is stored. */
export interface ManifestTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Of all of it. */
  readonly bytes: number;
  readonly pieces: readonly StoredPiece[];
  /** Of all of it; undefined when it is stored in pieces. */
  readonly hash?: string;
}

export type Manifest = Omit<WrittenManifest, "tensors"> & {
  readonly tensors: readonly ManifestTensor[];
};

/** Both layouts as one: a tensor that lies in one file is a tensor of one piece. */
function unified(written: WrittenManifest): Manifest {
  if (written.format === plainFormat) {
    const tensors = written.tensors.map((tensor) => {
      const { name, dtype, shape, file, offset, bytes, hash } = tensor;
      const to = elementsOf(shape);
      return {
        name,
        dtype,
        shape,
        bytes,
        hash,
        pieces: [{ file, offset, bytes, from: 0, to, hash }],
      };
    });
    return { ...written, tensors };
  }
  const tensors = written.tensors.map(({ name, dtype, shape, pieces }) => ({
    name,
    dtype,
    shape,
    bytes: elementsOf(shape) * dtypeBytes(dtype),
    pieces: pieces.map(({ hashes, ...rest }) => ({ ...rest, hash: hashes })),
  }));
  return { ...written, tensors };
}

/** The checkpoint is sound but of a later version of this library. */
export class NewerFormatError extends CheckpointError {}

/** The bytes of a manifest; the last member is the SHA-256 of the text without it. */
export function encodeManifest(path: string, manifest: WrittenManifest): Uint8Array {
  const checked = parseConfig(manifestSchema, manifest, `${path}: the checkpoint's manifest`);
  const body = JSON.stringify(checked);
  const sealed = `${body.slice(0, -1)},"sha256":"${sha256(body)}"}\n`;
  return new TextEncoder().encode(sealed);
}

/** Reads and checks the manifest of a checkpoint; throws a CheckpointError when it is damaged. */
export function readManifest(directory: string): Manifest {
  const path = join(directory, manifestName);
  const text = readText(path);
  const seal = /,"sha256":"([0-9a-f]{64})"\}\n$/.exec(text);
  if (!seal) throw new CheckpointError({ path }, "does not end with its SHA-256; it is cut short");
  const body = `${text.slice(0, seal.index)}}`;
  if (sha256(body) !== seal[1]) {
    throw new CheckpointError({ path }, "does not have the SHA-256 that it states");
  }
  const parsed = JSON.parse(body) as { format?: unknown };
  if (typeof parsed.format === "number" && parsed.format > pieceFormat) {
    const reason = `has format ${parsed.format}, this library reads up to ${pieceFormat}`;
    throw new NewerFormatError({ path }, `${reason}; use a newer library`);
  }
  try {
    return unified(parseConfig(manifestSchema, parsed, "its members are wrong"));
  } catch (error) {
    throw new CheckpointError({ path }, messageOf(error), error);
  }
}

function readText(path: string): string {
  using file = openPlainFile(path);
  if (file.bytes > maxManifestBytes) {
    const sizes = `${file.bytes} bytes, at most ${maxManifestBytes} are allowed`;
    throw new CheckpointError({ path }, `has ${sizes}`);
  }
  const bytes = file.read(0, file.bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new CheckpointError({ path }, "is not UTF-8; it is damaged", error);
  }
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
