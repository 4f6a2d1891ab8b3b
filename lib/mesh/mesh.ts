// The mesh of this run: which rank this process is, and the groups it talks in.
//
//   const ranks = await mesh({ dp: 2, tp: 2 }, { device: "auto", recipe: settings });
//   await ranks.run(async () => {
//     ranks.group("tp").allReduce(x);
//     ranks.heartbeat(step, "forward");
//   });

import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, hostname } from "node:os";
import { join as joinPath } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import { asError } from "../launch/client.ts";
import {
  detectEnvironment,
  gpuOrdinal,
  type RankFlags,
  visibleGpus,
} from "../launch/environment.ts";
import { LaunchError, PeerError } from "../launch/errors.ts";
import { type Deadlines, defaultDeadlines, limitOf, type Phase } from "../launch/phases.ts";
import { join, type JoinOptions, type Rendezvous } from "../launch/rendezvous.ts";
import { integer } from "../launch/variables.ts";
import { warnUser } from "../log/index.ts";
import { NativeError } from "../native/errors.ts";
import { configure, native, options as nativeOptions } from "../native/library.ts";
import { abiHash } from "../native/symbols.ts";
import { currentDevice, useDevice } from "../tensor/device.ts";
import type { Device } from "../tensor/dtype.ts";
import { flightRecord, setRecordedStep } from "./comm_record.ts";
import { connectGroups, Group } from "./group.ts";
import { type Axis, type MeshSizes, Topology } from "./topology.ts";

export interface MeshOptions extends Omit<JoinOptions, "facts"> {
  /** Axes, outermost first. Default: pp, dp, fsdp, cp, tp. */
  readonly order?: readonly Axis[] | undefined;
  /** Where the ranks compute; becomes the default device. Default: what that is now. */
  readonly device?: Device | "auto" | undefined;
  /** Settings that must be equal on all ranks. */
  readonly recipe?: unknown;
  /** Rank, world, local rank, master; they win over the environment. */
  readonly flags?: RankFlags | undefined;
  /** Axis sets whose groups are made. Default: all. */
  readonly groups?: readonly (readonly Axis[])[] | undefined;
  /** Folder for the last operations of every rank when the run ends because of a peer. */
  readonly records?: string | undefined;
}

/**
 * Joins the ranks that were started together and makes their groups; without a launcher, one rank.
 * Every rank calls this with the same arguments. Rejects on all ranks, with one text: a LaunchError
 * for sizes that do not fit the number of ranks or for ranks that run different things, a PeerError
 * for ranks that are missing.
 */
export async function mesh(sizes: MeshSizes, options: MeshOptions = {}): Promise<Mesh> {
  const variables = options.variables ?? process.env;
  const place = detectEnvironment(variables, options.flags, productOf(sizes));
  if (place.rank === 0 && place.conflict) warnUser(place.conflict);
  if (place.world > 1) spread(place.localRank, place.localWorld, options);
  const topology = fitted(sizes, place.world, options.order);
  const device = useDevice(options.device ?? currentDevice());
  if (place.world === 1) return new Mesh(topology, 0, device);
  const facts = {
    host: hostname(),
    pid: process.pid,
    device,
    version: manifest.version,
    abi: String(abiHash),
    recipe: hashOf(options.recipe),
  };
  const run = await join(place, { ...options, facts });
  try {
    const groups = await guarded(run, connectAll(run, topology, device, options));
    return new Mesh(topology, place.rank, device, { run, groups, options });
  } catch (error) {
    const isPeers = isOfPeers(error);
    const ending = run.ending ?? (await run.fail(messageOf(error), !isPeers, isPeers ? 3 : 0.5));
    run.leave();
    throw ending && isPeers ? asError(ending) : error;
  }
}

/**
 * Part of a phase's limit that a rank may wait inside of a collective: it gives up before rank 0
 * finds that nobody moves, because it knows in which operation, and for whom, it waits.
 */
const waitPart = 0.95;

interface Connected {
  /** Missing where nobody else is. */
  readonly run?: Rendezvous;
  readonly groups: ReadonlyMap<string, Group>;
  readonly options?: MeshOptions;
}

export class Mesh implements Disposable {
  readonly topology: Topology;
  readonly rank: number;
  readonly device: Device;
  /** All ranks. */
  readonly world: Group;
  readonly #run: Rendezvous | undefined;
  readonly #groups: ReadonlyMap<string, Group>;
  readonly #deadlines: Deadlines;
  readonly #records: string | undefined;
  /** The first step of this run. */
  #first: number | undefined;
  #limit: number | undefined;
  #isDisposed = false;

  /** Use `mesh`, `Mesh.single` or `Mesh.fake`. */
  constructor(topology: Topology, rank: number, device: Device, connected?: Connected) {
    this.topology = topology;
    this.rank = rank;
    this.device = device;
    this.#run = connected?.run;
    this.#groups = connected?.groups ?? new Map();
    this.#deadlines = { ...defaultDeadlines, ...connected?.options?.deadlines };
    this.#records = connected?.options?.records;
    this.world = this.group(...topology.order);
  }

  /** One rank, no processes. */
  static single(device: Device = currentDevice()): Mesh {
    return new Mesh(new Topology({}, { world: 1 }), 0, device);
  }

  /**
   * A rank of a mesh whose other ranks do not exist (`Group.fake`): it does all that it would do
   * but wait for them.
   */
  static fake(topology: Topology, rank: number, device: Device = "cpu"): Mesh {
    const groups = new Map<string, Group>();
    for (const axes of subsets(topology)) {
      const name = nameOf(topology, axes);
      const ranks = topology.group(rank, axes);
      if (name) groups.set(name, Group.fake(name, ranks, ranks.indexOf(rank), device));
    }
    return new Mesh(topology, rank, device, { groups });
  }

  /** Ranks along an axis. */
  size(axis: Axis): number {
    return this.topology.size(axis);
  }

  /** This rank's place on an axis, from 0. */
  coordinate(axis: Axis): number {
    return this.topology.coordinate(this.rank, axis);
  }

  /** The ranks that equal this one on every other axis, in order. */
  group(...axes: Axis[]): Group {
    const name = nameOf(this.topology, axes);
    if (name === "") return Group.local(axes.join("+") || "local", this.device);
    const group = this.#groups.get(name);
    if (group) return group;
    const known = [...this.#groups.keys()].join(", ");
    throw new RangeError(`mesh: no group ${name} was made; there are ${known}: add it to "groups"`);
  }

  /**
   * Tells the other ranks where this one is; once at every change of phase is enough. Throws a
   * PeerError when the run must end: a rank is lost, stuck, or has failed.
   */
  heartbeat(step: number, phase: Phase): void {
    if (!this.#run) return;
    if (phase !== "init") this.#first ??= step;
    const limit = limitOf(this.#deadlines, { step, phase }, this.#first);
    if (limit !== this.#limit) {
      this.#limit = limit;
      for (const group of this.#groups.values()) group.setDeadline(waitPart * limit);
    }
    setRecordedStep(step);
    this.#run.heartbeat(step, phase);
  }

  /**
   * Runs this rank's part and leaves. When a collective fails because of other ranks, throws a
   * PeerError (exit code 69) with one line that all ranks share: who is behind, where, and who
   * waits in which operation. When this rank fails for a reason of its own, the others are told,
   * and the error is thrown as it is.
   */
  async run<T>(body: () => Promise<T> | T): Promise<T> {
    try {
      return await body();
    } catch (error) {
      throw await this.explain(error);
    } finally {
      this.dispose();
    }
  }

  /** The error to end with, after the other ranks were told; `run` does this by itself. */
  async explain(error: unknown): Promise<unknown> {
    const run = this.#run;
    if (!run || this.#isDisposed) return error;
    const isPeers = isOfPeers(error);
    if (isPeers) this.#keepRecord();
    const reason = messageOf(error);
    const ending = run.ending ?? (await run.fail(reason, !isPeers, isPeers ? 3 : 0.5));
    for (const group of this.#groups.values()) group.abort(ending?.reason ?? reason);
    if (!isPeers) return error;
    return new PeerError(ending?.reason ?? reason, ending?.exitCode, { cause: error });
  }

  /** Lets go of the groups and leaves the run; rank 0 waits for the others to leave. */
  dispose(): void {
    this.#isDisposed = true;
    try {
      for (const group of this.#groups.values()) group.dispose();
    } finally {
      this.#run?.leave();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #keepRecord(): void {
    if (this.#records === undefined) return;
    try {
      mkdirSync(this.#records, { recursive: true });
      const path = joinPath(this.#records, `operations-rank-${this.rank}.jsonl`);
      writeFileSync(path, `${flightRecord().join("\n")}\n`);
    } catch (error) {
      warnUser(`the last operations are not kept: ${messageOf(error)}`);
    }
  }
}

/** The axes of a set that have more than one rank, outermost first: `dp+tp`; "" for none. */
function nameOf(topology: Topology, axes: readonly Axis[]): string {
  return topology.order.filter((axis) => axes.includes(axis) && topology.size(axis) > 1).join("+");
}

/** All groups of this rank, made in the same order on every rank. */
async function connectAll(
  run: Rendezvous,
  topology: Topology,
  device: Device,
  options: MeshOptions,
): Promise<ReadonlyMap<string, Group>> {
  const sets = [...(options.groups ?? subsets(topology)), topology.order];
  const names = new Map(sets.map((axes) => [nameOf(topology, axes), axes]));
  names.delete("");
  const groups = new Map<string, Group>();
  const { init } = { ...defaultDeadlines, ...options.deadlines };
  const deadlines = { deadline: init, callDeadline: init };
  for (const [name, axes] of names) {
    const ranks = topology.group(run.rank, axes);
    groups.set(name, await connectGroups(run, name, ranks, device, deadlines));
  }
  return groups;
}

/** All sets of the axes that have more than one rank. */
function subsets(topology: Topology): Axis[][] {
  const used = topology.order.filter((axis) => topology.size(axis) > 1);
  const count = 2 ** used.length;
  return Array.from({ length: count }, (_, bits) => used.filter((_, at) => (bits >> at) % 2 === 1));
}

/** `work`, or the end of the run if that comes first. */
async function guarded<T>(run: Rendezvous, work: Promise<T>): Promise<T> {
  const end = Promise.withResolvers<never>();
  const look = () => void (run.ending && end.reject(asError(run.ending)));
  const timer = setInterval(look, 20);
  try {
    return await Promise.race([work, end.promise]);
  } catch (error) {
    // Connecting goes on until its groups are gone.
    native().xl_comm_close_all();
    await work.catch(() => {});
    throw error;
  } finally {
    clearInterval(timer);
  }
}

/** Sizes that fit the number of ranks. */
function fitted(sizes: MeshSizes, world: number, order: readonly Axis[] | undefined): Topology {
  try {
    return new Topology(sizes, order ? { world, order } : { world });
  } catch (error) {
    if (!(error instanceof NativeError || error instanceof RangeError)) throw error;
    const wanted = productOf(sizes);
    const hint =
      wanted !== undefined && wanted > 1 && world === 1
        ? `; start ${wanted} ranks: bun run launch -n ${wanted} ...`
        : "";
    throw new LaunchError(`${messageOf(error)}${hint}`);
  }
}

/** Ranks that the sizes ask for; undefined when one of them is to be inferred. */
function productOf(sizes: MeshSizes): number | undefined {
  const product = Object.values(sizes).reduce<number>((all, size) => all * (size ?? 1), 1);
  return product > 0 ? product : undefined;
}

/** The ranks of a host share its GPUs and its cores, unless someone has decided otherwise. */
function spread(localRank: number, localWorld = 1, { device, variables }: MeshOptions): void {
  const environment = variables ?? process.env;
  const wantsGpu = device === "cuda" || (device === "auto" && visibleGpus(environment) !== 0);
  if (wantsGpu && nativeOptions.gpu === undefined) {
    nativeOptions.gpu = gpuOrdinal(localRank, environment);
  }
  if (nativeOptions.threads !== undefined || environment["XL_THREADS"]) return;
  const share = Math.max(1, Math.floor(availableParallelism() / localWorld));
  configure({ threads: integer(environment, "SLURM_CPUS_PER_TASK") ?? share });
}

function isOfPeers(error: unknown): boolean {
  if (error instanceof PeerError) return true;
  return error instanceof NativeError && ["aborted", "timeout", "nccl"].includes(error.code);
}

function hashOf(recipe: unknown): string {
  if (recipe === undefined) return "none";
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify(recipe));
  return hash.digest("hex").slice(0, 12);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
