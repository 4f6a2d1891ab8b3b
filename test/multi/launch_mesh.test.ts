// A mesh over launched processes: its groups, and what all ranks say when one of them dies, stands
// still, fails, never comes, or does not fit. Nobody is left running.

import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../../lib/launch/launcher.ts";
import { mesh, Mesh } from "../../lib/mesh/mesh.ts";
import { tensor } from "../../lib/tensor/index.ts";
import {
  finish,
  launched,
  logsOf,
  pidsOf,
  removeLogs,
  spawn,
  survivors,
} from "./launch_harness.ts";

const script = "launch_mesh_rank.ts";
afterAll(removeLogs);

/** Runs ranks to their end, and expects that none of their processes is left. */
async function ranksOf(count: number, ...words: string[]) {
  const result = await launched(["-n", String(count), "grace=2"], script, words);
  const pids = pidsOf(result.logs);
  expect(pids).toHaveLength(count);
  expect(await survivors(pids)).toEqual([]);
  return { ...result, texts: logsOf(result.logs) };
}

interface Seen {
  readonly sums: Readonly<Record<string, number>>;
  readonly pair: readonly number[];
  readonly world: readonly number[];
}

function seenIn(text: string): Seen {
  return JSON.parse(text.split("\n").find((line) => line.startsWith("{"))!);
}

describe("groups", () => {
  test("four ranks, dp 2 x tp 2", async () => {
    const { code, stderr, texts } = await ranksOf(4, "dp=2", "tp=2");
    expect(stderr).toBe("");
    expect(code).toBe(0);
    // Rank r adds 2^r, so a sum tells who was in the group.
    const tp = [3, 3, 12, 12];
    const dp = [5, 10, 5, 10];
    for (const [rank, text] of texts.entries()) {
      expect(seenIn(text)).toMatchObject({
        sums: { tp: tp[rank], dp: dp[rank], fsdp: 2 ** rank, cp: 2 ** rank, pp: 2 ** rank },
        pair: [0, 1, 2, 3],
        world: [0, 1, 2, 3],
      });
      expect(text).toContain("finished");
    }
  }, 60_000);

  test("an axis of -1 takes the ranks that are left; two ranks", async () => {
    const { code, texts } = await ranksOf(2, "fsdp=-1");
    expect(code).toBe(0);
    for (const text of texts) expect(seenIn(text)).toMatchObject({ sums: { fsdp: 3 } });
  }, 60_000);
});

describe("one rank", () => {
  test("without a launcher there is one, and it needs no other", async () => {
    using ranks = await mesh({ dp: -1 }, { variables: {} });
    expect([ranks.rank, ranks.world.size, ranks.size("dp")]).toEqual([0, 1, 1]);
    ranks.heartbeat(1, "forward");
    const sum = await ranks.run(
      () =>
        ranks
          .group("tp")
          .allReduce(tensor([3]))
          .dataSync()[0],
    );
    expect(sum).toBe(3);
    await expect(ranks.run(() => Promise.reject(new Error("own")))).rejects.toThrow("own");
    expect(Mesh.single().group("dp", "fsdp").size).toBe(1);
  });

  test("a mesh of several is told how to start them", async () => {
    await expect(mesh({ dp: 2, tp: 2 }, { variables: {} })).rejects.toThrow(
      /dp 2 .* = 4, but there (are|is) 1 rank.*; start 4 ranks: bun run launch -n 4/,
    );
  });
});

describe("sizes that do not fit", () => {
  test("every rank names the numbers", async () => {
    const { code, stderr, texts } = await ranksOf(4, "dp=3");
    expect(code).toBe(64);
    for (const text of texts) expect(text).toMatch(/LaunchError: mesh: .*dp 3.*4 ranks/);
    expect(stderr).toContain("launch: ranks 0-3 ended with code 64");
  }, 60_000);

  test("a -1 that cannot be inferred", async () => {
    const { code, texts } = await ranksOf(3, "dp=-1", "tp=2");
    expect(code).toBe(64);
    for (const text of texts) expect(text).toMatch(/LaunchError: mesh: 3 ranks are not divisible/);
  }, 60_000);
});

/** The one line that every rank but the one at fault says. */
function verdictOf(texts: readonly string[], without: number): string {
  const others = texts.filter((_, rank) => rank !== without);
  const lines = others.map((text) => /^PeerError: (.*)$/m.exec(text)?.[1] ?? "nothing");
  expect(new Set(lines)).toEqual(new Set([lines[0]!]));
  return lines[0]!;
}

describe("a rank goes wrong in step 5", () => {
  const four = ["dp=2", "tp=2", "who=3"];

  test("killed", async () => {
    const { code, stderr, texts } = await ranksOf(4, ...four, "fault=kill");
    expect(code).toBe(137);
    expect(verdictOf(texts, 3)).toMatch(/^rank 3 \(\S+, pid \d+\) was lost/);
    expect(stderr).toContain("launch: rank 3 was killed by SIGKILL (exit code 137)");
  }, 60_000);

  for (const fault of ["loop", "sleep"]) {
    test(`busy with itself (${fault}): one line says who, where, in what`, async () => {
      const { code, stderr, texts } = await ranksOf(4, ...four, `fault=${fault}`, "limit=1");
      expect(code).toBe(69);
      const line = verdictOf(texts, 3);
      expect(line).toMatch(/^rank 3 \(\S+, pid \d+\) is behind at step 5, data, no progress for/);
      expect(line).toContain("; ranks 0-2 wait at step 5, forward: all_reduce[dp+tp]");
      expect(line).toContain("(loss, 1 f32): rank 3 did not come within 0.950 s");
      expect(stderr.match(/is behind/g)).toHaveLength(1);
      expect(stderr).toContain("launch: ranks 0-2 ended with code 69; rank 3 did not react");
    }, 60_000);
  }

  test("busy with itself, and no launcher to end it: its second thread does", async () => {
    const XL_MASTER = `127.0.0.1:${freePort()}`;
    const words = [join(import.meta.dir, script), "dp=2", "who=1", "fault=loop", "limit=1"];
    const ranks = [0, 1].map((rank) =>
      finish(spawn(words, { XL_RANK: `${rank}`, XL_WORLD_SIZE: "2", XL_MASTER })),
    );
    const [first, second] = await Promise.all(ranks);
    expect(first!.code).toBe(69);
    expect(first!.stderr).toMatch(/^PeerError: rank 1 \(\S+, pid \d+\) is behind at step 5, data/);
    expect(second!.code).toBe(128 + constants.signals.SIGALRM);
    expect(second!.stderr).toContain("rank 1 did not react within 1 s and ends itself");
  }, 60_000);

  test("stopped", async () => {
    const { code, texts } = await ranksOf(4, ...four, "fault=stop", "limit=1");
    expect(code).toBe(69);
    expect(verdictOf(texts, 3)).toMatch(
      /^rank 3 \(\S+, pid \d+\) is behind at .*: all_reduce\[dp\+tp\]/,
    );
  }, 60_000);

  test("rank 0, which has the store", async () => {
    const { code, texts } = await ranksOf(2, "dp=2", "who=0", "fault=kill");
    expect(code).toBe(137);
    expect(verdictOf(texts, 0)).toMatch(/^rank 0 \(\S+, pid \d+\) was lost|rank 0 .* has died/);
  }, 60_000);

  test("failed for a reason of its own", async () => {
    const { code, stderr, texts } = await ranksOf(4, ...four, "fault=throw");
    expect(code).toBe(70);
    expect(verdictOf(texts, 3)).toMatch(
      /^rank 3 \(\S+, pid \d+\) failed at step 5, data: the corpus is not there$/,
    );
    expect(stderr).toContain("launch: rank 3 ended with code 70");
    expect(stderr).toContain("  Error: the corpus is not there");
  }, 60_000);
});

test("a rank that never comes", async () => {
  const { code, texts } = await ranksOf(3, "dp=3", "who=1", "fault=absent", "join=1");
  expect(code).toBe(69);
  expect(verdictOf(texts, 1)).toMatch(
    /^rendezvous: 2 of 3 ranks after 1 s; missing 1; joined: 0, 2/,
  );
}, 60_000);

test("a rank with other settings", async () => {
  const { code, texts } = await ranksOf(2, "dp=2", "who=1", "fault=seed");
  expect(code).toBe(64);
  for (const text of texts) {
    expect(text).toMatch(
      /LaunchError: rendezvous: the ranks differ: recipe hash \w+ on rank 0, \w+/,
    );
  }
}, 60_000);

test("the last operations of every rank that could not go on are kept", async () => {
  const records = mkdtempSync(join(tmpdir(), "records-"));
  await ranksOf(2, "dp=2", "who=1", "fault=loop", "limit=1", `records=${records}`);
  const path = join(records, "operations-rank-0.jsonl");
  const lines = readFileSync(path, "utf8").trim().split("\n");
  const last = JSON.parse(lines.at(-1)!);
  expect(last).toMatchObject({ op: "all_reduce", site: "loss", step: 5 });
  expect(existsSync(join(records, "operations-rank-1.jsonl"))).toBe(false);
  rmSync(records, { recursive: true });
}, 60_000);
