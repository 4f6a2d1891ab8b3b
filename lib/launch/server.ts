// The rendezvous store: rank 0 listens, every rank keeps one connection for the whole run. It lets
// ranks find each other, carries small values between them, and watches their heartbeats. Where the
// main thread of rank 0 may be blocked, the server runs in a thread of its own (agent.ts).

import { Failures, isProof, makeNonce } from "./auth.ts";
import { exitCodes, LaunchError } from "./errors.ts";
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
  decodeBeat,
  decodeFailure,
  decodeHello,
  type Ending,
  encodeChallenge,
  encodeEnding,
  encodeWelcome,
  mostHelloBytes,
} from "./messages.ts";
import { Monitor } from "./monitor.ts";
import { Outbox } from "./outbox.ts";
import { type Deadlines, defaultDeadlines } from "./phases.ts";
import { Roster } from "./roster.ts";
import { type Answer, StoreTable } from "./table.ts";
import { type Address, isLoopback, showAddress } from "./variables.ts";

export interface ServerOptions {
  /** Address to listen at; port 0 takes any that is free. */
  readonly address: Address;
  readonly world: number;
  /** Without one, only a loopback address is listened at. */
  readonly token?: string | undefined;
  /** Until every rank has joined. Default 120. */
  readonly joinSeconds?: number | undefined;
  readonly deadlines?: Partial<Deadlines> | undefined;
}

interface Connection {
  readonly address: string;
  readonly nonce: Uint8Array;
  readonly outbox: Outbox;
  reader: FrameReader;
  rank?: number;
  /** When it must have proved itself. */
  readonly until: number;
}

type Socket = Bun.Socket<Connection>;

const handshakeMilliseconds = 10_000;
const tickMilliseconds = 100;
/** Connections that may be open beyond one per rank. */
const spareConnections = 64;

export class StoreServer {
  readonly port: number;
  readonly #options: ServerOptions;
  readonly #roster: Roster;
  readonly #table: StoreTable;
  readonly #monitor: Monitor;
  readonly #listener: Bun.TCPSocketListener<Connection>;
  readonly #open = new Set<Socket>();
  readonly #ranks = new Map<number, Connection>();
  readonly #left = new Set<number>();
  readonly #failures = new Failures();
  readonly #timer: Timer;
  readonly #started = performance.now();
  #ending: Ending | undefined;
  #isWelcomed = false;

  /** Listens. LaunchError when the address is in use, is not of this host, or needs a token. */
  constructor(options: ServerOptions) {
    const { address, world, token } = options;
    if (!token && !isLoopback(address.host)) {
      throw new LaunchError(
        `rendezvous: a store at ${showAddress(address)} needs a token: set XL_TOKEN to one ` +
          "secret for all ranks, or use 127.0.0.1",
      );
    }
    this.#options = options;
    this.#roster = new Roster(world);
    this.#table = new StoreTable(world);
    const deadlines = { ...defaultDeadlines, ...options.deadlines };
    this.#monitor = new Monitor(deadlines, (rank) => this.#roster.describe(rank));
    this.#listener = this.#listen(address);
    this.port = this.#listener.port;
    this.#timer = setInterval(() => this.#tick(), tickMilliseconds);
  }

  /** Whether every rank but `rank` has left. */
  isLast(rank: number): boolean {
    const others = [...this.#ranks.keys()].filter((other) => other !== rank);
    return this.#ending !== undefined || others.every((other) => this.#left.has(other));
  }

  /** Tells everyone to end, for a reason that the server was not told by a rank. */
  end(reason: string, exitCode: number = exitCodes.peer, late: readonly number[] = []): void {
    if (this.#ending) return;
    const ending = (this.#ending = { reason, exitCode });
    for (const { data } of this.#open) {
      if (data.rank === undefined) continue;
      data.outbox.write(encodeEnding({ ...ending, isLate: late.includes(data.rank) }));
    }
  }

  /** Closes everything. */
  stop(): void {
    clearInterval(this.#timer);
    this.#listener.stop(true);
  }

  #listen({ host, port }: Address): Bun.TCPSocketListener<Connection> {
    try {
      return Bun.listen<Connection>({
        hostname: host,
        port,
        socket: {
          open: (socket) => this.#opened(socket),
          data: (socket, bytes) => this.#received(socket, bytes),
          drain: (socket) => socket.data?.outbox.drain(),
          close: (socket) => this.#closed(socket),
          error: (socket) => this.#closed(socket),
        },
      });
    } catch (error) {
      throw busy({ host, port }, error);
    }
  }

  #opened(socket: Socket): void {
    const address = socket.remoteAddress;
    const isFull = this.#open.size >= this.#options.world + spareConnections;
    if (isFull || this.#failures.isBlocked(address)) return void socket.terminate();
    const until = performance.now() + handshakeMilliseconds;
    const outbox = new Outbox(socket);
    const reader = new FrameReader(mostHelloBytes);
    socket.data = { address, nonce: makeNonce(), outbox, reader, until };
    this.#open.add(socket);
    outbox.write(encodeChallenge(socket.data.nonce));
  }

  #received(socket: Socket, bytes: Uint8Array): void {
    if (!this.#open.has(socket)) return;
    try {
      for (const frame of socket.data.reader.read(bytes)) this.#take(socket, frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#drop(socket, `rendezvous: ${error.message}`, exitCodes.peer);
    }
  }

  #take(socket: Socket, frame: Frame): void {
    const { data } = socket;
    if (data.rank === undefined) return this.#greet(socket, frame);
    switch (frame.type) {
      case FrameType.heartbeat:
        data.outbox.write(encodeFrame(FrameType.heartbeat));
        if (this.#left.has(data.rank)) return undefined;
        return this.#monitor.beat(data.rank, decodeBeat(frame.payload), performance.now());
      case FrameType.abort:
        return this.#failed(data.rank, frame);
      case FrameType.leave:
        this.#left.add(data.rank);
        return this.#monitor.leave(data.rank);
      default:
        return this.#request(data, data.rank, frame);
    }
  }

  #greet(socket: Socket, frame: Frame): void {
    if (frame.type !== FrameType.hello) throw new ProtocolError("expected hello first");
    const { proof, rank, world, facts } = decodeHello(frame.payload);
    const { data } = socket;
    if (!isProof(proof, this.#options.token ?? "", data.nonce, rank, world)) {
      this.#failures.add(data.address);
      const reason = `rendezvous: rank ${rank} has another token than rank 0; XL_TOKEN differs`;
      return this.#drop(socket, reason, exitCodes.permission);
    }
    data.rank = rank;
    data.reader = new FrameReader();
    if (this.#ending) return data.outbox.write(encodeEnding(this.#ending));
    const wrong = this.#unfit(rank, world) ?? this.#roster.join(rank, facts);
    if (wrong) return this.end(`rendezvous: ${wrong}`, exitCodes.usage);
    this.#ranks.set(rank, data);
    const beat = { step: 0, phase: "init", ticks: 0 } as const;
    this.#monitor.beat(rank, beat, performance.now());
    return this.#roster.isComplete ? this.#welcome() : undefined;
  }

  #unfit(rank: number, world: number): string | undefined {
    const own = this.#options.world;
    if (world !== own)
      return `rank ${rank} was started as one of ${world}, rank 0 as one of ${own}`;
    return rank >= world ? `rank ${rank} of ${world}; ranks count from 0` : undefined;
  }

  #welcome(): void {
    const wrong = this.#roster.mismatch();
    if (wrong) return this.end(`rendezvous: ${wrong}`, exitCodes.usage);
    this.#isWelcomed = true;
    const frame = encodeWelcome(this.#roster.all());
    for (const { outbox } of this.#ranks.values()) outbox.write(frame);
    return undefined;
  }

  #request({ outbox }: Connection, rank: number, { type, payload }: Frame): void {
    if (!this.#isWelcomed) throw new ProtocolError("a request before the welcome");
    const reader = new PayloadReader(payload);
    const id = reader.u32();
    const send = (type: FrameType, bytes: Uint8Array) =>
      outbox.write(encodeFrame(type, new PayloadWriter().u32(id).bytes(bytes).done()));
    const answer: Answer = {
      done: (value) => send(FrameType.reply, value),
      failed: (reason) => send(FrameType.failure, new TextEncoder().encode(reason)),
    };
    const now = performance.now();
    if (type === FrameType.set) return this.#table.set(reader.key(), reader.rest(), answer);
    if (type === FrameType.add) return this.#table.add(reader.key(), reader.f64(), answer);
    if (type === FrameType.get) {
      return this.#table.get(reader.key(), rank, reader.f64(), now, answer);
    }
    if (type === FrameType.barrier) {
      return this.#table.barrier(reader.key(), rank, reader.f64(), now, answer);
    }
    throw new ProtocolError(`frame type ${type} is no request`);
  }

  #failed(rank: number, frame: Frame): void {
    const { reason, isOwn } = decodeFailure(frame.payload);
    if (!isOwn) return this.#monitor.failure(rank, reason, performance.now());
    return this.end(`${this.#monitor.ended(rank, "failed")}: ${reason}`);
  }

  #closed(socket: Socket): void {
    if (!this.#open.delete(socket)) return;
    const { rank } = socket.data;
    if (rank === undefined || this.#left.has(rank)) return;
    if (this.#ranks.get(rank) !== socket.data) return;
    this.end(this.#monitor.ended(rank, "was lost"));
  }

  #drop(socket: Socket, reason: string, exitCode: number): void {
    socket.data.outbox.write(encodeEnding({ reason, exitCode }));
    socket.data.outbox.end();
  }

  #tick(): void {
    const now = performance.now();
    for (const socket of this.#open) {
      if (socket.data.rank === undefined && socket.data.until < now) socket.terminate();
    }
    if (this.#ending) return;
    this.#table.expire(now);
    const limit = this.#options.joinSeconds ?? 120;
    if (!this.#isWelcomed) {
      if (now - this.#started <= 1000 * limit) return;
      return this.end(`rendezvous: ${this.#roster.late(limit)}`);
    }
    const verdict = this.#monitor.check(now);
    if (verdict) this.end(verdict.reason, exitCodes.peer, verdict.late);
  }
}

function busy(address: Address, error: unknown): LaunchError {
  const code = (error as { code?: unknown }).code;
  const place = showAddress(address);
  if (code === "EADDRINUSE") {
    return new LaunchError(
      `rendezvous: port ${address.port} of ${address.host} is in use; choose another one with ` +
        "XL_MASTER=HOST:PORT (MASTER_PORT) for all ranks",
    );
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new LaunchError(`rendezvous: rank 0 cannot listen at ${place}: ${reason}`);
}
