// The launcher and the store with real processes: what ranks are given, what is shown, which code
// comes out, and that nobody is left running, however it ends.

import { afterAll, describe, expect, test } from "bun:test";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { freePort } from "../../lib/launch/launcher.ts";
import {
  finish,
  launched as launchedScript,
  logsOf,
  pidsOf,
  removeLogs,
  spawn,
  startLaunch,
  survivors,
  untilWritten,
} from "./launch_harness.ts";

const script = "launch_rank.ts";
afterAll(removeLogs);

const launched = (own: string[], rest?: string[]) => launchedScript(own, script, rest);

async function expectGone(pids: readonly number[]): Promise<void> {
  expect(await survivors(pids)).toEqual([]);
}

describe("ranks that work", () => {
  test("four of them meet; rank 0 alone is shown, and logs have everything", async () => {
    const { code, stdout, stderr, logs } = await launched(["-n", "4"]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    const threads = Math.max(1, Math.floor(availableParallelism() / 4));
    const lines = stdout.trim().split("\n");
    expect(lines.slice(1)).toEqual([
      `rank 0 got "from rank 0 of 4"; local 0, threads ${threads}`,
      "sum 6",
    ]);
    const all = logsOf(logs);
    expect(all).toHaveLength(4);
    for (const [rank, text] of all.entries()) {
      expect(text).toContain(`rank ${rank} got "from rank 0 of 4"; local ${rank}, threads`);
    }
    await expectGone(pidsOf(logs));
  }, 60_000);

  test("--all-output shows every line with its rank", async () => {
    const { code, stdout } = await launched(["-n", "2", "--all-output"]);
    expect(code).toBe(0);
    expect(stdout).toContain('[0] rank 0 got "from rank 0 of 2"');
    expect(stdout).toContain('[1] rank 1 got "from rank 0 of 2"');
  }, 60_000);
});

describe("ranks that fail", () => {
  test("a killed rank ends all; it is the one that is reported", async () => {
    const { code, stderr, logs } = await launched(["-n", "4"], ["fault=kill", "who=2"]);
    expect(code).toBe(137);
    expect(stderr).toMatch(/^failed: rank 2 \(\S+, pid \d+\) was lost \(last heard of at step/m);
    expect(stderr).toContain("launch: rank 2 was killed by SIGKILL (exit code 137)");
    expect(stderr).toContain('  rank 2 got "from rank 0 of 4"');
    for (const rank of [0, 1, 3]) expect(logsOf(logs)[rank]).toContain("failed: rank 2");
    await expectGone(pidsOf(logs));
  }, 60_000);

  test("a rank that fails before it joins: its code, its last lines", async () => {
    const { code, stderr, logs } = await launched(["-n", "3", "grace=1"], ["fault=fail", "who=1"]);
    expect(code).toBe(65);
    expect(stderr).toContain("launch: rank 1 ended with code 65; ranks 0, 2 did not react");
    expect(stderr).toContain("launch: last lines of rank 1:");
    expect(stderr).toContain("  rank 1 cannot read its data");
    await expectGone(pidsOf(logs));
  }, 60_000);

  test("a rank that ends early with a code", async () => {
    const { code, stderr, logs } = await launched(["-n", "3"], ["fault=exit", "who=2"]);
    expect(code).toBe(7);
    expect(stderr).toContain("launch: rank 2 ended with code 7");
    await expectGone(pidsOf(logs));
  }, 60_000);

  test("a rank that never comes is named by those that did, and is ended", async () => {
    const rest = ["fault=deaf", "who=1", "join=1"];
    const { code, stderr, logs } = await launched(["-n", "3", "grace=1"], rest);
    expect(code).toBe(69);
    expect(stderr).toContain("failed: rendezvous: 2 of 3 ranks after 1 s; missing 1; joined: 0, 2");
    expect(stderr).toContain("launch: ranks 0, 2 ended with code 69; rank 1 did not react");
    // It was asked first, and did not want to.
    expect(logsOf(logs)[1]).toContain("not now");
    await expectGone(pidsOf(logs));
  }, 60_000);

  test("a rank with another recipe: every rank names both sides", async () => {
    const { code, stderr, logs } = await launched(["-n", "3"], ["fault=other", "who=2"]);
    expect(code).toBe(64);
    const text = "the ranks differ: recipe hash aaaa on ranks 0, 1, bbbb on rank 2";
    for (const log of logsOf(logs)) expect(log).toContain(text);
    expect(stderr).toContain("launch: ranks 0-2 ended with code 64");
    await expectGone(pidsOf(logs));
  }, 60_000);

  test("what a rank has started ends with it", async () => {
    const { code, logs } = await launched(["-n", "2"], ["fault=child", "who=1"]);
    expect(code).toBe(137);
    expect(pidsOf(logs)).toHaveLength(3);
    await expectGone(pidsOf(logs));
  }, 60_000);

  test("the launcher is killed: its ranks end", async () => {
    const { logs, child } = startLaunch(["-n", "2"], script, ["until=signal"]);
    await untilWritten(logs, "ready", 2);
    child.kill("SIGKILL");
    await child.exited;
    await expectGone(pidsOf(logs));
  }, 60_000);
});

describe("signals", () => {
  for (const signal of ["SIGTERM", "SIGINT", "SIGUSR1"] as const) {
    test(`${signal} reaches every rank once, and their code is the launcher's`, async () => {
      const { logs, child } = startLaunch(["-n", "2"], script, ["until=signal", "code=75"]);
      await untilWritten(logs, "ready", 2);
      child.kill(signal);
      const { code, stderr } = await finish(child);
      expect(stderr).toBe("");
      expect(code).toBe(75);
      const texts = logsOf(logs);
      for (const rank of [0, 1])
        expect(texts[rank]).toContain(`rank ${rank} stops after 1 ${signal}`);
      await expectGone(pidsOf(logs));
    }, 60_000);
  }
});

/** Two processes with the variables that another launcher would set. */
async function pair(variablesOf: (rank: number) => Record<string, string>, words: string[] = []) {
  const command = [join(import.meta.dir, script), ...words];
  const children = [0, 1].map((rank) => spawn(command, variablesOf(rank)));
  return Promise.all(children.map(finish));
}

describe("other launchers", () => {
  test("torchrun's variables", async () => {
    const port = String(freePort());
    const [first, second] = await pair((rank) => ({
      RANK: String(rank),
      WORLD_SIZE: "2",
      LOCAL_RANK: String(rank),
      MASTER_ADDR: "localhost",
      MASTER_PORT: port,
    }));
    expect(first!.stderr + second!.stderr).toBe("");
    expect(first!.stdout).toContain("sum 1");
    expect(second!.stdout).toContain('rank 1 got "from rank 0 of 2"; local 1');
  }, 60_000);

  test("a Slurm step's variables", async () => {
    const job = String(freePort());
    const [first, second] = await pair((rank) => ({
      SLURM_STEP_NODELIST: "n[07]",
      SLURM_JOB_ID: job,
      SLURM_PROCID: String(rank),
      SLURM_NTASKS: "2",
      SLURM_LOCALID: String(rank),
    }));
    expect(first!.stderr + second!.stderr).toBe("");
    expect(first!.stdout).toContain("sum 1");
    expect(second!.stdout).toContain('rank 1 got "from rank 0 of 2"; local 1');
  }, 60_000);

  test("a port that another program has", async () => {
    const socket = { open: (one: Bun.Socket) => void one.write("220 mail\r\n"), data() {} };
    const other = Bun.listen({ hostname: "127.0.0.1", port: 0, socket });
    const XL_MASTER = `127.0.0.1:${other.port}`;
    const [first, second] = await pair((rank) => ({
      XL_RANK: String(rank),
      XL_WORLD_SIZE: "2",
      XL_MASTER,
    }));
    other.stop(true);
    expect(first!.code).toBe(64);
    expect(first!.stderr).toContain(`port ${other.port} of 127.0.0.1 is in use`);
    expect(second!.code).toBe(69);
    expect(second!.stderr).toContain(`the store of rank 0 at ${XL_MASTER}: a frame announces`);
  }, 60_000);

  test("ranks with different tokens", async () => {
    const XL_MASTER = `127.0.0.1:${freePort()}`;
    const [first, second] = await pair(
      (rank) => ({ XL_RANK: `${rank}`, XL_WORLD_SIZE: "2", XL_MASTER, XL_TOKEN: `secret ${rank}` }),
      ["join=2"],
    );
    expect(second!.code).toBe(77);
    expect(second!.stderr).toContain("rank 1 has another token than rank 0");
    expect(first!.code).toBe(69);
    expect(first!.stderr).toContain("1 of 2 ranks after 2 s; missing 1");
    for (const { stdout, stderr } of [first!, second!])
      expect(stdout + stderr).not.toMatch(/secret/);
  }, 60_000);
});
