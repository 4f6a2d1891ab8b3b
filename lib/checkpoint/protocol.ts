// The commit protocol for one process (reliability.md §1 and §2): a checkpoint is visible complete
// or not at all, whatever fails and whenever the power goes.
//
//   const path = saveCheckpoint("checkpoints", { step, tensors, recipe, data, rng });
//   const latest = latestCheckpoint("checkpoints");
//   using checkpoint = loadCheckpoint(latest!);
//   const weight = checkpoint.load("lm_head.weight");

import { join } from "node:path";
import { warnUser } from "../log/index.ts";
import {
  type CheckpointFacts,
  commit,
  conclude,
  makeTemporary,
  newPath,
  plainFacts,
} from "./commit.ts";
import { CheckpointError, messageOf } from "./errors.ts";
import { type Files, quietly, systemFiles } from "./files.ts";
import type { Json } from "./json.ts";
import { plainFormat, type WrittenManifest } from "./manifest.ts";
import type { Keep } from "./retention.ts";
import { saveSafetensors, type StoredFile, type TensorBytes } from "./writer.ts";

export { latestCheckpoint, listCheckpoints, type ListedCheckpoint } from "./discovery.ts";
export type { Json };

export interface CheckpointContents extends CheckpointFacts {
  /** Parameters, optimiser states, … by name. */
  readonly tensors: Iterable<readonly [string, TensorBytes]>;
}

export interface SaveOptions {
  readonly keep?: Keep;
  readonly files?: Files;
  /** Where lines about what went wrong without harm to the checkpoint go. */
  readonly warn?: (line: string) => void;
}

const tensorsName = "rank-0.safetensors";

/**
 * Saves a checkpoint as `directory/step-N` and returns that path; afterwards old ones go as `keep`
 * says. Throws a CheckpointError when anything fails before the commit, or when the step is there
 * already: the checkpoints that were there stay as they are. One writer per directory.
 */
export function saveCheckpoint(
  directory: string,
  contents: CheckpointContents,
  { keep, files = systemFiles, warn = warnUser }: SaveOptions = {},
): string {
  const path = newPath(directory, contents.step);
  const temporary = `${path}.tmp-${crypto.randomUUID()}`;
  try {
    const facts = plainFacts(contents);
    makeTemporary(directory, temporary, files);
    const stored = saveSafetensors(join(temporary, tensorsName), contents.tensors, {}, files);
    commit(temporary, path, describe(facts, stored), files);
  } catch (error) {
    quietly(() => files.remove(temporary));
    throw new CheckpointError({ path }, `was not saved: ${messageOf(error)}`, error);
  }
  conclude(directory, path, contents.step, { keep, files, warn });
  return path;
}

function describe(facts: ReturnType<typeof plainFacts>, stored: StoredFile): WrittenManifest {
  const { bytes, headerBytes, headerHash } = stored;
  return {
    format: plainFormat,
    files: [{ name: tensorsName, bytes, headerBytes, headerHash }],
    tensors: [...stored.tensors].map(([name, { dtype, shape, offset, bytes, hash }]) => {
      return { name, file: tensorsName, dtype, shape: [...shape], offset, bytes, hash };
    }),
    ...facts,
  };
}
