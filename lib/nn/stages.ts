// Which blocks a stage of the pipeline holds (mesh.md §10.1). Blocks keep their global numbers.

import { type ConfigIssue, ConfigError } from "../config/errors.ts";
import type { ModelMesh } from "./context.ts";
import type { ParameterSpec } from "./parameters.ts";

/** Blocks [from, to); the embedding is on the first stage, norm, head and loss on the last one. */
export interface Stage {
  readonly index: number;
  /** Number of stages. */
  readonly count: number;
  readonly from: number;
  readonly to: number;
  readonly isFirst: boolean;
  readonly isLast: boolean;
}

/**
 * The stage of this rank. `sizes` are the numbers of blocks per stage; by default every stage gets
 * an equal share of the blocks and of the head, which costs about as much as one of them.
 */
export function stageOf(
  numBlocks: number,
  mesh: ModelMesh | undefined,
  sizes?: readonly number[],
): Stage {
  const count = mesh ? mesh.size("pp") : 1;
  const index = mesh ? mesh.coordinate("pp") : 0;
  const list = sizes ?? balanced(numBlocks, count);
  check(numBlocks, count, list);
  const from = list.slice(0, index).reduce((sum, size) => sum + size, 0);
  const isLast = index === count - 1;
  return { index, count, from, to: from + list[index]!, isFirst: index === 0, isLast };
}

/** Equal shares, larger ones first; every stage has a block. */
function balanced(numBlocks: number, count: number): number[] {
  const shares = Array.from({ length: count }, (_, i) => {
    const share = Math.floor((numBlocks + count - i) / count);
    return i === count - 1 ? share - 1 : share;
  });
  if (shares.at(-1)! < 1 && numBlocks >= count) {
    shares[shares.findIndex((size) => size > 1)]!--;
    shares[count - 1]!++;
  }
  return shares;
}

function check(numBlocks: number, count: number, sizes: readonly number[]): void {
  const issues: ConfigIssue[] = [];
  const expect = (ok: boolean, message: string) => {
    if (!ok) issues.push({ path: "stages", message });
  };
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const list = `[${sizes.join(", ")}]`;
  expect(numBlocks >= count, `${numBlocks} blocks are fewer than the ${count} stages of pp`);
  expect(sizes.length === count, `${list} has ${sizes.length} sizes for ${count} stages of pp`);
  expect(total === numBlocks, `${list} adds up to ${total}, not to ${numBlocks} blocks`);
  expect(
    sizes.every((size) => Number.isInteger(size) && size >= 1),
    `${list}: every stage needs a whole number of blocks, at least one`,
  );
  if (issues.length > 0) throw new ConfigError("the stages do not fit the model", issues);
}

/** Whether a parameter lies on this stage; a tied table lies on the first and on the last one. */
export function isOnStage(stage: Stage, { name }: ParameterSpec, tied: boolean): boolean {
  const block = /^blocks\.(\d+)\./.exec(name);
  if (block) return Number(block[1]) >= stage.from && Number(block[1]) < stage.to;
  if (name === "embedding.table") return stage.isFirst || (tied && stage.isLast);
  return stage.isLast;
}

/** The error of a call that another stage of the pipeline is for. */
export function wrongStage(call: string, which: "first" | "last", stage: Stage): Error {
  const here = `this is stage ${stage.index} of ${stage.count}`;
  return new Error(`${call}(): ${here}; it belongs to the ${which} one`);
}

/** Throws when only some of the blocks are here. */
export function expectWhole(call: string, { index, count }: Stage): void {
  if (count === 1) return;
  throw new Error(
    `${call}(): this is stage ${index} of ${count}; use embed(), advance() and lossOf()`,
  );
}
