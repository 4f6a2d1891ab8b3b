// The transfers of a pipeline: every stage's list together runs through, without a buffer, in every
// pipeline of up to 16 stages.

import { describe, expect, test } from "bun:test";
import { type PipelineAction, pipelineActions } from "../../lib/mesh/pipeline.ts";
import { schedule } from "../../lib/mesh/schedule.ts";

function listsOf(stages: number, microbatches: number): PipelineAction[][] {
  const ops = (stage: number) => schedule(stages, microbatches, stage);
  return Array.from({ length: stages }, (_, stage) => pipelineActions({ stages, stage, ops }));
}

/** Text of an action; transfers name what goes and what comes. */
function shown(action: PipelineAction): string {
  if (action.kind !== "transfer")
    return `${action.kind === "forward" ? "F" : "B"}${action.microbatch}`;
  const { send, receive } = action;
  const out = send ? `>${send.what}${send.microbatch}` : "";
  return out + (receive ? `<${receive.what}${receive.microbatch}` : "");
}

/**
 * Runs all stages where a transfer happens only when both sides have come to it; returns what is
 * left when nothing moves any more.
 */
function simulate(lists: readonly PipelineAction[][]): number {
  const at = lists.map(() => 0);
  const here = lists.map(() => new Set<string>());
  const meets = (stage: number): boolean => {
    const action = lists[stage]![at[stage]!];
    if (!action) return false;
    if (action.kind !== "transfer") {
      const needs = action.kind === "forward" ? "x" : "dx";
      const ends = action.kind === "forward" ? stage === 0 : stage === lists.length - 1;
      if (!ends) expect(here[stage]!.delete(`${needs}${action.microbatch}`)).toBe(true);
      at[stage]!++;
      return true;
    }
    const { send, receive } = action;
    const goesUp = send ? send.what === "x" : receive!.what === "dx";
    const peer = stage + (goesUp ? 1 : -1);
    const other = lists[peer]![at[peer]!];
    if (other?.kind !== "transfer") return false;
    const same = (a: typeof send, b: typeof send) =>
      a?.what === b?.what && a?.microbatch === b?.microbatch;
    if (!same(send, other.receive) || !same(receive, other.send)) return false;
    if (receive) here[stage]!.add(`${receive.what}${receive.microbatch}`);
    if (other.receive) here[peer]!.add(`${other.receive.what}${other.receive.microbatch}`);
    at[stage]!++;
    at[peer]!++;
    return true;
  };
  while (lists.some((_, stage) => meets(stage)));
  return lists.reduce((left, list, stage) => left + list.length - at[stage]!, 0);
}

describe("transfers", () => {
  test("one stage transfers nothing", () => {
    expect(listsOf(1, 3)[0]!.map(shown)).toEqual(["F0", "B0", "F1", "B1", "F2", "B2"]);
  });

  test("steady state exchanges, warm-up and cool-down do not", () => {
    const [first, last] = listsOf(2, 3).map((list) => list.map(shown).join(" "));
    expect(first).toBe("F0 >x0 F1 >x1<dx0 B0 F2 >x2<dx1 B1 <dx2 B2");
    expect(last).toBe("<x0 F0 B0 >dx0<x1 F1 B1 >dx1<x2 F2 B2 >dx2");
  });

  test("all stages run through with both sides of every transfer at the same place", () => {
    for (let stages = 1; stages <= 16; stages++) {
      for (const microbatches of [1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64]) {
        const left = simulate(listsOf(stages, microbatches));
        expect({ stages, microbatches, left }).toEqual({ stages, microbatches, left: 0 });
      }
    }
  });
});
