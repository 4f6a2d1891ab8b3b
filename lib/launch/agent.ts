// A rank's second thread: it holds the connection to the store, sends heartbeats and, on rank 0,
// runs the server. The main thread may be blocked meanwhile. When the run must end and the main
// thread does not react, the agent ends the process.

import { writeSync } from "node:fs";
import { StoreClient } from "./client.ts";
import { exitCodes, ownEndSignal } from "./errors.ts";
import type { Ending, Failure } from "./messages.ts";
import { type Deadlines, defaultDeadlines } from "./phases.ts";
import type { Facts } from "./roster.ts";
import { StoreServer } from "./server.ts";
import { SharedState } from "./shared_state.ts";
import type { Address } from "./variables.ts";

export interface AgentOptions {
  readonly rank: number;
  readonly world: number;
  /** Where rank 0 is reached, and where it listens. */
  readonly dial: Address;
  readonly bind?: Address | undefined;
  readonly token?: string | undefined;
  readonly facts: Facts;
  readonly joinSeconds: number;
  readonly deadlines: Partial<Deadlines>;
  readonly heartbeatSeconds: number;
  /**
   * Between the end of the run and the end of a process that does not react: the rank that others
   * wait for gets this long, the others twice, because its end wakes them.
   */
  readonly graceSeconds: number;
  /** How long rank 0 waits for others to leave. */
  readonly leaveSeconds: number;
}

/** From the main thread. */
export type ToAgent =
  | { readonly kind: "start"; readonly options: AgentOptions; readonly memory: SharedArrayBuffer }
  | { readonly kind: "set"; readonly id: number; readonly key: string; readonly value: Uint8Array }
  | { readonly kind: "get"; readonly id: number; readonly key: string; readonly seconds: number }
  | { readonly kind: "add"; readonly id: number; readonly key: string; readonly amount: number }
  | {
      readonly kind: "barrier";
      readonly id: number;
      readonly key: string;
      readonly seconds: number;
    }
  | { readonly kind: "fail"; readonly failure: Failure }
  | { readonly kind: "leave" };

/** To the main thread; an ending without an id is that of joining. */
export type FromAgent =
  | { readonly kind: "joined"; readonly peers: readonly (readonly [string, number])[] }
  | { readonly kind: "done"; readonly id: number; readonly value: Uint8Array | number | undefined }
  | { readonly kind: "failed"; readonly id?: number | undefined; readonly ending: Ending };

declare const self: Worker & { close(): void };

let agent: Agent | undefined;

// A listener on the main thread would keep a process alive that only reads this file.
if (!Bun.isMainThread) {
  self.addEventListener("message", ({ data }: MessageEvent<ToAgent>) => {
    if (data.kind === "start") {
      agent = new Agent(data.options, new SharedState(data.memory));
      void agent.join();
    } else void agent?.take(data);
  });
}

class Agent {
  readonly #options: AgentOptions;
  readonly #state: SharedState;
  readonly #timers: Timer[] = [];
  #server: StoreServer | undefined;
  #client: StoreClient | undefined;
  #leaving: number | undefined;

  constructor(options: AgentOptions, state: SharedState) {
    this.#options = options;
    this.#state = state;
  }

  async join(): Promise<void> {
    const { rank, world, dial, bind, token, facts, joinSeconds, deadlines } = this.#options;
    const onEnding = (ending: Ending) => this.#end(ending);
    try {
      if (bind) {
        this.#server = new StoreServer({ address: bind, world, token, joinSeconds, deadlines });
      }
      const address = bind && bind.host !== "0.0.0.0" ? bind : dial;
      const place = { address, rank, world, token, facts, joinSeconds };
      this.#client = await StoreClient.connect({ ...place, onEnding });
    } catch (error) {
      // The reason has to reach the other ranks before the server is gone.
      await Bun.sleep(this.#server ? 100 : 0);
      post({ kind: "failed", ending: endingOf(error) });
      return this.#close();
    }
    this.#every(this.#options.heartbeatSeconds, () => this.#beat());
    post({ kind: "joined", peers: this.#client.peers });
  }

  async take(message: Exclude<ToAgent, { kind: "start" }>): Promise<void> {
    if (message.kind === "leave") return this.#leave();
    if (message.kind === "fail") {
      // Its place at the time of the failure, not at that of the last heartbeat.
      this.#client?.beat(this.#state.beat);
      return this.#client?.fail(message.failure);
    }
    try {
      post({ kind: "done", id: message.id, value: await this.#request(message) });
    } catch (error) {
      post({ kind: "failed", id: message.id, ending: endingOf(error) });
    }
  }

  #request(
    message: Extract<ToAgent, { id: number }>,
  ): Promise<Uint8Array | number | undefined> | undefined {
    const client = this.#client;
    if (message.kind === "set") return client?.set(message.key, message.value).then(nothing);
    if (message.kind === "get") return client?.get(message.key, message.seconds);
    if (message.kind === "add") return client?.add(message.key, message.amount);
    return client?.barrier(message.key, message.seconds).then(nothing);
  }

  #beat(): void {
    const client = this.#client!;
    const limit = this.#options.deadlines.heartbeat ?? defaultDeadlines.heartbeat;
    client.beat(this.#state.beat);
    if (client.silentSeconds > limit) client.giveUp(limit);
  }

  /** The run must end. The main thread sees it at its next step, or is not able to. */
  #end(ending: Ending): void {
    this.#state.ending = ending;
    const { rank, graceSeconds } = this.#options;
    // A checkpoint that is being written is worth more time than a step.
    const factor = this.#state.beat.phase === "save" ? 10 : ending.isLate ? 1 : 2;
    const seconds = factor * graceSeconds;
    const last = () => {
      if (this.#leaving !== undefined) return;
      // Other ranks say why themselves; but rank 0 is the one whose output people see.
      const why = rank === 0 ? `: ${ending.reason}` : "";
      writeSync(2, `rank ${rank} did not react within ${seconds} s and ends itself${why}\n`);
      process.kill(process.pid, ownEndSignal);
      setTimeout(() => process.kill(process.pid, "SIGKILL"), 500);
    };
    this.#timers.push(setTimeout(last, 1000 * seconds));
  }

  #leave(): void {
    if (this.#leaving !== undefined) return;
    this.#leaving = performance.now();
    this.#client?.leave();
    const { leaveSeconds, rank } = this.#options;
    const isDone = () =>
      !this.#server ||
      this.#server.isLast(rank) ||
      performance.now() - this.#leaving! > 1000 * leaveSeconds;
    // At least once round the loop, so that the last frames are on their way.
    this.#every(0.01, () => void (isDone() && this.#close()));
  }

  #close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#server?.stop();
    this.#state.markLeft();
    self.close();
  }

  #every(seconds: number, body: () => void): void {
    this.#timers.push(setInterval(body, 1000 * seconds));
  }
}

function nothing(): undefined {}

function endingOf(error: unknown): Ending {
  const code = (error as { exitCode?: unknown }).exitCode;
  const reason = error instanceof Error ? error.message : String(error);
  return { reason, exitCode: typeof code === "number" ? code : exitCodes.internal };
}

function post(message: FromAgent): void {
  self.postMessage(message, []);
}
