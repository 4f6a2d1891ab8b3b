// Checkpoints of other implementations: which tensor there is which parameter here (models.md §12).
//
//   const { format, options } = detectFormat(shapes)
//   const map = nameMap(config, format, options)
//   const parameters = importTensors(map, tensors, ops)   // and exportTensors for the way back
//
// Maps are data; tensors are whatever the `TensorOps` work on.

import { blockKinds, type ModelConfig } from "./config.ts";
import { applySteps, place, type Placement, type TensorOps, undoSteps } from "./names_layout.ts";
import {
  type FormatName,
  type FormatOptions,
  type Naming,
  namingOf,
  type Row,
} from "./names_tables.ts";
import { parameterSpecs } from "./parameters.ts";

export type { TensorOps } from "./names_layout.ts";
export type { FormatName, FormatOptions } from "./names_tables.ts";

/** One parameter of ours inside a tensor of theirs. */
export interface Piece {
  readonly ours: string;
  readonly shape: readonly number[];
  readonly placement: Placement;
}

/** One tensor of theirs and what it holds, first axis first. */
export interface Entry {
  readonly theirs: string;
  readonly shape: readonly number[];
  readonly pieces: readonly Piece[];
  /** A second copy of a tied table: may be missing, and must be equal when it is there. */
  readonly copy: boolean;
}

/** The whole correspondence of a configuration and a format. */
export interface NameMap {
  readonly title: string;
  readonly entries: readonly Entry[];
}

/** Tensors and configuration do not fit; every difference is listed. */
export class NameMapError extends Error {
  override readonly name = "NameMapError";
  /** Their names that the configuration needs and that are not there. */
  readonly missing: readonly string[];
  /** Their names that are there and that the configuration has no use for. */
  readonly unused: readonly string[];

  constructor(title: string, findings: Partial<Record<Finding, readonly string[]>>) {
    const lines = Object.entries(findings)
      .filter(([, names]) => names.length > 0)
      .map(([what, names]) => `  ${what} (${names.length}): ${bounded(names)}`);
    super(
      [`the tensors do not fit a ${title} checkpoint of this configuration:`, ...lines].join("\n"),
    );
    this.missing = findings.missing ?? [];
    this.unused = findings.unused ?? [];
  }
}

type Finding =
  | "missing"
  | "unused"
  | "of another shape"
  | "different from the tied table"
  | "without a name there";

/**
 * Which of their tensors holds which of our parameters.
 * Throws a NameMapError naming the parameters that the format has no place for.
 */
export function nameMap(
  config: ModelConfig,
  format: FormatName,
  options: FormatOptions = {},
): NameMap {
  const naming = namingOf(format, options);
  const found = new Map<string, { row: Row; pieces: Piece[] }>();
  const homeless: string[] = [];
  for (const { name, shape } of parameterSpecs(config)) {
    const target = rowOf(naming, config, name);
    if (!target) {
      homeless.push(name);
      continue;
    }
    const placement = place(target.row.layout, shape, headsOf(config, name));
    const entry = found.get(target.theirs) ?? { row: target.row, pieces: [] };
    entry.pieces.push({ ours: name, shape, placement });
    found.set(target.theirs, entry);
  }
  if (homeless.length > 0) {
    throw new NameMapError(naming.title, { "without a name there": homeless });
  }
  const entries = [...found].map(([theirs, { row, pieces }]) => ({
    theirs,
    shape: wholeShape(naming, config.numBlocks, theirs, row, pieces),
    pieces,
    copy: false,
  }));
  return { title: naming.title, entries: [...entries, ...tiedCopy(config, naming)] };
}

/**
 * Our parameters from their tensors, each in our shape.
 * Throws a NameMapError listing all tensors that are missing, left over, or of another shape.
 */
export function importTensors<T>(
  map: NameMap,
  tensors: ReadonlyMap<string, T>,
  ops: TensorOps<T>,
): Map<string, T> {
  checkTensors(map, tensors, ops);
  const result = new Map<string, T>();
  for (const entry of map.entries.filter(({ copy }) => !copy)) {
    for (const [name, tensor] of splitEntry(entry, tensors.get(entry.theirs)!, ops)) {
      result.set(name, tensor);
    }
  }
  checkCopies(map, tensors, result, ops);
  return result;
}

/** Their tensors from our parameters. Throws a NameMapError when parameters are missing. */
export function exportTensors<T>(
  map: NameMap,
  parameters: ReadonlyMap<string, T>,
  ops: TensorOps<T>,
): Map<string, T> {
  const needed = new Set(map.entries.flatMap(({ pieces }) => pieces.map(({ ours }) => ours)));
  const missing = [...needed].filter((name) => !parameters.has(name));
  const unused = [...parameters.keys()].filter((name) => !needed.has(name));
  if (missing.length + unused.length > 0) throw new NameMapError(map.title, { missing, unused });
  return new Map(
    map.entries.map(({ theirs, shape, pieces }) => {
      const parts = pieces.map(({ ours, placement }) =>
        undoSteps(parameters.get(ours)!, placement, ops),
      );
      const whole = parts.length > 1 ? ops.concat(parts) : parts[0]!;
      return [theirs, ops.reshape(whole, shape)];
    }),
  );
}

/** Guesses the format of a checkpoint from its names and shapes; throws when none fits. */
export function detectFormat(shapes: ReadonlyMap<string, readonly number[]>): {
  format: FormatName;
  options: FormatOptions;
} {
  const names = [...shapes.keys()];
  const has = (part: string) => names.some((name) => name.includes(part));
  if (names.some((name) => /\.module\.sharded\.|\.shard_\d+\./.test(name))) {
    throw new Error(
      "this JAX checkpoint is split for tensor parallelism (module.sharded, shard_N); " +
        "save it with tensor-parallel size 1 and import that",
    );
  }
  if (has("token_embedding.sharded.embedding")) {
    const stacked = has("xlstm_block_stack.blocks.block.");
    return { format: "jax", options: { stacked, fusedQueryKey: has(".qk_proj.kernel") } };
  }
  if (has("backbone.blocks.")) {
    const format = has("backbone.embeddings.weight") ? "huggingFace" : "xlstmLarge";
    return { format, options: { fusedWeights: has(".qkv_opreact.") } };
  }
  if (has("xlstm_block_stack.post_blocks_norm.weight")) {
    const kernel = names.find((name) => name.endsWith("slstm_cell._recurrent_kernel_"));
    const [, rows, columns] = kernel ? shapes.get(kernel)! : [0, 4, 1];
    return { format: "legacy", options: { slstmLayout: rows! > columns! ? "vanilla" : "cuda" } };
  }
  throw new Error(
    `no known naming (JAX, legacy PyTorch, xlstm_large, Hugging Face) fits: ${bounded(names)}`,
  );
}

function rowOf(naming: Naming, config: ModelConfig, name: string) {
  const block = /^blocks\.(\d+)\.(.+)$/.exec(name);
  if (!block) {
    const row = naming.top[name];
    return row && { row, theirs: row.theirs };
  }
  const index = Number(block[1]);
  const row = naming.blocks[blockKinds(config)[index]!]?.[block[2]!];
  return row && { row, theirs: naming.prefix(index) + row.theirs };
}

function headsOf(config: ModelConfig, name: string): number {
  const index = Number(/^blocks\.(\d+)\./.exec(name)?.[1] ?? 0);
  return blockKinds(config)[index] === "slstm" ? config.slstm.numHeads : config.mlstm.numHeads;
}

/** The shape of a whole tensor of theirs, made of the shapes its pieces have there. */
function wholeShape(
  naming: Naming,
  numBlocks: number,
  theirs: string,
  row: Row,
  pieces: readonly Piece[],
): readonly number[] {
  const [rows, ...rest] = pieces[0]!.placement.shape;
  const layers = naming.stacked && theirs.startsWith(naming.prefix(0)) ? [numBlocks] : [];
  if (row.pair) return [...layers, 1, 2, rows!, ...rest];
  if (layers.length > 0) return [...layers, rows!, ...rest];
  return [pieces.reduce((total, { placement }) => total + placement.shape[0]!, 0), ...rest];
}

function tiedCopy(config: ModelConfig, naming: Naming): Entry[] {
  const row = naming.top["lm_head.weight"];
  if (!config.tieEmbeddings || !row) return [];
  const shape = [config.vocabSize, config.embeddingDim];
  const placement = place(row.layout, shape, 1);
  const piece = { ours: "embedding.table", shape, placement };
  return [{ theirs: row.theirs, shape: placement.shape, pieces: [piece], copy: true }];
}

function splitEntry<T>(entry: Entry, tensor: T, ops: TensorOps<T>): [string, T][] {
  const { pieces } = entry;
  const heights = pieces.map(({ placement }) => placement.shape[0]!);
  const total = heights.reduce((sum, height) => sum + height, 0);
  const view = ops.reshape(tensor, [total, ...pieces[0]!.placement.shape.slice(1)]);
  let start = 0;
  return pieces.map(({ ours, placement }, index) => {
    const part = pieces.length > 1 ? ops.rows(view, start, heights[index]!) : view;
    start += heights[index]!;
    return [ours, applySteps(part, placement.steps, ops)];
  });
}

function checkTensors<T>(map: NameMap, tensors: ReadonlyMap<string, T>, ops: TensorOps<T>): void {
  const known = new Map(map.entries.map((entry) => [entry.theirs, entry]));
  const missing = map.entries.filter(({ theirs, copy }) => !copy && !tensors.has(theirs));
  const unused = [...tensors.keys()].filter((name) => !known.has(name));
  const reshaped: string[] = [];
  for (const { theirs, shape } of map.entries) {
    const tensor = tensors.get(theirs);
    if (tensor === undefined) continue;
    const have = ops.shape(tensor);
    if (have.join() === shape.join()) continue;
    reshaped.push(`${theirs} is [${have.join(", ")}] instead of [${shape.join(", ")}]`);
  }
  if (missing.length + unused.length + reshaped.length === 0) return;
  const names = missing.map(({ theirs }) => theirs);
  throw new NameMapError(map.title, { missing: names, unused, "of another shape": reshaped });
}

function checkCopies<T>(
  map: NameMap,
  tensors: ReadonlyMap<string, T>,
  parameters: ReadonlyMap<string, T>,
  ops: TensorOps<T>,
): void {
  for (const entry of map.entries.filter(({ copy }) => copy)) {
    const tensor = tensors.get(entry.theirs);
    if (tensor === undefined) continue;
    const [[ours, copy]] = splitEntry(entry, tensor, ops) as [[string, T]];
    if (!ops.equal(copy, parameters.get(ours)!)) {
      throw new NameMapError(map.title, { "different from the tied table": [entry.theirs] });
    }
  }
}

function bounded(names: readonly string[]): string {
  const shown = names.slice(0, 20).join(", ");
  return names.length > 20 ? `${shown}, ... (${names.length - 20} more)` : shown;
}
