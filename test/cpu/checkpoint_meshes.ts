// A small model of parameters on any mesh, as the ranks of a training run hold it: split over tp,
// as flat units over fsdp, by stages over pp, copied over the rest.

import type { Piece } from "../../lib/checkpoint/shared.ts";
import { place, type Placement, type Split } from "../../lib/mesh/placement.ts";
import { type Axis, type MeshSizes, Topology } from "../../lib/mesh/topology.ts";
import { flatUnit, ownedRange } from "../../lib/mesh/units.ts";
import { bytesOf, type GlobalTensor, globalTensor, localBytes } from "../pure/checkpoint_ranks.ts";

/** A mesh with its ranks, e.g. `pp2 tp4`. */
export class TestMesh {
  readonly name: string;
  readonly topology: Topology;
  readonly #held: (readonly Held[])[] = [];

  constructor(sizes: MeshSizes, order?: readonly Axis[]) {
    const world = Object.values(sizes).reduce((product, size) => product * size, 1);
    this.topology = new Topology(sizes, order ? { world, order } : { world });
    const used = Object.entries(sizes).filter(([, size]) => size > 1);
    this.name = used.map(([axis, size]) => `${axis}${size}`).join(" ") || "1";
    if (order) this.name += ` ${order.join(" ")}`;
  }

  get world(): number {
    return this.topology.world;
  }

  /** What a rank has. */
  heldBy(rank: number): readonly Held[] {
    return (this.#held[rank] ??= heldBy(this.topology, rank));
  }
}

/** The 35 meshes of mesh.md §22 and some that are no powers of two. */
export function testMeshes(): TestMesh[] {
  const meshes: TestMesh[] = [];
  const powers = [1, 2, 4, 8];
  for (const pp of powers) {
    for (const dp of powers) {
      for (const fsdp of powers) {
        for (const tp of powers) {
          if (pp * dp * fsdp * tp <= 8) meshes.push(new TestMesh({ pp, dp, fsdp, tp }));
        }
      }
    }
  }
  const odd: MeshSizes[] = [
    { fsdp: 3 },
    { fsdp: 5, dp: 2 },
    { fsdp: 7, tp: 2 },
    { pp: 3, fsdp: 3 },
    { cp: 2, tp: 2, fsdp: 2 },
    { fsdp: 64 },
    { tp: 3 },
    { tp: 5, fsdp: 2 },
  ];
  const order = ["dp", "fsdp", "pp", "tp", "cp"] as const;
  meshes.push(...odd.map((sizes) => new TestMesh(sizes)));
  meshes.push(new TestMesh({ dp: 2, fsdp: 2, tp: 2 }, order));
  return meshes;
}

interface Stored {
  readonly tensor: GlobalTensor;
  readonly split: Split | undefined;
  /** Tensors of one unit that are not copied lie in one flat vector. */
  readonly unit: string;
  readonly stage: (stages: number) => number;
  /** Too small to be sharded: every rank of fsdp has all of it. */
  readonly isCopied: boolean;
}

const stored = model();

/** All tensors of the model, moments included. */
export const modelTensors = stored.map(({ tensor }) => tensor);

function model(): Stored[] {
  const all: Stored[] = [];
  const blocks = 8;
  const add = (unit: string, stage: Stored["stage"], name: string, rest: Rest) => {
    const { shape, split, isCopied = false } = rest;
    for (const kind of [name, `optimizer.${name}.moment1`, `optimizer.${name}.moment2`]) {
      const dtype = rest.dtype ?? "f32";
      const tensor = globalTensor(kind, dtype, shape);
      const suffix = kind.slice(-7);
      const group = kind === name ? unit : `${unit} ${suffix}`;
      all.push({ tensor, split, unit: group, stage, isCopied });
    }
  };
  add("embedding", () => 0, "embedding.table", { shape: [61, 24], split: { dim: 0 } });
  for (let block = 0; block < blocks; block++) {
    const at = (stages: number) => Math.floor((block * stages) / blocks);
    const name = `blocks.${block}`;
    const put = (part: string, rest: Rest) => add(name, at, `${name}.${part}`, rest);
    put("norm.scale", { shape: [24], isCopied: true });
    put("up.weight", { shape: [128, 65], split: { dim: 0 } });
    put("gate.weight", { shape: [8, 96], split: { dim: 1, segments: [32, 16, 48] } });
    put("recurrent", { shape: [4, 8, 7, 3], split: { dim: 1 } });
    put("out.weight", { shape: [47, 200], split: { dim: 1 } });
    put("out.bias", { shape: [23] });
  }
  const last = (stages: number) => stages - 1;
  add("head", last, "lm_head.weight", { shape: [61, 24], split: { dim: 0 }, dtype: "bf16" });
  return all;
}

interface Rest {
  readonly shape: readonly number[];
  readonly split?: Split;
  readonly isCopied?: boolean;
  readonly dtype?: "f32" | "bf16";
}

/** Where elements [from, to) of a placement of a tensor lie on a rank. */
export interface Held {
  readonly tensor: GlobalTensor;
  readonly placement: Placement;
  readonly from: number;
  readonly to: number;
  readonly isOwner: boolean;
  readonly bytes: Uint8Array;
}

function heldBy(topology: Topology, rank: number): Held[] {
  const at = (axis: Axis) => topology.coordinate(rank, axis);
  const here = stored.filter(({ stage }) => stage(topology.size("pp")) === at("pp"));
  const placed = here.map((item) => {
    const placement = place(item.tensor.shape, item.split, at("tp"), topology.size("tp"));
    const size = placement.localShape.reduce((product, length) => product * length, 1);
    return { ...item, placement, size };
  });
  return placed.map((item) => {
    const { tensor, split, placement, size, isCopied, unit } = item;
    const replicas: Axis[] = ["dp", "cp"];
    if (!split) replicas.push("tp");
    let range = { from: 0, to: size };
    if (isCopied) replicas.push("fsdp");
    else {
      const members = placed.filter((other) => other.unit === unit && !other.isCopied);
      const sizes = members.map((member) => member.size);
      const flat = flatUnit(sizes, topology.size("fsdp"));
      range = ownedRange(flat, members.indexOf(item), size, at("fsdp"));
    }
    const isOwner = replicas.every((axis) => at(axis) === 0);
    const bytes = localBytes(tensor, placement, range.from, range.to);
    return { tensor, placement, ...range, isOwner, bytes };
  });
}

/** The same as pieces to be written. */
export function piecesOn(mesh: TestMesh, rank: number): Piece[] {
  return mesh.heldBy(rank).map(({ tensor, placement, from, to, isOwner, bytes }) => {
    const held = bytesOf(tensor.dtype, [to - from], bytes);
    return { name: tensor.name, tensor: held, placement, from, to, isOwner };
  });
}
