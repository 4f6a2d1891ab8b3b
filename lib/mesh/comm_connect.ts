// How the ranks of a group find each other: the first one makes the meeting place (shared memory,
// or an id of NCCL), and tells the others through the store of the launch.

import { hostname } from "node:os";
import { gpuFacts } from "../native/gpu.ts";
import { check, native, scratch } from "../native/library.ts";
import { isNcclChosen, openNccl } from "../native/nccl.ts";
import type { Device } from "../tensor/dtype.ts";
import { putInts } from "../tensor/tensor.ts";

/** The store that the launched ranks share. */
export interface Bootstrap {
  readonly rank: number;
  readonly size: number;
  set(key: string, value: Uint8Array): Promise<void>;
  /** Waits until the key is there. */
  get(key: string): Promise<Uint8Array>;
}

export interface ConnectOptions {
  /** Seconds until all ranks must have come. Default: 300. */
  deadline?: number;
  /** Seconds that a later call may wait for the other ranks. Default: 100. */
  callDeadline?: number;
}

/** What moves the data of a group. */
export type Transport = "shm" | "nccl";

/** Where a rank runs. */
interface Place {
  readonly host: string;
  readonly pid: number;
}

/** A group that is being opened. */
interface Opening {
  readonly bootstrap: Bootstrap;
  readonly name: string;
  readonly ranks: readonly number[];
  /** This rank's place in `ranks`. */
  readonly rank: number;
  /** Of this group in the store. */
  readonly key: string;
}

let closesAtExit = false;
/** Which group of a name this is, per store: all ranks count alike. */
const counts = new WeakMap<Bootstrap, Map<string, number>>();

/** NCCL between GPUs; shared memory on the CPU, and between emulated GPUs unless NCCL is named. */
export function transportOf(device: Device): Transport {
  if (device === "cpu") return "shm";
  return gpuFacts().emulated && !isNcclChosen() ? "shm" : "nccl";
}

/** Meets the other ranks of a group; returns its native number. Fails when not all come in time. */
export async function openGroup(
  bootstrap: Bootstrap,
  name: string,
  ranks: readonly number[],
  device: Device,
  options: ConnectOptions,
): Promise<number> {
  closeAtExit();
  const rank = ranks.indexOf(bootstrap.rank);
  const opening = { bootstrap, name, ranks, rank, key: keyOf(bootstrap, name, ranks) };
  const transport = transportOf(device);
  const id = await (transport === "nccl" ? openNcclGroup(opening) : openShared(opening));
  await everybody(id, name, ranks, options.deadline ?? 300);
  if (transport === "nccl") await watchProcesses(id, opening);
  check(native().xl_comm_set_limit(id, options.callDeadline ?? 100), `group ${name}`);
  return id;
}

/** Ranks that wait for this process learn that it will not come; NCCL needs it, too. */
function closeAtExit(): void {
  if (closesAtExit) return;
  closesAtExit = true;
  process.on("exit", () => void native().xl_comm_close_all());
}

/** RangeError unless the ranks are different ones of the store, and this one is among them. */
export function checkRanks(
  { rank, size }: Bootstrap,
  name: string,
  ranks: readonly number[],
): void {
  const listed = `group ${name} of ranks ${ranks.join(", ")}`;
  if (!ranks.includes(rank)) throw new RangeError(`${listed}: rank ${rank} is not one of them`);
  const isWrong = (one: number) => !Number.isInteger(one) || one < 0 || one >= size;
  const wrong = ranks.find(isWrong);
  if (wrong !== undefined) throw new RangeError(`${listed}: ${wrong} is not below ${size}`);
  if (new Set(ranks).size < ranks.length) throw new RangeError(`${listed}: one is there twice`);
}

/** Shared memory of one host. Returns the native number. */
async function openShared({ bootstrap, name, ranks, rank, key }: Opening): Promise<number> {
  if (rank > 0) return joinShared(name, ranks, rank, decoded(await bootstrap.get(key)));
  check(native().xl_comm_segment(ranks.length), `group ${name}`);
  const [pid, fd] = scratch().numbers;
  const place = { host: hostname(), pid: pid!, fd: fd! };
  const id = joinShared(name, ranks, 0, place);
  await bootstrap.set(key, encoded(place));
  return id;
}

function joinShared(
  name: string,
  ranks: readonly number[],
  rank: number,
  { host, pid, fd }: Place & { readonly fd: number },
): number {
  if (host !== hostname()) {
    throw new Error(
      `group ${name}: rank ${ranks[0]} is on ${host}, rank ${ranks[rank]} on ${hostname()}; ` +
        "ranks on the CPU share memory, so they run on one host: use device=cuda",
    );
  }
  const bytes = putGroup(name, ranks);
  check(native().xl_comm_open_shared(pid, fd, ranks.length, rank, bytes), `group ${name}`);
  return scratch().numbers[0]!;
}

/** NCCL meets through an id of the first rank. Returns the native number. */
async function openNcclGroup({ bootstrap, name, ranks, rank, key }: Opening): Promise<number> {
  openNccl();
  let id: Uint8Array;
  if (rank === 0) {
    check(native().xl_comm_nccl_id(), `group ${name}`);
    id = scratch().text.slice(0, 128);
    await bootstrap.set(key, id);
  } else id = await bootstrap.get(key);
  scratch().text.set(id);
  const bytes = putGroup(name, ranks, id.length);
  check(native().xl_comm_open_nccl(ranks.length, rank, bytes), `group ${name}`);
  return scratch().numbers[0]!;
}

/** A rank of this host whose process ends gives the group up at once. */
async function watchProcesses(id: number, opening: Opening): Promise<void> {
  const { bootstrap, name, ranks, key } = opening;
  const host = hostname();
  await bootstrap.set(`${key}/${bootstrap.rank}`, encoded({ host, pid: process.pid }));
  const pids: number[] = [];
  for (const rank of ranks) {
    const place: Place = decoded(await bootstrap.get(`${key}/${rank}`));
    pids.push(place.host === host ? place.pid : 0);
  }
  putInts(pids);
  check(native().xl_comm_watch(id), `group ${name}`);
}

function encoded(value: object): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

function decoded<T>(bytes: Uint8Array): T {
  return JSON.parse(new TextDecoder().decode(bytes)) as T;
}

/** Name (at byte `at` of the text) and ranks into the scratch block; returns the name's bytes. */
function putGroup(name: string, ranks: readonly number[], at = 0): number {
  putInts(ranks);
  return new TextEncoder().encodeInto(name, scratch().text.subarray(at)).written;
}

function keyOf(bootstrap: Bootstrap, name: string, ranks: readonly number[]): string {
  const group = `${name}/${ranks.join(",")}`;
  const known = counts.get(bootstrap) ?? new Map<string, number>();
  counts.set(bootstrap, known);
  const count = known.get(group) ?? 0;
  known.set(group, count + 1);
  return `comm/${group}/${count}`;
}

/** Waits, without blocking this process, until all ranks have come. */
async function everybody(
  id: number,
  name: string,
  ranks: readonly number[],
  seconds: number,
): Promise<void> {
  const end = performance.now() + seconds * 1000;
  try {
    while (true) {
      check(native().xl_comm_poll(id), `group ${name}`);
      const [ready, missing] = scratch().numbers;
      if (ready === 1) return;
      if (performance.now() > end) throw new Error(lateText(name, ranks, seconds, missing!));
      await Bun.sleep(1);
    }
  } catch (error) {
    native().xl_comm_close(id);
    throw error;
  }
}

/** Names the missing ranks, whose places the last poll has left in the scratch block. */
function lateText(name: string, ranks: readonly number[], seconds: number, missing: number) {
  const late = Array.from(scratch().ints.slice(0, missing), (place) => ranks[place]!);
  const who = late.length > 0 ? `; missing ${late.join(", ")}` : "";
  return `group ${name}: not all of ranks ${ranks.join(", ")} came within ${seconds} s${who}`;
}
