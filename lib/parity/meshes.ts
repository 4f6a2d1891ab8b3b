// Which meshes the parity table has (mesh.md §22), and how the ranks of one launch form each of
// them.

import type { Rendezvous } from "../launch/rendezvous.ts";
import { type Group, connectGroups } from "../mesh/group.ts";
import { Mesh } from "../mesh/mesh.ts";
import { type Axis, type MeshSizes, Topology } from "../mesh/topology.ts";
import type { Device } from "../tensor/index.ts";

/** Ranks along pp, dp, fsdp, tp: one digit each. */
const digits: readonly Axis[] = ["pp", "dp", "fsdp", "tp"];

/** All power-of-two meshes of 1, 2, 4 and 8 ranks. */
export const allMeshes = [
  "1111",
  ..."2111 1211 1121 1112".split(" "),
  ..."4111 1411 1141 1114 2211 2121 2112 1221 1212 1122".split(" "),
  ..."8111 1811 1181 1118 4211 4121 4112 2411 1421 1412".split(" "),
  ..."2141 1241 1142 2114 1214 1124 2221 2212 2122 1222".split(" "),
] as const;

/** A third of them: every axis alone and with every other one, and all four of 8 ranks. */
export const someMeshes = [
  ..."1111 2111 1211 1121 1112 2121 2112 1122".split(" "),
  ..."4111 2221 2212 1222".split(" "),
] as const;

/** Sizes of a mesh that is written as four digits. RangeError for others. */
export function sizesOf(name: string): MeshSizes & { readonly world: number } {
  if (!/^[1-9]{4}$/.test(name)) {
    throw new RangeError(`${name} is no mesh: expected four digits, the ranks of pp dp fsdp tp`);
  }
  const counts = [...name].map(Number);
  const sizes = Object.fromEntries(digits.map((axis, i) => [axis, counts[i]!]));
  return { ...sizes, world: counts.reduce((product, count) => product * count, 1) };
}

/** Groups that training talks in. */
const sets: readonly (readonly Axis[])[] = [["pp"], ["dp"], ["fsdp"], ["tp"], ["pp", "tp"]];

/** A mesh of the first ranks of a run. Its groups end with it, the run goes on. */
export class SubMesh implements Disposable {
  readonly name: string;
  readonly mesh: Mesh;
  readonly #groups: readonly Group[];

  private constructor(name: string, mesh: Mesh, groups: readonly Group[]) {
    this.name = name;
    this.mesh = mesh;
    this.#groups = groups;
  }

  /**
   * Every rank of the run calls this; undefined on those that the mesh has no place for. Without a
   * run, a mesh of one rank.
   */
  static async of(
    run: Rendezvous | undefined,
    name: string,
    device: Device,
  ): Promise<SubMesh | undefined> {
    const { world, ...sizes } = sizesOf(name);
    if (!run || world === 1) {
      return (run?.rank ?? 0) === 0
        ? new SubMesh(name, single(name, world, device), [])
        : undefined;
    }
    if (run.rank >= world) return undefined;
    const topology = new Topology(sizes, { world });
    const groups = new Map<string, Group>();
    for (const axes of [...sets, topology.order]) {
      const used = topology.order.filter((axis) => axes.includes(axis) && topology.size(axis) > 1);
      const key = used.join("+");
      if (key === "" || groups.has(key)) continue;
      const ranks = topology.group(run.rank, used);
      groups.set(key, await connectGroups(run, `${name} ${key}`, ranks, device));
    }
    const mesh = new Mesh(topology, run.rank, device, { run, groups, options: {} });
    return new SubMesh(name, mesh, [...groups.values()]);
  }

  [Symbol.dispose](): void {
    for (const group of this.#groups) group.dispose();
  }
}

function single(name: string, world: number, device: Device): Mesh {
  if (world === 1) return Mesh.single(device);
  throw new RangeError(`mesh ${name} needs ${world} ranks, and there is one`);
}
