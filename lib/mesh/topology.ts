// The mesh of ranks (mesh.md §3): named axes, coordinates, and the groups of ranks that differ on
// some axes only. Pure: it needs no processes, and every rank can ask about every other one.
//
//   const topology = new Topology({ dp: -1, fsdp: 8, tp: 2 }, { world: 32 });
//   topology.group(5, ["fsdp"])   // ranks that equal rank 5 on every other axis

import { check, native, scratch } from "../native/library.ts";
import { int32, putInts } from "../tensor/tensor.ts";
import { takeList } from "./lists.ts";

/** Default order, outermost first: pipeline stages, replicas, shards, sequence, layers. */
export const axes = ["pp", "dp", "fsdp", "cp", "tp"] as const;
export type Axis = (typeof axes)[number];

/** Ranks per axis, 1 by default; one may be -1, and is then what the others leave. */
export type MeshSizes = { [axis in Axis]?: number };

export interface TopologyOptions {
  /** Number of ranks. */
  readonly world: number;
  /** Outermost first. Axes that it does not name have one rank. Default: `axes`. */
  readonly order?: readonly Axis[];
}

export class Topology {
  readonly world: number;
  /** All axes, outermost first: neighbours on the last one are neighbouring ranks. */
  readonly order: readonly Axis[];
  readonly #sizes: readonly number[];
  readonly #codes: readonly number[];

  /** Throws a NativeError that names the numbers when they do not fit each other. */
  constructor(sizes: MeshSizes, { world, order = axes }: TopologyOptions) {
    this.world = int32(world, "a number of ranks");
    const given = axes.map((axis) => int32(sizes[axis] ?? 1, `the size of ${axis}`));
    this.order = Object.freeze([...order, ...withoutPlace(order, given)]);
    this.#codes = this.order.map((axis) => axes.indexOf(axis));
    putInts([...given, ...this.#codes]);
    check(native().xl_mesh_sizes(this.world), "mesh");
    this.#sizes = [...scratch().numbers.subarray(0, axes.length)];
  }

  /** Ranks along an axis. */
  size(axis: Axis): number {
    return this.#sizes[axes.indexOf(axis)]!;
  }

  /** Sizes of all axes. */
  get sizes(): Readonly<Record<Axis, number>> {
    const entries = axes.map((axis, i) => [axis, this.#sizes[i]!]);
    return Object.fromEntries(entries) as Record<Axis, number>;
  }

  /** Coordinate of a rank on an axis, from 0. */
  coordinate(rank: number, axis: Axis): number {
    this.give();
    const status = native().xl_mesh_coordinates(this.world, int32(rank, "a rank"));
    check(status, "coordinate");
    return scratch().numbers[axes.indexOf(axis)]!;
  }

  /** The rank at these coordinates; 0 on axes that are not named. */
  rankOf(coordinates: Partial<Record<Axis, number>>): number {
    this.give(axes.map((axis) => int32(coordinates[axis] ?? 0, `a coordinate of ${axis}`)));
    check(native().xl_mesh_rank(this.world), "rankOf");
    return scratch().numbers[0]!;
  }

  /** Ranks that equal `rank` on every axis but `axes`, itself included, in rising order. */
  group(rank: number, over: readonly Axis[]): readonly number[] {
    this.give();
    const bits = over.reduce((set, axis) => set | (1 << axes.indexOf(axis)), 0);
    return takeList(native().xl_mesh_group(this.world, int32(rank, "a rank"), bits), "group");
  }

  /** Makes this mesh, and `more` numbers, what the next call of native code is about. */
  give(more: readonly number[] = []): void {
    putInts([...this.#sizes, ...this.#codes, ...more]);
  }
}

/** Axes of one rank have no need of a place in the order. */
function withoutPlace(order: readonly Axis[], sizes: readonly number[]): Axis[] {
  const unknown = order.filter((axis) => !axes.includes(axis));
  if (unknown.length > 0) {
    throw new RangeError(
      `mesh: the order names ${unknown.join(", ")}; axes are ${axes.join(", ")}`,
    );
  }
  const missing = axes.filter((axis) => !order.includes(axis));
  const used = missing.filter((axis) => sizes[axes.indexOf(axis)] !== 1);
  if (used.length > 0) {
    throw new RangeError(
      `mesh: the order ${order.join(", ")} has no place for ${used.join(", ")}; add it`,
    );
  }
  return missing;
}
