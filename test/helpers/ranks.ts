// Several ranks of a test: processes of one script that find each other through files.
//
//   const ranks = startRanks("rank_script.ts", 4, ["argument"]);
//   const results = await ranks.results();
//
// In the script:
//
//   await runRank(async (bootstrap, args) => { …; return something; });

import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readFile } from "node:fs/promises";

/** What a rank left behind: what it returned, or its error's text. */
export interface RankResult {
  readonly rank: number;
  readonly value: unknown;
  readonly error: string | undefined;
  readonly exitCode: number;
  readonly signal: string | number | null;
  readonly stderr: string;
}

/** A store in a folder: `set` writes a file, `get` waits for it. */
export function fileBootstrap(folder: string, rank: number, size: number) {
  const pathOf = (key: string) => join(folder, encodeURIComponent(key));
  return {
    rank,
    size,
    async set(key: string, value: Uint8Array): Promise<void> {
      const path = pathOf(key);
      writeFileSync(`${path}.${rank}`, value);
      renameSync(`${path}.${rank}`, path); // readers see all of it, or nothing
    },
    async get(key: string): Promise<Uint8Array> {
      while (!existsSync(pathOf(key))) await Bun.sleep(1);
      return new Uint8Array(await readFile(pathOf(key)));
    },
  };
}

export type FileBootstrap = ReturnType<typeof fileBootstrap>;

/** Starts `size` processes of a script of `test/helpers`, each with one thread. */
export function startRanks(
  script: string,
  size: number,
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
) {
  const folder = mkdtempSync(join(tmpdir(), "ranks-"));
  const processes = Array.from({ length: size }, (_, rank) =>
    Bun.spawn([process.execPath, join(import.meta.dir, script), ...args], {
      env: {
        ...process.env,
        XL_THREADS: "1",
        ...env,
        TEST_RANKS: JSON.stringify({ folder, rank, size }),
      },
      stdout: "pipe",
      stderr: "pipe",
    }),
  );
  return {
    processes,
    folder,
    /** Waits for all of them, and removes the store. */
    async results(): Promise<RankResult[]> {
      try {
        return await Promise.all(processes.map(resultOf));
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  };
}

async function resultOf(
  child: Bun.Subprocess<"ignore", "pipe", "pipe">,
  rank: number,
): Promise<RankResult> {
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  const exitCode = await child.exited;
  const last = stdout.trim().split("\n").at(-1) ?? "";
  const parsed = last.startsWith("{") ? JSON.parse(last) : {};
  const { value, error } = parsed as { value?: unknown; error?: string };
  return { rank, value, error, exitCode, signal: child.signalCode, stderr };
}

/** The values of all ranks; throws with everything they said when one has failed. */
export async function valuesOf<T>(ranks: ReturnType<typeof startRanks>): Promise<T[]> {
  const results = await ranks.results();
  const bad = results.filter(({ error, exitCode }) => error !== undefined || exitCode !== 0);
  if (bad.length > 0) {
    const lines = bad.map(
      ({ rank, error, exitCode, signal, stderr }) =>
        `rank ${rank}: exit ${exitCode} ${signal ?? ""} ${error ?? ""}\n${stderr}`,
    );
    throw new Error(lines.join("\n"));
  }
  return results.map(({ value }) => value as T);
}

/** In a rank's script: runs the body and prints what it returns, or how it failed, as JSON. */
export async function runRank(
  body: (bootstrap: FileBootstrap, args: readonly string[]) => Promise<unknown>,
): Promise<void> {
  const { folder, rank, size } = JSON.parse(process.env["TEST_RANKS"]!);
  try {
    const value = await body(fileBootstrap(folder, rank, size), process.argv.slice(2));
    console.log(JSON.stringify({ value }));
  } catch (error) {
    console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }));
    process.exit(1);
  }
}
