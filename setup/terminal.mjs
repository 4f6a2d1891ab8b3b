// What every set-up step shares: sentences on stderr, and running other programs.
// Set-up code is plain JavaScript without dependencies: it runs under Node before Bun is there.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository. */
export const root = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");
/** Everything that is installed or cached lies here or in node_modules. */
export const tools = join(root, ".tools");

/** A set-up step failed. The message is one sentence with the way out; no stack is shown. */
export class SetupError extends Error {}

/** Says on stderr what takes time; stdout belongs to the recipe. */
export function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

/** Runs `main` and turns a SetupError into a line and exit code 1. */
export async function withErrors(main) {
  try {
    await main();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`setup failed: ${error.message}\n`);
    process.exit(1);
  }
}

/** Runs a program to its end and keeps its output. `status` is null when it could not start. */
export function capture(command, args, { cwd = root, env = {} } = {}) {
  const result = spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    encoding: "utf8",
    maxBuffer: 64 * 2 ** 20,
    stdio: ["ignore", "pipe", "pipe"],
  });
  stopWhenInterrupted(result);
  return {
    status: result.status,
    output: `${result.stdout ?? ""}${result.stderr ?? ""}`,
    stdout: result.stdout ?? "",
  };
}

/** Runs a program whose output the user sees; stdout goes to `stdout` (default: stderr). */
export function show(command, args, { cwd = root, env = {}, stdout = 2 } = {}) {
  const result = spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ["inherit", stdout, "inherit"],
  });
  stopWhenInterrupted(result);
  return result.status;
}

/** Where a program lies on PATH. */
export function find(name) {
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** The last lines of a program's output, for the error of a failure nobody foresaw. */
export function tail(output, lines = 12) {
  return output.trimEnd().split("\n").slice(-lines).join("\n");
}

/** Whether output tells of a network that cannot be reached. */
export function isOffline(output) {
  return [
    /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH/,
    /Temporary failure in name resolution|Name or service not known|Network is unreachable/,
    /NewConnectionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|getaddrinfo/,
    /ConnectionRefused|FailedToOpenSocket|DNS/,
  ].some((pattern) => pattern.test(output));
}

/** Runs `work` while no other process of this repository installs or builds. */
export async function exclusively(work) {
  const lock = join(tools, "setup.lock");
  mkdirSync(tools, { recursive: true });
  for (let tries = 0; !take(lock); tries++) {
    if (tries === 8) say("waiting for another set-up of this folder (.tools/setup.lock names it)");
    await new Promise((wake) => setTimeout(wake, 250));
  }
  try {
    return await work();
  } finally {
    rmSync(lock, { force: true });
  }
}

function take(lock) {
  try {
    writeFileSync(lock, String(process.pid), { flag: "wx" });
    return true;
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  if (!ownerLives(lock)) removeStale(lock);
  return false;
}

/** Renaming is atomic: of several waiting processes only one removes the dead owner's lock. */
function removeStale(lock) {
  const aside = `${lock}.${process.pid}`;
  try {
    renameSync(lock, aside);
    if (ownerLives(aside)) renameSync(aside, lock);
    else rmSync(aside, { force: true });
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
}

function ownerLives(lock) {
  try {
    process.kill(Number(readFileSync(lock, "utf8")), 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

function stopWhenInterrupted({ signal }) {
  if (signal === "SIGINT") process.exit(130);
  if (signal === "SIGTERM") process.exit(143);
}
