// The store over real sockets in one process: what ranks exchange, who may join, what each rank is
// told when others are missing, different, double or gone, and what hostile bytes do.

import { afterEach, describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { isProof, makeNonce, prove } from "../../lib/launch/auth.ts";
import { type ClientOptions, StoreClient } from "../../lib/launch/client.ts";
import {
  encodeFrame,
  type Frame,
  FrameReader,
  FrameType,
  mostFrameBytes,
  mostValueBytes,
} from "../../lib/launch/frames.ts";
import { encodeHello } from "../../lib/launch/messages.ts";
import { type ServerOptions, StoreServer } from "../../lib/launch/server.ts";

const host = "127.0.0.1";
const open: { stop(): void }[] = [];
afterEach(() => {
  for (const one of open.splice(0)) one.stop();
});

function serve(world: number, options: Partial<ServerOptions> = {}): StoreServer {
  const server = new StoreServer({
    address: { host, port: 0 },
    world,
    joinSeconds: 30,
    ...options,
  });
  open.push(server);
  return server;
}

const factsOf = (rank: number) => ({
  host: `n0${rank}`,
  pid: 100 + rank,
  device: "cpu",
  version: "0.1.0",
  abi: "7",
  recipe: "aaaa",
});

async function join(
  { port }: StoreServer,
  rank: number,
  world: number,
  options: Partial<ClientOptions> = {},
): Promise<StoreClient> {
  const address = { host, port };
  const facts = factsOf(rank);
  const place = { address, rank, world, facts, joinSeconds: 30 };
  const client = await StoreClient.connect({ ...place, ...options });
  open.push({ stop: () => client.leave() });
  return client;
}

function joinAll(server: StoreServer, world: number): Promise<StoreClient[]> {
  return Promise.all(Array.from({ length: world }, (_, rank) => join(server, rank, world)));
}

/** The reasons for which joins of these ranks fail. */
async function refusals(joins: readonly Promise<StoreClient>[]): Promise<string[]> {
  const settled = await Promise.allSettled(joins);
  return settled.map((one) => (one.status === "rejected" ? one.reason.message : "joined"));
}

/** Text that a client's end comes with. */
async function endOf(client: StoreClient): Promise<string> {
  for (let i = 0; i < 1000 && !client.ending; i++) await Bun.sleep(5);
  return client.ending?.reason ?? "no end";
}

describe("values", () => {
  test("every rank sees what one has set, before and after it asks", async () => {
    const clients = await joinAll(serve(3), 3);
    const early = clients[2]!.get("id", 10);
    const value = crypto.getRandomValues(new Uint8Array(65_536));
    await clients[0]!.set("id", value);
    expect(await early).toEqual(value);
    expect(await clients[1]!.get("id", 10)).toEqual(value);
    expect(clients[1]!.peers).toEqual([0, 1, 2].map((rank) => [`n0${rank}`, 100 + rank]));
  });

  test("the largest value passes in pieces, a larger one is refused", async () => {
    const [client] = await joinAll(serve(1), 1);
    const value = new Uint8Array(mostValueBytes).fill(7);
    await client!.set("large", value);
    const back = await client!.get("large", 10);
    expect(Bun.hash(back)).toBe(Bun.hash(value));
    await expect(client!.set("larger", new Uint8Array(mostFrameBytes))).rejects.toThrow(/at most/);
    await expect(client!.set("x".repeat(257), value)).rejects.toThrow(/a key of 257 bytes/);
  });

  test("counters add up over ranks", async () => {
    const clients = await joinAll(serve(4), 4);
    const sums = await Promise.all(clients.map((client) => client.add("tickets", client.rank)));
    expect(Math.max(...sums)).toBe(6);
    expect(await clients[0]!.add("tickets", 0.5)).toBe(6.5);
  });

  test("a barrier opens when the last rank comes, again and again", async () => {
    const clients = await joinAll(serve(3), 3);
    const order: number[] = [];
    for (let round = 0; round < 3; round++) {
      const others = [0, 1].map((rank) =>
        clients[rank]!.barrier("b", 10).then(() => order.push(rank)),
      );
      await Bun.sleep(10);
      order.push(9);
      await Promise.all([...others, clients[2]!.barrier("b", 10)]);
    }
    expect(order.filter((_, at) => at % 3 === 0)).toEqual([9, 9, 9]);
  });

  test("what nobody sets, and who is not at a barrier, is named in time", async () => {
    const clients = await joinAll(serve(3), 3);
    await expect(clients[0]!.get("nothing", 0.2)).rejects.toThrow(
      'rendezvous: get: nobody set "nothing" within 0.2 s',
    );
    await expect(clients[1]!.barrier("step", 0.2)).rejects.toThrow(
      'rendezvous: barrier "step": missing 0, 2 after 0.2 s',
    );
  });
});

describe("joining", () => {
  test("missing ranks are named on all that came, with hosts", async () => {
    const server = serve(5, { joinSeconds: 0.3 });
    const reasons = await refusals([0, 1, 3].map((rank) => join(server, rank, 5)));
    const text =
      "rendezvous: 3 of 5 ranks after 0.3 s; missing 2, 4; joined: 0 (n00), 1 (n01), 3 (n03)";
    expect(reasons).toEqual([text, text, text]);
    // And on one that comes too late.
    expect(await refusals([join(server, 2, 5)])).toEqual([text]);
  });

  test("ranks that run different things are told both sides", async () => {
    const facts = { ...factsOf(2), recipe: "bbbb", version: "0.2.0" };
    const server = serve(3);
    const joins = [join(server, 0, 3), join(server, 1, 3), join(server, 2, 3, { facts })];
    const text =
      "rendezvous: the ranks differ: recipe hash aaaa on ranks 0, 1, bbbb on rank 2; start every " +
      "rank with the same recipe and settings; version 0.1.0 on ranks 0, 1, 0.2.0 on rank 2; " +
      "install one version on every host";
    expect(await refusals(joins)).toEqual([text, text, text]);
  });

  test("a rank that joins twice", async () => {
    const server = serve(3);
    const first = [join(server, 0, 3), join(server, 1, 3)];
    await Bun.sleep(50);
    const again = join(server, 1, 3, { facts: { ...factsOf(1), host: "n09", pid: 9 } });
    const text =
      "rendezvous: rank 1 joined twice: pid 101 on n01 and pid 9 on n09; give every process " +
      "a rank of its own";
    expect(await refusals([...first, again])).toEqual([text, text, text]);
  });

  test("a rank that was started for another number of ranks", async () => {
    const server = serve(2);
    const text = "rendezvous: rank 1 was started as one of 4, rank 0 as one of 2";
    expect(await refusals([join(server, 0, 2), join(server, 1, 4)])).toEqual([text, text]);
  });

  test("a store that is not there", async () => {
    const server = serve(2);
    server.stop();
    const [reason] = await refusals([join(server, 1, 2, { joinSeconds: 0.2 })]);
    expect(reason).toMatch(
      /^rendezvous: rank 1 did not reach the store of rank 0 at 127.0.0.1:\d+/,
    );
    expect(reason).toContain("within 0.2 s");
  });

  test("another program at the address", async () => {
    const socket = { open: (one: Bun.Socket) => void one.write("HTTP/1.1 400\r\n\r\n"), data() {} };
    const other = Bun.listen({ hostname: host, port: 0, socket });
    open.push({ stop: () => other.stop(true) });
    const address = { host, port: other.port };
    const facts = factsOf(1);
    const joining = StoreClient.connect({ address, rank: 1, world: 2, facts, joinSeconds: 5 });
    expect((await refusals([joining]))[0]).toMatch(/a frame announces \d+ bytes; at most/);
  });

  test("a busy port names the port and the way out", () => {
    const { port } = serve(2);
    const again = () => new StoreServer({ address: { host, port }, world: 2 });
    expect(again).toThrow(`rendezvous: port ${port} of 127.0.0.1 is in use; choose another one`);
  });

  test("without a token only this host is listened to", () => {
    const everywhere = { host: "0.0.0.0", port: 0 };
    expect(() => serve(2, { address: everywhere })).toThrow(/needs a token: set XL_TOKEN/);
    serve(2, { address: everywhere, token: "secret" });
  });
});

describe("who may join", () => {
  test("the token is proved, not sent; a wrong one is told apart", async () => {
    const server = serve(2, { token: "secret" });
    const wrong = await refusals([join(server, 1, 2, { token: "guess" })]);
    expect(wrong).toEqual(["rendezvous: rank 1 has another token than rank 0; XL_TOKEN differs"]);
    const joins = [0, 1].map((rank) => join(server, rank, 2, { token: "secret" }));
    expect(await refusals(joins)).toEqual(["joined", "joined"]);
  });

  test("after three wrong proofs an address is not talked to any more", async () => {
    const server = serve(2, { token: "secret" });
    for (let i = 0; i < 3; i++) {
      const [reason] = await refusals([join(server, 1, 2, { token: `guess ${i}` })]);
      expect(reason).toContain("another token");
    }
    const [reason] = await refusals([join(server, 1, 2, { token: "secret", joinSeconds: 0.2 })]);
    expect(reason).toContain("closed the connection");
  });

  test("a proof is of one nonce, rank and world", () => {
    const nonce = makeNonce();
    const proof = prove("secret", nonce, 1, 4);
    expect(isProof(proof, "secret", nonce, 1, 4)).toBe(true);
    expect(isProof(proof, "other", nonce, 1, 4)).toBe(false);
    expect(isProof(proof, "secret", makeNonce(), 1, 4)).toBe(false);
    expect(isProof(proof, "secret", nonce, 2, 4)).toBe(false);
    expect(isProof(proof, "secret", nonce, 1, 8)).toBe(false);
    expect(isProof(proof.slice(1), "secret", nonce, 1, 4)).toBe(false);
  });
});

describe("ending", () => {
  test("a rank whose connection breaks is named with its last place", async () => {
    const server = serve(3);
    const clients = await joinAll(server, 3);
    clients[1]!.beat({ step: 12, phase: "backward", ticks: 3 });
    await Bun.sleep(50);
    clients[1]!.disconnect();
    const text = "rank 1 (n01, pid 101) was lost (last heard of at step 12, backward)";
    expect(await endOf(clients[0]!)).toBe(text);
    expect(await endOf(clients[2]!)).toBe(text);
    await expect(clients[2]!.get("x", 1)).rejects.toThrow(text);
  });

  test("a rank's own failure reaches the others, and what they wait for", async () => {
    const clients = await joinAll(serve(2), 2);
    const waiting = clients[0]!.get("never", 60);
    clients[1]!.beat({ step: 3, phase: "save", ticks: 1 });
    clients[1]!.fail({ reason: "the disk is full\nreally", isOwn: true });
    await expect(waiting).rejects.toThrow(
      "rank 1 (n01, pid 101) failed at step 3, save: the disk is full; really",
    );
  });

  test("rank 0 that goes away ends the others", async () => {
    const server = serve(2);
    const clients = await joinAll(server, 2);
    server.stop();
    expect(await endOf(clients[1]!)).toBe("rank 0 (n00, pid 100) was lost");
  });

  test("leaving is no loss", async () => {
    const server = serve(3);
    const clients = await joinAll(server, 3);
    expect(server.isLast(0)).toBe(false);
    clients[1]!.leave();
    clients[2]!.leave();
    for (let i = 0; i < 400 && !server.isLast(0); i++) await Bun.sleep(5);
    expect(server.isLast(0)).toBe(true);
    await Bun.sleep(50);
    expect(clients[0]!.ending).toBeUndefined();
  });

  test("a rank that stands still is found by its heartbeats", async () => {
    const server = serve(2, { deadlines: { init: 0.1, step: 0.1 } });
    const clients = await joinAll(server, 2);
    clients[0]!.beat({ step: 4, phase: "forward", ticks: 1 });
    clients[1]!.beat({ step: 4, phase: "data", ticks: 1 });
    expect(await endOf(clients[0]!)).toMatch(
      /^rank 1 \(n01, pid 101\) is behind at step 4, data, no progress for \d\.\d s; rank 0/,
    );
    expect(clients[1]!.ending).toMatchObject({ exitCode: 69, isLate: true });
    expect(clients[0]!.ending).toMatchObject({ exitCode: 69, isLate: false });
  });
});

describe("hostile bytes", () => {
  test("frames come out as they went in, however they are cut", () => {
    const frame = fc.record({
      type: fc.constantFrom(...Object.values(FrameType)),
      payload: fc.uint8Array({ maxLength: 300 }),
    });
    fc.assert(
      fc.property(
        fc.array(frame, { maxLength: 8 }),
        fc.infiniteStream(fc.nat(40)),
        (frames, cuts) => {
          const bytes = Buffer.concat(
            frames.map(({ type, payload }) => encodeFrame(type, payload)),
          );
          const reader = new FrameReader();
          const read: Frame[] = [];
          for (let at = 0; at < bytes.length;) {
            const length = 1 + cuts.next().value!;
            read.push(...reader.read(bytes.subarray(at, at + length)));
            at += length;
          }
          expect(read.map(({ type, payload }) => [type, [...payload]])).toEqual(
            frames.map(({ type, payload }) => [type, [...payload]]),
          );
        },
      ),
    );
  });

  test("lengths and types that cannot be are refused before anything is kept", () => {
    const header = (length: number, type: number) => {
      const bytes = new Uint8Array(5);
      new DataView(bytes.buffer).setUint32(0, length, true);
      bytes[4] = type;
      return bytes;
    };
    expect(() => new FrameReader().read(header(2 ** 20 + 1, 1))).toThrow(/announces 1048577 bytes/);
    expect(() => new FrameReader(4096).read(header(4097, 1))).toThrow(/at most 4096/);
    expect(() => new FrameReader().read(header(0, 1))).toThrow(/announces 0 bytes/);
    expect(() => new FrameReader().read(header(1, 99))).toThrow(/frame type 99 does not exist/);
  });

  test("the server survives any bytes of strangers, and ranks join all the same", async () => {
    const server = serve(2);
    const proof = prove("", new Uint8Array(16), 0, 2);
    const hello = encodeHello({ proof, rank: 0, world: 2, facts: factsOf(0) });
    const attacks = [
      Uint8Array.of(255, 255, 255, 255, 1),
      Uint8Array.of(1, 0, 0, 0, FrameType.get),
      Uint8Array.of(5, 0, 0, 0, FrameType.hello, 1, 2, 3, 4),
      encodeFrame(FrameType.hello, new Uint8Array(60).fill(123)),
      hello.slice(0, 30),
      crypto.getRandomValues(new Uint8Array(2000)),
    ];
    for (const bytes of attacks) {
      const socket = { open: (one: Bun.Socket) => void one.write(bytes), data() {} };
      const stranger = await Bun.connect({ hostname: host, port: server.port, socket });
      await Bun.sleep(5);
      stranger.terminate();
    }
    const clients = await joinAll(server, 2);
    await clients[0]!.set("alive", new Uint8Array(1));
    expect(await clients[1]!.get("alive", 10)).toEqual(new Uint8Array(1));
  });
});
