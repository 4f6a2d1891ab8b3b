// What one rank of a mesh calls: its other ranks do not exist.

import { flightRecord } from "../../lib/mesh/comm_record.ts";
import { Mesh } from "../../lib/mesh/mesh.ts";
import type { Topology } from "../../lib/mesh/topology.ts";
import { check, native, scratch } from "../../lib/native/library.ts";

export class FakeMesh implements Disposable {
  readonly mesh: Mesh;
  readonly #first: number;

  constructor(topology: Topology, rank: number) {
    check(native().xl_comm_record(0), "record");
    this.#first = scratch().numbers[2]!;
    this.mesh = Mesh.fake(topology, rank);
  }

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
    this.mesh.dispose();
  }
}

/** A planned operation as one call, or as the two of an exchange. */
export function asCalls(operation: string): string[] {
  const [, rest, sent, received, size] =
    /^exchange(\[.+?\]) \((.+) for (.+), (\d+ \w+)\)$/.exec(operation) ?? [];
  if (rest === undefined) return [operation];
  return [`send${rest} (${sent}, ${size})`, `receive${rest} (${received}, ${size})`];
}
