// A process's membership in the run, from joining to leaving. The work is done by its agent, a
// second thread, so that heartbeats go on while this one is busy.
//
//   const run = await join(detectEnvironment(), { facts });
//   await run.set("key", bytes);  await run.get("key");
//   run.heartbeat(step, "forward");       // throws when the run must end
//   run.leave();

import type { AgentOptions, FromAgent, ToAgent } from "./agent.ts";
import { bindAddress, dialAddress } from "./addresses.ts";
import { asError } from "./client.ts";
import type { RankEnvironment } from "./environment.ts";
import { exitCodes, LaunchError, PeerError } from "./errors.ts";
import type { Ending } from "./messages.ts";
import type { Deadlines, Phase } from "./phases.ts";
import type { Facts } from "./roster.ts";
import { SharedState } from "./shared_state.ts";
import { integer, text, type Variables } from "./variables.ts";

export interface JoinOptions {
  /** What ranks must agree about, and who this one is. */
  readonly facts: Facts;
  /** Until all ranks are there. Default 120, or `XL_JOIN_SECONDS`. */
  readonly joinSeconds?: number | undefined;
  /** Seconds without progress after which a rank counts as stuck. */
  readonly deadlines?: Partial<Deadlines> | undefined;
  /** Default 1. */
  readonly heartbeatSeconds?: number | undefined;
  /** From the end of the run to that of a late rank's process that does not react. Default 2. */
  readonly graceSeconds?: number | undefined;
  /** How long rank 0 waits at the end for others to leave. Default 60. */
  readonly leaveSeconds?: number | undefined;
  /** Default: those of the process. */
  readonly variables?: Variables | undefined;
}

/** The part that connections of groups need. */
export interface Bootstrap {
  readonly rank: number;
  readonly size: number;
  set(key: string, value: Uint8Array): Promise<void>;
  get(key: string): Promise<Uint8Array>;
}

interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

const defaultWaitSeconds = 120;

/**
 * Joins the other ranks of this run. Rank 0 listens for them. Rejects with a LaunchError (a wrong
 * address, token or setting; ranks that differ) or a PeerError (ranks that are missing), on every
 * rank with the same text.
 */
export async function join(place: RankEnvironment, options: JoinOptions): Promise<Rendezvous> {
  const { rank, world, master } = place;
  if (!master) throw new LaunchError(`a run of ${world} ranks has nothing to join`);
  const variables = options.variables ?? process.env;
  const iface = text(variables, "XL_IFACE");
  const agentOptions: AgentOptions = {
    rank,
    world,
    dial: dialAddress(master),
    bind: rank === 0 ? await bindAddress(master, iface) : undefined,
    token: text(variables, "XL_TOKEN"),
    facts: options.facts,
    joinSeconds: options.joinSeconds ?? integer(variables, "XL_JOIN_SECONDS") ?? 120,
    deadlines: options.deadlines ?? {},
    heartbeatSeconds: options.heartbeatSeconds ?? 1,
    graceSeconds: options.graceSeconds ?? 2,
    leaveSeconds: options.leaveSeconds ?? 60,
  };
  const rendezvous = new Rendezvous(agentOptions);
  await rendezvous.joined;
  return rendezvous;
}

export class Rendezvous implements Bootstrap, Disposable {
  readonly rank: number;
  readonly size: number;
  /** Resolves when every rank is there. */
  readonly joined: Promise<void>;
  readonly #worker: Worker;
  readonly #state = new SharedState();
  readonly #pending = new Map<number, Pending>();
  readonly #leaveSeconds: number;
  #peers: readonly (readonly [string, number])[] = [];
  #next = 0;
  #hasLeft = false;

  constructor(options: AgentOptions) {
    this.rank = options.rank;
    this.size = options.world;
    this.#leaveSeconds = options.leaveSeconds;
    this.#worker = new Worker(new URL("./agent.ts", import.meta.url));
    this.#worker.addEventListener("message", ({ data }: MessageEvent<FromAgent>) =>
      this.#take(data),
    );
    this.#worker.addEventListener("error", ({ message }) => this.#broken(message));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.joined = promise;
    this.#pending.set(-1, { resolve: () => resolve(), reject });
    this.#post({ kind: "start", options, memory: this.#state.memory });
  }

  /** Host and process of every rank. */
  get peers(): readonly (readonly [string, number])[] {
    return this.#peers;
  }

  /** Why the run must end; undefined while all is well. */
  get ending(): Ending | undefined {
    return this.#state.ending;
  }

  /** Stores up to 1 MiB under a key of up to 256 bytes, for all ranks. */
  async set(key: string, value: Uint8Array): Promise<void> {
    await this.#request((id) => ({ kind: "set", id, key, value }));
  }

  /** Waits until some rank has set the key. PeerError after `seconds`. */
  async get(key: string, seconds = defaultWaitSeconds): Promise<Uint8Array> {
    return (await this.#request((id) => ({ kind: "get", id, key, seconds }))) as Uint8Array;
  }

  /** Adds to a counter that starts at 0 and resolves to the sum. */
  async add(key: string, amount: number): Promise<number> {
    return (await this.#request((id) => ({ kind: "add", id, key, amount }))) as number;
  }

  /** Waits until every rank is at the barrier `key`. PeerError names those who are not. */
  async barrier(key: string, seconds = defaultWaitSeconds): Promise<void> {
    await this.#request((id) => ({ kind: "barrier", id, key, seconds }));
  }

  /** Tells where this rank is. Throws when the run must end: a peer is lost, stuck, or failed. */
  heartbeat(step: number, phase: Phase): void {
    this.#state.report(step, phase);
    this.check();
  }

  /** Throws when the run must end. */
  check(): void {
    const { ending } = this.#state;
    if (ending) throw asError(ending);
  }

  /**
   * Reports that this rank cannot go on: because of its peers, whom it has waited for, or for a
   * reason of its own. Resolves to the common verdict, or undefined when there is none in time.
   */
  async fail(reason: string, isOwn: boolean, seconds = 3): Promise<Ending | undefined> {
    if (!this.#hasLeft) this.#post({ kind: "fail", failure: { reason, isOwn } });
    const until = performance.now() + 1000 * seconds;
    while (!this.ending && performance.now() < until) await Bun.sleep(20);
    return this.ending;
  }

  /**
   * Leaves the run in good order; rank 0 waits until the others have left too, because they need
   * its store. Blocks. A second call does nothing.
   */
  leave(): void {
    if (this.#hasLeft) return;
    this.#hasLeft = true;
    this.#post({ kind: "leave" });
    this.#state.waitUntilLeft(this.#leaveSeconds + 5);
    this.#rejectAll({ reason: "this rank has left the run", exitCode: exitCodes.internal });
  }

  [Symbol.dispose](): void {
    this.leave();
  }

  #request(message: (id: number) => ToAgent): Promise<unknown> {
    const { ending } = this.#state;
    if (ending) return Promise.reject(asError(ending));
    if (this.#hasLeft) return Promise.reject(new PeerError("this rank has left the run"));
    const id = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject });
    this.#worker.ref();
    this.#post(message(id));
    return promise;
  }

  #take(message: FromAgent): void {
    if (message.kind === "joined") {
      this.#peers = message.peers;
      return this.#settle(-1)?.resolve(undefined);
    }
    if (message.kind === "done") return this.#settle(message.id)?.resolve(message.value);
    if (message.id === undefined) this.#hasLeft = true;
    return this.#settle(message.id ?? -1)?.reject(asError(message.ending));
  }

  /** The process may end while nothing is asked for: the agent alone does not keep it. */
  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#worker.unref();
    return pending;
  }

  #broken(message: string): void {
    const reason = `the thread that talks to the store failed: ${message}`;
    this.#state.ending = { reason, exitCode: exitCodes.internal };
    this.#hasLeft = true;
    this.#rejectAll({ reason, exitCode: exitCodes.internal });
  }

  #rejectAll(ending: Ending): void {
    for (const id of this.#pending.keys()) this.#settle(id)?.reject(asError(ending));
  }

  #post(message: ToAgent): void {
    this.#worker.postMessage(message, []);
  }
}
