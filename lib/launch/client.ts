// A rank's connection to the store.

import { prove } from "./auth.ts";
import { exitCodes, LaunchError, PeerError } from "./errors.ts";
import {
  encodeFrame,
  type Frame,
  FrameReader,
  FrameType,
  PayloadReader,
  PayloadWriter,
  ProtocolError,
} from "./frames.ts";
import {
  decodeChallenge,
  decodeEnding,
  decodeWelcome,
  type Ending,
  encodeBeat,
  encodeFailure,
  encodeHello,
  type Failure,
} from "./messages.ts";
import { Outbox } from "./outbox.ts";
import type { Beat } from "./phases.ts";
import type { Facts } from "./roster.ts";
import { type Address, showAddress } from "./variables.ts";

export interface ClientOptions {
  /** Where rank 0 listens. */
  readonly address: Address;
  readonly rank: number;
  readonly world: number;
  readonly token?: string | undefined;
  readonly facts: Facts;
  /** Until rank 0 is reached. The server itself ends the waiting for others. Default 120. */
  readonly joinSeconds?: number | undefined;
  /** Told once, when this rank must end. */
  readonly onEnding?: ((ending: Ending) => void) | undefined;
}

interface Pending {
  resolve(value: Uint8Array): void;
  reject(error: Error): void;
}

const firstPauseMilliseconds = 25;
const longestPauseMilliseconds = 500;
/** What the server may take longer than its own deadline. */
const graceSeconds = 5;

export class StoreClient {
  readonly rank: number;
  readonly world: number;
  readonly #options: ClientOptions;
  readonly #reader = new FrameReader();
  readonly #pending = new Map<number, Pending>();
  readonly #joined = Promise.withResolvers<void>();
  #outbox!: Outbox;
  #peers: readonly (readonly [string, number])[] = [];
  #next = 0;
  #ending: Ending | undefined;
  #isLeaving = false;
  #isWelcomed = false;
  #heard = performance.now();

  /** Joins. Resolves when every rank is there; PeerError or LaunchError says why not. */
  static async connect(options: ClientOptions): Promise<StoreClient> {
    const client = new StoreClient(options);
    const seconds = options.joinSeconds ?? 120;
    const until = performance.now() + 1000 * seconds;
    await client.#reach(until, seconds);
    const timer = setTimeout(
      () => client.#end(`rendezvous: no answer from ${client.#store()}`),
      Math.max(0, until - performance.now()) + 1000 * graceSeconds,
    );
    try {
      await client.#joined.promise;
    } finally {
      clearTimeout(timer);
    }
    return client;
  }

  private constructor(options: ClientOptions) {
    this.#options = options;
    this.rank = options.rank;
    this.world = options.world;
  }

  /** Host and process of every rank. */
  get peers(): readonly (readonly [string, number])[] {
    return this.#peers;
  }

  /** Why this rank must end; undefined while all is well. */
  get ending(): Ending | undefined {
    return this.#ending;
  }

  /** Seconds since anything came from rank 0, which answers every heartbeat. */
  get silentSeconds(): number {
    return (performance.now() - this.#heard) / 1000;
  }

  /** Ends this rank because rank 0 is silent. */
  giveUp(seconds: number): void {
    this.#end(`no sign of ${this.#first()} for ${seconds} s; it is stopped or cut off`);
  }

  async set(key: string, value: Uint8Array): Promise<void> {
    await this.#request(FrameType.set, (payload) => payload.key(key).bytes(value));
  }

  /** Waits until some rank has set the key. */
  get(key: string, seconds: number): Promise<Uint8Array> {
    return this.#request(FrameType.get, (payload) => payload.key(key).f64(seconds));
  }

  /** Adds to a counter that starts at 0; resolves to the sum. */
  async add(key: string, amount: number): Promise<number> {
    const sum = await this.#request(FrameType.add, (payload) => payload.key(key).f64(amount));
    return Number(new TextDecoder().decode(sum));
  }

  /** Waits until every rank is at the barrier of this name. */
  async barrier(name: string, seconds: number): Promise<void> {
    await this.#request(FrameType.barrier, (payload) => payload.key(name).f64(seconds));
  }

  beat(beat: Beat): void {
    this.#outbox.write(encodeBeat(beat));
  }

  /** Reports this rank's own failure. */
  fail(failure: Failure): void {
    this.#outbox.write(encodeFailure(failure));
  }

  /** Leaves in good order. */
  leave(): void {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    this.#outbox.write(encodeFrame(FrameType.leave));
    this.#outbox.end();
  }

  /** Ends the connection without a word, as the end of a process does. */
  disconnect(): void {
    this.#outbox.end();
  }

  /** Connects, again and again until rank 0 listens. */
  async #reach(until: number, seconds: number): Promise<void> {
    const { host, port } = this.#options.address;
    let pause = firstPauseMilliseconds;
    for (;;) {
      try {
        await Bun.connect({
          hostname: host,
          port,
          socket: {
            open: (socket) => void (this.#outbox = new Outbox(socket)),
            data: (_, bytes) => this.#received(bytes),
            drain: () => this.#outbox.drain(),
            close: () => this.#closed(),
            error: () => this.#closed(),
            connectError: () => {},
          },
        });
        return;
      } catch (error) {
        if (performance.now() + pause > until) throw this.#unreachable(seconds, error);
        await Bun.sleep(pause);
        pause = Math.min(2 * pause, longestPauseMilliseconds);
      }
    }
  }

  #unreachable(seconds: number, error: unknown): PeerError {
    const why = error instanceof Error ? error.message : String(error);
    return new PeerError(
      `rendezvous: rank ${this.rank} did not reach ${this.#store()} within ${seconds} s ` +
        `(${why}); is rank 0 running, and is this its address?`,
    );
  }

  #store(): string {
    return `the store of rank 0 at ${showAddress(this.#options.address)}`;
  }

  #first(): string {
    const [host, pid] = this.#peers[0]!;
    return `rank 0 (${host}, pid ${pid})`;
  }

  #received(bytes: Uint8Array): void {
    this.#heard = performance.now();
    try {
      for (const frame of this.#reader.read(bytes)) this.#take(frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#end(`rendezvous: ${this.#store()}: ${error.message}`);
      this.#outbox.end();
    }
  }

  #take({ type, payload }: Frame): void {
    if (type === FrameType.challenge) return this.#answer(payload);
    if (type === FrameType.abort) return this.#finish(decodeEnding(payload));
    if (type === FrameType.heartbeat) return undefined;
    if (type === FrameType.welcome) {
      this.#peers = decodeWelcome(payload);
      this.#isWelcomed = true;
      return this.#joined.resolve();
    }
    const reader = new PayloadReader(payload);
    const id = reader.u32();
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (type === FrameType.reply) return pending?.resolve(reader.rest().slice());
    if (type === FrameType.failure) {
      return pending?.reject(new PeerError(`rendezvous: ${reader.restText()}`));
    }
    throw new ProtocolError(`frame type ${type} is not for ranks`);
  }

  #answer(payload: Uint8Array): void {
    const { rank, world, token, facts } = this.#options;
    const proof = prove(token ?? "", decodeChallenge(payload), rank, world);
    this.#outbox.write(encodeHello({ proof, rank, world, facts }));
  }

  #request(type: FrameType, fill: (payload: PayloadWriter) => unknown): Promise<Uint8Array> {
    if (this.#ending) return Promise.reject(asError(this.#ending));
    const id = (this.#next = (this.#next + 1) % 2 ** 32);
    const payload = new PayloadWriter().u32(id);
    fill(payload);
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    this.#pending.set(id, { resolve, reject });
    this.#outbox.write(encodeFrame(type, payload.done()));
    return promise;
  }

  #closed(): void {
    if (this.#isLeaving) return;
    if (this.#isWelcomed) this.#end(`${this.#first()} was lost`);
    else this.#end(`rendezvous: ${this.#store()} closed the connection`);
  }

  #end(reason: string): void {
    this.#finish({ reason, exitCode: exitCodes.peer });
  }

  #finish(ending: Ending): void {
    if (this.#ending) return;
    this.#ending = ending;
    const error = asError(ending);
    this.#joined.promise.catch(() => {});
    this.#joined.reject(error);
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    this.#options.onEnding?.(ending);
  }
}

/** The error of an ending: the user's to solve, or a matter of peers. */
export function asError({ reason, exitCode }: Ending): Error {
  const isUsage = exitCode === exitCodes.usage || exitCode === exitCodes.permission;
  return isUsage ? new LaunchError(reason, exitCode) : new PeerError(reason, exitCode);
}
