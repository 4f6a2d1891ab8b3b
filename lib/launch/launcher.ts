// Starts the ranks of this host as processes and stays with them: passes signals on, ends all when
// one fails, and leaves nobody running.

import { availableParallelism, constants } from "node:os";
import { makeToken } from "./auth.ts";
import { exitCodes, LaunchError, ownEndSignal, ranksNamed } from "./errors.ts";
import { type NetworkName, networkPresets, safeVariables } from "./network.ts";
import { RankOutput, type Show } from "./output.ts";
import { type Address, address, showAddress, text, type Variables } from "./variables.ts";

export interface LaunchOptions {
  /** Program and arguments of every rank. A Bun program ends when the launcher does. */
  readonly command: readonly string[];
  /** Ranks on this host. */
  readonly ranks: number;
  /** Hosts that each run a launcher, and which of them this is. Default: 1, 0. */
  readonly nodes?: number | undefined;
  readonly node?: number | undefined;
  /** host:port of rank 0; needed for several hosts. */
  readonly master?: string | undefined;
  /** Shows every rank's output, with its number in front. Default: rank 0's alone. */
  readonly allOutput?: boolean | undefined;
  /** Folder that gets every rank's output as `rank-N.log`. */
  readonly logs?: string | undefined;
  readonly network?: NetworkName | undefined;
  /** From the first failure to the end of all others. Default 4. */
  readonly graceSeconds?: number | undefined;
  /** The same once a signal has asked all to stop: they may be saving. Default 30. */
  readonly stopSeconds?: number | undefined;
  /** Default: those of the process. */
  readonly variables?: Variables | undefined;
  /** Where the launcher's own lines go. Default: standard error. */
  readonly say?: ((line: string) => void) | undefined;
}

const forwarded = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"] as const;
const stopping = new Set<string>(["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"]);
/** Something that outlives its rank may keep the rank's output open. */
const outputSeconds = 2;
/** Interrupts after which nothing is waited for. */
const lastInterrupt = 3;

interface Rank {
  readonly rank: number;
  readonly process: Bun.Subprocess;
  readonly output: RankOutput;
  /** All of its output has been read. */
  readonly read: Promise<unknown>;
  exit?: { readonly code: number; readonly signal?: string | undefined };
  /** The launcher has ended it. */
  wasKilled: boolean;
}

/**
 * Runs one process per rank and resolves to the exit code: 0 when all ranks give 0, else that of
 * the first rank that failed, whose last lines are reported. LaunchError for wrong options.
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const host = new Launcher(options);
  return host.run();
}

class Launcher {
  readonly #options: LaunchOptions;
  readonly #say: (line: string) => void;
  readonly #ranks: Rank[] = [];
  readonly #timers: Timer[] = [];
  #first: Rank | undefined;
  #interrupts = 0;
  #isStopping = false;

  constructor(options: LaunchOptions) {
    this.#options = options;
    this.#say = options.say ?? ((line) => process.stderr.write(`${line}\n`));
  }

  async run(): Promise<number> {
    const variables = await rankVariables(this.#options);
    const listeners = forwarded.map((name) => [name, () => this.#forward(name)] as const);
    for (const [name, listener] of listeners) process.on(name, listener);
    try {
      for (const [index, own] of variables.entries()) this.#start(index, own);
      await Promise.all(this.#ranks.map((rank) => this.#follow(rank)));
    } finally {
      for (const [name, listener] of listeners) process.off(name, listener);
      for (const timer of this.#timers) clearTimeout(timer);
      for (const { output } of this.#ranks) output[Symbol.dispose]();
    }
    const cause = this.#cause();
    if (cause) this.#report(cause);
    return cause?.exit?.code ?? 0;
  }

  #start(index: number, variables: Record<string, string>): void {
    const { command, allOutput, logs } = this.#options;
    const rank = Number(variables["XL_RANK"]);
    const show: Show = allOutput ? "prefixed" : rank === 0 ? "plain" : "hidden";
    // The first rank writes to the terminal itself: it may draw progress there.
    const stream = show === "plain" && logs === undefined ? "inherit" : "pipe";
    const output = new RankOutput(rank, show, logs);
    try {
      const child = Bun.spawn(withLauncher(command), {
        env: variables,
        stdio: ["ignore", stream, stream],
        // A group of its own: a terminal's Ctrl-C comes through the launcher alone, and what the
        // rank starts can be ended with it.
        detached: true,
      });
      const { stdout, stderr } = child;
      const read =
        stdout instanceof ReadableStream && stderr instanceof ReadableStream
          ? Promise.all([output.follow(stdout, 1), output.follow(stderr, 2)])
          : Promise.resolve();
      this.#ranks.push({ rank, process: child, output, read, wasKilled: false });
    } catch (error) {
      for (const started of this.#ranks) kill(started, "SIGKILL");
      const reason = error instanceof Error ? error.message : String(error);
      throw new LaunchError(`rank ${rank} cannot be started: ${reason}`, exitCodes.internal);
    }
  }

  async #follow(rank: Rank): Promise<void> {
    await rank.process.exited;
    rank.exit = exitOf(rank.process);
    const { code } = rank.exit;
    // Whatever it started and left would keep its output open.
    if (code !== 0) kill(rank, "SIGKILL");
    if (code !== 0 && !this.#first) this.#fail(rank);
    await within(outputSeconds, rank.read);
  }

  /** One rank has failed: the others learn it from each other, or are ended. */
  #fail(first: Rank): void {
    this.#first = first;
    const { graceSeconds = 4, stopSeconds = 30 } = this.#options;
    const isOrderly = this.#isStopping && first.exit?.signal === undefined;
    const seconds = isOrderly ? stopSeconds : graceSeconds;
    this.#after(seconds / 2, () => this.#endOthers("SIGTERM"));
    this.#after(seconds, () => this.#endOthers("SIGKILL"));
  }

  #endOthers(signal: NodeJS.Signals): void {
    for (const rank of this.#ranks.filter(({ exit }) => !exit)) {
      rank.wasKilled = true;
      kill(rank, signal);
    }
  }

  #forward(signal: NodeJS.Signals): void {
    if (stopping.has(signal)) this.#isStopping = true;
    if (signal === "SIGINT" && ++this.#interrupts >= lastInterrupt) {
      return this.#endOthers("SIGKILL");
    }
    for (const { process: child, exit } of this.#ranks) if (!exit) child.kill(signal);
    return undefined;
  }

  #after(seconds: number, body: () => void): void {
    this.#timers.push(setTimeout(body, 1000 * seconds));
  }

  /** Who is at fault: a rank that only lost its peers is not, if another one knows more. */
  #cause(): Rank | undefined {
    const first = this.#first;
    if (!first || (first.exit!.code !== exitCodes.peer && !isLate(first))) return first;
    const reacted = this.#ranks.filter((rank) => rank.exit!.code !== 0 && !isLate(rank));
    return reacted.find(({ exit }) => exit!.code !== exitCodes.peer) ?? reacted[0] ?? first;
  }

  /** Says who failed and how it went on; lines that were shown already are not repeated. */
  #report(cause: Rank): void {
    const { code, signal } = cause.exit!;
    const isAlike = (rank: Rank) => rank.exit!.code === code && !isLate(rank);
    const alike = this.#ranks.filter((rank) => rank === cause || isAlike(rank));
    if (this.#isStopping && alike.length === this.#ranks.length) return;
    const how = signal ? `was killed by ${signal} (exit code ${code})` : `ended with code ${code}`;
    const late = this.#ranks.filter((rank) => isLate(rank) && rank !== cause);
    const rest = late.length > 0 ? `; ${named(late)} did not react and had to be killed` : "";
    this.#say(`launch: ${named(alike)} ${how}${rest}`);
    const isShown = this.#options.allOutput || alike.some(({ rank }) => rank === 0);
    if (!isShown) this.#quote(cause);
    else if (code === exitCodes.peer && late[0] && !this.#options.allOutput) this.#quote(late[0]);
  }

  #quote({ rank, output: { lastLines } }: Rank): void {
    if (rank === 0) return;
    const isEmpty = lastLines.length === 0;
    this.#say(`launch: ${isEmpty ? `rank ${rank} wrote nothing` : `last lines of rank ${rank}:`}`);
    for (const line of lastLines) this.#say(`  ${line}`);
  }
}

/** Waits for `work`, but not longer than this. */
async function within(seconds: number, work: Promise<unknown>): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, 1000 * seconds);
  await Promise.race([work, promise]);
  clearTimeout(timer);
}

/** Whether a rank had to be ended, by the launcher or by its own second thread. */
function isLate({ exit, wasKilled }: Rank): boolean {
  return wasKilled || exit!.signal === ownEndSignal;
}

function named(ranks: readonly Rank[]): string {
  return ranksNamed(ranks.map(({ rank }) => rank));
}

/** Bun can be told to end with its parent, also when that is killed and cannot end it. */
function withLauncher(command: readonly string[]): string[] {
  const [program, ...rest] = command;
  return program === process.execPath ? [program, "--no-orphans", ...rest] : [...command];
}

function exitOf({ exitCode, signalCode }: Bun.Subprocess): NonNullable<Rank["exit"]> {
  if (signalCode === null) return { code: exitCode ?? 0 };
  const number = typeof signalCode === "number" ? signalCode : constants.signals[signalCode];
  return { code: 128 + number, signal: String(signalCode) };
}

/** Ends a rank and all that it has started. */
function kill({ process: { pid } }: Rank, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ESRCH") throw error;
  }
}

/** The variables of every rank of this host. */
async function rankVariables(options: LaunchOptions): Promise<Record<string, string>[]> {
  const { ranks, nodes = 1, node = 0, network } = options;
  if (!Number.isInteger(ranks) || ranks < 1) {
    throw new LaunchError(`${ranks} ranks; expected an integer from 1`);
  }
  if (node >= nodes) throw new LaunchError(`node=${node} of nodes=${nodes}; nodes count from 0`);
  const outside = options.variables ?? process.env;
  const master = masterOf(options, outside);
  const token = text(outside, "XL_TOKEN");
  if (nodes > 1 && token === undefined) {
    throw new LaunchError("several hosts need one secret: set XL_TOKEN to the same text on each");
  }
  const threads = Math.max(1, Math.floor(availableParallelism() / ranks));
  const shared = {
    ...safeVariables,
    ...(network === undefined ? {} : networkPresets[network].variables),
    XL_THREADS: String(threads),
    ...outside,
    XL_WORLD_SIZE: String(nodes * ranks),
    XL_LOCAL_WORLD_SIZE: String(ranks),
    XL_MASTER: showAddress(master),
    XL_TOKEN: token ?? makeToken(),
  };
  return Array.from({ length: ranks }, (_, local) => {
    const own = { XL_RANK: String(node * ranks + local), XL_LOCAL_RANK: String(local) };
    const all = Object.entries({ ...shared, ...own });
    return Object.fromEntries(
      all.filter((entry): entry is [string, string] => entry[1] !== undefined),
    );
  });
}

function masterOf({ nodes = 1, master }: LaunchOptions, outside: Variables): Address {
  const given = master ?? text(outside, "XL_MASTER");
  if (given !== undefined) return address(given, master === undefined ? "XL_MASTER" : "master");
  if (nodes === 1) return { host: "127.0.0.1", port: freePort() };
  throw new LaunchError("several hosts need master=HOST:PORT, the address of the first one");
}

/**
 * A port of this host that nobody listens at. Below those that the system gives to outgoing
 * connections, so that none of them takes it before rank 0 listens.
 */
export function freePort(first = 20_000 + Math.floor(10_000 * Math.random())): number {
  for (let port = first; port < first + 100; port++) {
    try {
      const socket = { data() {} };
      Bun.listen({ hostname: "127.0.0.1", port, socket }).stop(true);
      return port;
    } catch {
      // In use: the next one.
    }
  }
  throw new LaunchError(`no free port between ${first} and ${first + 99}; give master=HOST:PORT`);
}
