// Starting ranks for tests of the launcher: with `bun run launch`'s recipe or by hand, their
// output, their processes, and whether those have ended.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");
const folders: string[] = [];

/** Removes what the ranks have written. */
export function removeLogs(): void {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** Variables of the test's own surroundings that would say something about ranks. */
const foreign =
  /^(XL_(?!LIBRARY)|RANK$|WORLD_SIZE$|LOCAL_|MASTER_|SLURM_|OMPI_|PMI|JOB_COMPLETION)/;
const clean = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !foreign.test(name)),
);

export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export async function finish(child: Bun.Subprocess<"ignore", "pipe", "pipe">): Promise<Finished> {
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, stdout, stderr };
}

export function spawn(words: readonly string[], env: Record<string, string> = {}) {
  const variables = { ...clean, ...env };
  const command = [process.execPath, ...words];
  return Bun.spawn(command, { cwd: root, env: variables, stdout: "pipe", stderr: "pipe" });
}

/** `bun run launch` with words of its own, a ranks' script of this folder, and its words. */
export function startLaunch(own: readonly string[], script: string, rest: readonly string[] = []) {
  const logs = mkdtempSync(join(tmpdir(), "launch-"));
  folders.push(logs);
  const words = ["--preload", "./setup/signals.mjs", "recipes/launch.ts", `logs=${logs}`];
  const path = join(import.meta.dir, script);
  return { logs, child: spawn([...words, ...own, path, ...rest]) };
}

export async function launched(own: readonly string[], script: string, rest?: readonly string[]) {
  const { logs, child } = startLaunch(own, script, rest);
  return { ...(await finish(child)), logs };
}

export function logsOf(folder: string): string[] {
  return readdirSync(folder)
    .sort()
    .map((name) => readFileSync(join(folder, name), "utf8"));
}

export function pidsOf(folder: string): number[] {
  const found = logsOf(folder).flatMap((text) => [...text.matchAll(/^pid (\d+)$/gm)]);
  return found.map(([, pid]) => Number(pid));
}

function isRunning(pid: number): boolean {
  try {
    // A zombie has ended; only its parent has not looked yet.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** Those of the processes that do not end, given a moment. */
export async function survivors(pids: readonly number[]): Promise<number[]> {
  for (let i = 0; i < 500 && pids.some(isRunning); i++) await Bun.sleep(10);
  return pids.filter(isRunning);
}

/** Waits until all `count` ranks have written a line. */
export async function untilWritten(folder: string, line: string, count: number): Promise<void> {
  const has = () => logsOf(folder).filter((text) => text.includes(line)).length;
  for (let i = 0; i < 3000 && has() < count; i++) await Bun.sleep(10);
  if (has() < count) throw new Error(`"${line}" was written by ${has()} ranks, not ${count}`);
}
