// The ranks of one axis set and everything that moves data between them. Methods record no
// gradients (redistribute.ts does); results are new tensors on the device of x.
//
// All ranks of a group call the same methods in the same order, with equal shapes, dtypes and
// sites, and a rank that is in several groups orders their calls as its peers do. `site` names the
// tensor in errors and in the flight record; a rank that calls something else is an error on every
// rank that names both calls.
//
// A group on the CPU (shared memory) has done its work when a method returns. A group on GPUs
// (NCCL) works on a stream of its own; results are in order for all later work of the device.

import { putText } from "../native/gpu.ts";
import { check, native, scratch } from "../native/library.ts";
import type { Device, DType } from "../tensor/dtype.ts";
import { ShapeError, shown } from "../tensor/errors.ts";
import { dimOf, permute, reshape } from "../tensor/ops/view.ts";
import { scope } from "../tensor/scope.ts";
import { noGrad } from "../tensor/tape.ts";
import { codeOf, int32, outputs, putInts, result, type Tensor } from "../tensor/tensor.ts";
import { checkShape } from "../tensor/create.ts";
import { type Bootstrap, checkRanks, type ConnectOptions, openGroup } from "./comm_connect.ts";
import { PendingTensor } from "./comm_pending.ts";

export type { Bootstrap, ConnectOptions } from "./comm_connect.ts";

export const reductions = ["sum", "max", "min"] as const;
export type Reduction = (typeof reductions)[number];

/** What `exchange` sends. */
export interface Outgoing {
  readonly x: Tensor;
  /** Group rank. */
  readonly peer: number;
  readonly site?: string;
}

/** What `exchange` receives. The sender's tensor has this shape and dtype, and the same site. */
export interface Incoming {
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Group rank. */
  readonly peer: number;
  readonly site?: string;
}

/** How a connected group is told apart: made by `connectGroups`. */
export interface GroupFacts {
  /** Native number; 0 for a group of one rank. */
  readonly id: number;
  readonly name: string;
  /** This rank's place in the group. */
  readonly rank: number;
  /** Global ranks in group order. */
  readonly ranks: readonly number[];
  /** Where tensors that arrive without an x are made. */
  readonly device: Device;
}

export class Group implements Disposable {
  readonly name: string;
  readonly size: number;
  /** This rank's place in the group. */
  readonly rank: number;
  /** Global ranks in group order. */
  readonly ranks: readonly number[];
  readonly device: Device;
  #id: number;
  #disposed = false;

  /** Use `connectGroups` or `Group.local`. */
  constructor({ id, name, rank, ranks, device }: GroupFacts) {
    this.name = name;
    this.size = ranks.length;
    this.rank = rank;
    this.ranks = Object.freeze([...ranks]);
    this.device = device;
    this.#id = id;
  }

  /** A group of one rank: it never goes native, and its results share the memory of x. */
  static local(name = "local", device: Device = "cpu"): Group {
    return new Group({ id: 0, name, rank: 0, ranks: [0], device });
  }

  /**
   * A group whose other ranks do not exist, for plans and for checks of what many ranks call: it
   * records and gives back what equal ranks would; what others send is zero. `rank`: place in
   * `ranks`.
   */
  static fake(name: string, ranks: readonly number[], rank: number, device: Device = "cpu"): Group {
    putInts(ranks);
    const bytes = putText(name);
    check(native().xl_comm_open_fake(ranks.length, rank, bytes), "Group.fake");
    const id = scratch().numbers[0]!;
    check(native().xl_comm_poll(id), "Group.fake");
    return new Group({ id, name, rank, ranks, device });
  }

  /**
   * Throws at the first place where the calls of fake groups, one per rank and in order, would make
   * real ranks wait for each other forever, and names both calls.
   */
  static checkSequences(groups: readonly Group[]): void {
    putInts(groups.map((group) => group.#id));
    check(native().xl_comm_check_fakes(groups.length), "checkSequences");
  }

  /** Sum (default), maximum or minimum over the ranks. On the CPU with the same bits everywhere. */
  allReduce(x: Tensor, options: { op?: Reduction; site?: string } = {}): Tensor {
    return this.startAllReduce(x, options).join();
  }

  /** Everybody's x, concatenated along `dim` in group order. */
  allGather(x: Tensor, dim: number, site = ""): Tensor {
    if (this.#alone()) return x.detach();
    const at = dimOf(x, dim, "allGather");
    if (at === 0 || x.shape.slice(0, at).every((size) => size === 1)) {
      return this.#shaped(
        () => this.startAllGather(x, site).join(),
        joined(x.shape, at, this.size),
      );
    }
    return moved(() => {
      const parts = reshape(this.startAllGather(x, site).join(), [this.size, ...x.shape]);
      return reshape(permute(parts, orderTo(x.rank + 1, 0, at)), joined(x.shape, at, this.size));
    });
  }

  /** The sum over the ranks, of which this rank gets part `rank` of `dim`. */
  reduceScatter(x: Tensor, dim: number, site = ""): Tensor {
    return this.startReduceScatter(x, dim, site).join();
  }

  /** Part s of `splitDim` goes to rank s; what comes is concatenated along `joinDim`. */
  allToAll(x: Tensor, splitDim: number, joinDim: number, site = ""): Tensor {
    if (this.#alone()) return x.detach();
    const at = dimOf(x, splitDim, "allToAll");
    const to = dimOf(x, joinDim, "allToAll");
    const shape = this.#part(x, at, "allToAll");
    return moved(() => {
      const parts = partsFirst(x, at, this.size);
      const length = this.#site(site);
      const status = native().xl_comm_all_to_all(this.#native(), parts.handle, length);
      const got = result(status, "allToAll");
      return reshape(permute(got, orderTo(x.rank + 1, 0, to)), joined(shape, to, this.size));
    });
  }

  /** Writes the values of group rank `root` into x on every rank. */
  broadcast_(x: Tensor, root: number, site = ""): void {
    if (this.#alone()) return;
    const length = this.#site(site);
    const from = int32(root, "a group rank");
    check(native().xl_comm_broadcast(this.#native(), x.handle, from, length), "broadcast");
  }

  /**
   * Sends x to group rank `peer`, which must receive it. May return before it has arrived, and may
   * wait until it is being received: ranks that send to each other use `exchange`.
   */
  send(x: Tensor, peer: number, site?: string): void {
    this.exchange({ x, peer, site: site ?? "" }, undefined);
  }

  /** The tensor that group rank `peer` sends next; shape, dtype and site must be the sender's. */
  receive(shape: readonly number[], dtype: DType, peer: number, site?: string): Tensor {
    return this.exchange(undefined, { shape, dtype, peer, site: site ?? "" })!;
  }

  /** Sends and receives at the same time, so that neither waits for the other. */
  exchange(out: Outgoing | undefined, into: Incoming): Tensor;
  exchange(out: Outgoing | undefined, into: Incoming | undefined): Tensor | undefined;
  exchange(out: Outgoing | undefined, into: Incoming | undefined): Tensor | undefined {
    if (into) checkShape(into.shape, "receive");
    const sites = [out?.site ?? "", into?.site ?? ""].map((site, i, all) =>
      this.#site(site, i === 0 ? 0 : byteLength(all[0]!)),
    );
    const status = native().xl_comm_exchange(
      this.#native(),
      out ? out.x.handle : 0,
      int32(out?.peer ?? 0, "a group rank"),
      sites[0]!,
      into ? int32(into.peer, "a group rank") : -1,
      into ? putInts(into.shape) : 0,
      codeOf(into?.dtype ?? "f32"),
      sites[1]!,
    );
    check(status, out && into ? "exchange" : out ? "send" : "receive");
    if (!into) return undefined;
    return outputs(1)[0]!;
  }

  /** Returns when every rank has come. On GPUs the work that is asked of them goes on. */
  barrier(site = ""): void {
    if (this.#alone()) return;
    check(native().xl_comm_barrier(this.#native(), this.#site(site)), "barrier");
  }

  /**
   * `allReduce` that on a GPU runs beside the work that follows, until `join`. On the CPU it is
   * done at once.
   */
  startAllReduce(x: Tensor, options: { op?: Reduction; site?: string } = {}): PendingTensor {
    if (this.#alone()) return new PendingTensor(x.detach());
    const op = reductions.indexOf(options.op ?? "sum");
    if (op < 0) {
      throw new RangeError(`allReduce: "${options.op}" is not one of ${reductions.join(", ")}`);
    }
    const length = this.#site(options.site ?? "");
    const status = native().xl_comm_all_reduce(this.#native(), x.handle, op, length);
    return PendingTensor.of(status, "allReduce");
  }

  /** As `allGather` along dim 0, beside the work that follows on a GPU; a number becomes [n]. */
  startAllGather(x: Tensor, site = ""): PendingTensor {
    if (this.#alone()) return new PendingTensor(x.detach());
    const length = this.#site(site);
    const status = native().xl_comm_all_gather(this.#native(), x.handle, length);
    return PendingTensor.of(status, "allGather");
  }

  /** As `reduceScatter`, beside the work that follows on a GPU. */
  startReduceScatter(x: Tensor, dim: number, site = ""): PendingTensor {
    if (this.#alone()) return new PendingTensor(x.detach());
    const at = dimOf(x, dim, "reduceScatter");
    const shape = this.#part(x, at, "reduceScatter");
    if (at === 0) return this.#startReduceScatter(x, site);
    using parts = moved(() => reshape(partsFirst(x, at, this.size), [this.size, -1]));
    return this.#startReduceScatter(parts, site).shaped(shape);
  }

  #startReduceScatter(x: Tensor, site: string): PendingTensor {
    const length = this.#site(site);
    const status = native().xl_comm_reduce_scatter(this.#native(), x.handle, length);
    return PendingTensor.of(status, "reduceScatter");
  }

  /**
   * A group of the ranks that give an equal color, ordered by key and then as here; undefined for a
   * negative color. All ranks of this group call it. Waits for them, unlike `connectGroups`.
   */
  split(color: number, key: number, name: string): Group | undefined {
    if (this.#alone()) return color < 0 ? undefined : Group.local(name, this.device);
    const length = this.#site(name);
    const [own, order] = [int32(color, "a color"), int32(key, "a key")];
    check(native().xl_comm_split(this.#native(), own, order, length), "split");
    const [id, rank, size] = scratch().numbers;
    if (id === 0) return undefined;
    const ranks = Array.from(scratch().ints.slice(0, size));
    return new Group({ id: id!, name, rank: rank!, ranks, device: this.device });
  }

  /** How long a call may wait for the other ranks; then it fails, and names those that are late. */
  setDeadline(seconds: number): void {
    if (!this.#alone()) check(native().xl_comm_set_limit(this.#native(), seconds), "setDeadline");
  }

  /**
   * Gives the group up: whoever waits in it fails with the reason. On the CPU on every rank at
   * once; on GPUs here, and on the others when they notice: tell them through the launch.
   */
  abort(reason: string): void {
    if (this.#alone()) return;
    check(native().xl_comm_abort(this.#native(), this.#site(reason)), "abort");
  }

  /** Lets go of the group. Other ranks that still wait for this one fail. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#id > 0) check(native().xl_comm_close(this.#id), "dispose");
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #alone(): boolean {
    if (this.#disposed) throw new Error(`group ${this.name} was disposed of`);
    return this.size === 1;
  }

  #native(): number {
    if (this.#alone()) {
      throw new RangeError(`group ${this.name} has one rank: there is nobody to talk to`);
    }
    return this.#id;
  }

  /** Writes a text into the scratch block; returns its bytes. */
  #site(text: string, at = 0): number {
    const { text: block } = scratch();
    const { written } = new TextEncoder().encodeInto(text, block.subarray(at, at + 1024));
    return written;
  }

  /** Shape of one rank's part of `dim`. */
  #part(x: Tensor, dim: number, operation: string): readonly number[] {
    const size = x.shape[dim] ?? 0;
    if (x.rank > 0 && size % this.size === 0) return x.shape.with(dim, size / this.size);
    const parts = `${this.size} equal parts for group ${this.name}`;
    throw new ShapeError(
      `${operation}: dim ${dim} of ${shown(x.shape)} does not split into ${parts}`,
    );
  }

  /** A result whose elements are in order already, in its shape. */
  #shaped(body: () => Tensor, shape: readonly number[]): Tensor {
    const made = body();
    if (made.rank === shape.length && shape.every((size, i) => size === made.shape[i])) return made;
    using flat = made;
    return noGrad(() => reshape(flat, shape));
  }
}

/**
 * Joins the group of the global `ranks`, in group order. All of them call this, with equal
 * arguments and in the same order for all groups. Fails when not all have come in time.
 */
export async function connectGroups(
  bootstrap: Bootstrap,
  name: string,
  ranks: readonly number[],
  device: Device,
  options: ConnectOptions = {},
): Promise<Group> {
  checkRanks(bootstrap, name, ranks);
  const rank = ranks.indexOf(bootstrap.rank);
  const id = ranks.length > 1 ? await openGroup(bootstrap, name, ranks, device, options) : 0;
  return new Group({ id, name, rank, ranks, device });
}

/** Runs `body` unrecorded; only its result lives on. */
function moved(body: () => Tensor): Tensor {
  return noGrad(() => scope(body));
}

/** `shape` with `dim` n times as long. */
function joined(shape: readonly number[], dim: number, n: number): readonly number[] {
  return shape.length === 0 ? [n] : shape.with(dim, shape[dim]! * n);
}

/** The order of dims that moves dim `from` to place `to`. */
function orderTo(rank: number, from: number, to: number): number[] {
  const rest = Array.from({ length: rank }, (_, i) => i).filter((i) => i !== from);
  return rest.toSpliced(to, 0, from);
}

/** x as [n, …part]: its parts along `dim`, one after the other. */
function partsFirst(x: Tensor, dim: number, n: number): Tensor {
  const size = x.shape[dim]!;
  const split = reshape(x, [...x.shape.slice(0, dim), n, size / n, ...x.shape.slice(dim + 1)]);
  return permute(split, orderTo(x.rank + 1, dim, 0));
}

function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}
