// `manifest.json`: what a checkpoint consists of, with a hash over itself. A checkpoint is as good
// as its manifest says, and nothing beside it.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { parseConfig } from "../config/errors.ts";
import { CheckpointError, messageOf } from "./errors.ts";
import { openPlainFile } from "./reading.ts";

export const manifestName = "manifest.json";

/** Far above what a million tensors need; a larger file is none of ours. */
const maxManifestBytes = 400_000_000;

/** Version of the layout that this library writes, and the newest that it reads. */
export const formatVersion = 1;

const count = z.int().nonnegative();
const hash = z.string().regex(/^[0-9a-f]{16}$/);
const fileName = z.string().regex(/^[A-Za-z0-9_-][A-Za-z0-9._-]*$/);

const tensorSchema = z.strictObject({
  file: fileName,
  dtype: z.enum(["f32", "bf16", "f16", "f64", "i32", "u8"]),
  shape: z.array(count).max(8),
  /** Position of the first byte in the file. */
  offset: count,
  bytes: count,
  /** XXH3-64 of the bytes, chained over pieces of 64 MiB. */
  hash,
});

const manifestSchema = z.strictObject({
  format: z.literal(formatVersion),
  step: count,
  /** Version of the library that wrote the checkpoint. */
  library: z.string(),
  /** `header` and `headerHash` cover everything before the data. */
  files: z.array(
    z.strictObject({ name: fileName, bytes: count, headerBytes: count, headerHash: hash }),
  ),
  tensors: z.array(tensorSchema.extend({ name: z.string() })),
  recipe: z.json(),
  data: z.json(),
  rng: z.json(),
  metrics: z.record(z.string(), z.number().nullable()),
});

export type Manifest = z.output<typeof manifestSchema>;
export type ManifestTensor = Manifest["tensors"][number];

/** The checkpoint is sound but of a later version of this library. */
export class NewerFormatError extends CheckpointError {}

/** The bytes of a manifest; the last member is the SHA-256 of the text without it. */
export function encodeManifest(path: string, manifest: Manifest): Uint8Array {
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
  if (typeof parsed.format === "number" && parsed.format > formatVersion) {
    const reason = `has format ${parsed.format}, this library reads up to ${formatVersion}`;
    throw new NewerFormatError({ path }, `${reason}; use a newer library`);
  }
  try {
    return parseConfig(manifestSchema, parsed, "its members are wrong");
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
