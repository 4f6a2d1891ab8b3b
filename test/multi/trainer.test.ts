// The training loop of several ranks: what happens to one of them happens to all.

import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TrainedOptions } from "../helpers/rank_training.ts";
import { trainRanks } from "../helpers/train_ranks.ts";

const folders: string[] = [];
afterAll(() => {
  for (const path of folders) rmSync(path, { recursive: true, force: true });
});

function folder(): string {
  folders.push(mkdtempSync(join(tmpdir(), "xlstm-ranks-")));
  return folders.at(-1)!;
}

function train<T>(sizes: Record<string, number>, options: TrainedOptions): Promise<T[]> {
  return trainRanks<T>({ scenario: "trained", sizes, options: { ...options } });
}

describe("signals", () => {
  test("one rank's SIGTERM stops all of them after the same step, and that is saved", async () => {
    const directory = folder();
    const stopped = { status: "stopped", step: 2, by: "SIGTERM", saved: [2] };
    const ranks = await train({ dp: 2 }, { directory, signal: "SIGTERM" });
    expect(ranks).toEqual([stopped, stopped]);
  }, 60_000);

  test("one rank's SIGUSR2 saves and all go on", async () => {
    const directory = folder();
    const ranks = await train<{ saved: number[] }>({ pp: 2 }, { directory, signal: "SIGUSR2" });
    expect(ranks.map(({ saved }) => saved)).toEqual([
      [5, 2],
      [5, 2],
    ]);
    expect(ranks).toMatchObject([{ status: "finished" }, { status: "finished" }]);
  }, 60_000);
});

describe("values that are not finite", () => {
  test.each([
    [{ pp: 2 }, "lm_head.weight"],
    [{ pp: 2 }, "blocks.0.mixer.q.weight"],
    [{ fsdp: 2 }, "blocks.1.mixer.recurrent"],
    [{ tp: 2 }, "blocks.0.ffn.down.weight"],
  ])(
    "%p: NaN in %s stops all ranks before the update, with one text",
    async (sizes, poison) => {
      const ranks = await train<{ error: string; updates: number }>(sizes, { poison });
      const { error } = ranks[0]!;
      expect(error).toContain("step 3: the loss is NaN");
      expect(error).toContain(`parameter ${poison} has `);
      for (const rank of ranks) expect(rank).toEqual({ error, updates: 2 });
    },
    60_000,
  );
});

interface Evaluated {
  readonly mesh: { readonly loss: number; readonly tokens: number; readonly accuracy: number };
  readonly alone: Evaluated["mesh"];
}

test("evaluation sums over all ranks, also where batches do not divide", async () => {
  for (const sizes of [{ dp: 2 }, { fsdp: 2 }, { pp: 2 }, { tp: 2 }, { pp: 2, dp: 2 }]) {
    const ranks = await trainRanks<Evaluated>({ scenario: "evaluated", sizes });
    for (const { mesh, alone } of ranks) {
      expect(mesh.tokens).toBe(alone.tokens);
      expect(mesh.accuracy).toBe(alone.accuracy);
      expect(Math.abs(mesh.loss / alone.loss - 1)).toBeLessThan(1e-12);
    }
    expect(new Set(ranks.map(({ mesh }) => mesh.loss)).size).toBe(1);
  }
}, 60_000);

test("an optimizer that does not know the mesh is refused", async () => {
  for (const said of await trainRanks<string>({ scenario: "forgotten", sizes: { dp: 2 } })) {
    expect(said).toContain("make it with optimizer(parallel.parameters(), settings, parallel)");
  }
}, 60_000);
