// One rank of a mesh whose other ranks do not exist: its calls are recorded, and get what equal
// ranks would give.

import { flightRecord } from "../../lib/mesh/comm_record.ts";
import { Group } from "../../lib/mesh/group.ts";
import type { Mesh } from "../../lib/mesh/mesh.ts";
import { type Axis, axes, type Topology } from "../../lib/mesh/topology.ts";
import { check, native, scratch } from "../../lib/native/library.ts";
import { putInts } from "../../lib/tensor/tensor.ts";

export class FakeMesh implements Disposable {
  readonly device = "cpu";
  readonly topology: Topology;
  readonly rank: number;
  readonly #groups = new Map<string, Group>();
  readonly #first: number;

  constructor(topology: Topology, rank: number) {
    this.topology = topology;
    this.rank = rank;
    check(native().xl_comm_record(0), "record");
    this.#first = scratch().numbers[2]!;
  }

  /** As a mesh that was joined. */
  get mesh(): Mesh {
    return this as unknown as Mesh;
  }

  get world(): Group {
    return this.group(...axes);
  }

  size(axis: Axis): number {
    return this.topology.size(axis);
  }

  coordinate(axis: Axis): number {
    return this.topology.coordinate(this.rank, axis);
  }

  group(...over: Axis[]): Group {
    const name = axes.filter((axis) => over.includes(axis)).join("+");
    let group = this.#groups.get(name);
    if (!group) this.#groups.set(name, (group = this.#open(name, over)));
    return group;
  }

  #open(name: string, over: readonly Axis[]): Group {
    const ranks = this.topology.group(this.rank, over);
    const rank = ranks.indexOf(this.rank);
    let id = 0;
    if (ranks.length > 1) {
      putInts(ranks);
      const { written } = new TextEncoder().encodeInto(name, scratch().text);
      check(native().xl_comm_open_fake(ranks.length, rank, written), "fake group");
      id = scratch().numbers[0]!;
      check(native().xl_comm_poll(id), "fake group");
    }
    return new Group({ id, name, rank, ranks, device: "cpu" });
  }

  /** Nobody watches. */
  heartbeat(): void {}

  /** What was called since this mesh was made, as plans print it; messages one by one. */
  calls(): string[] {
    return flightRecord(this.#first).map((line) => {
      const { op, group, reduction, dtype, count, site } = JSON.parse(line) as Record<
        string,
        string
      >;
      const of = reduction === undefined || reduction === "sum" ? "" : `${reduction} of `;
      return `${op}[${group}] (${site}, ${of}${count} ${dtype})`;
    });
  }

  [Symbol.dispose](): void {
    for (const group of this.#groups.values()) group.dispose();
  }
}

/** A planned operation as one call, or as the two of an exchange. */
export function asCalls(operation: string): string[] {
  const [, rest, sent, received, size] =
    /^exchange(\[.+?\]) \((.+) for (.+), (\d+ \w+)\)$/.exec(operation) ?? [];
  if (rest === undefined) return [operation];
  return [`send${rest} (${sent}, ${size})`, `receive${rest} (${received}, ${size})`];
}
