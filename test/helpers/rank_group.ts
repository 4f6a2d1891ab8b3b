// Checks of ranks in test/multi: every method of a group against what it must give, worked out
// element by element from everybody's inputs, which every rank can make.

import type { Group } from "../../lib/mesh/group.ts";
import { type DType, type Tensor, tensor } from "../../lib/tensor/index.ts";

type Shape = readonly number[];
type Index = number[];

/** Small whole numbers: sums are exact in every dtype and order. Not negative, for u8. */
function valueOf(rank: number, index: Index, shape: Shape): number {
  const flat = index.reduce((at, i, dim) => at * shape[dim]! + i, 0);
  return (rank * 7 + flat * 5 + Math.floor(flat / 9)) % 11;
}

function build(shape: Shape, dtype: DType, value: (index: Index) => number): Tensor {
  const flat: number[] = [];
  const walk = (index: Index) => {
    if (index.length === shape.length) flat.push(value(index));
    else for (let i = 0; i < shape[index.length]!; i++) walk([...index, i]);
  };
  walk([]);
  return tensor(Float64Array.from(flat), { shape, dtype });
}

function expectEqual(got: Tensor, want: Tensor, what: string): void {
  const about = `${what}: [${got.shape}] ${got.dtype}, expected [${want.shape}] ${want.dtype}`;
  if (got.shape.join() !== want.shape.join() || got.dtype !== want.dtype) throw new Error(about);
  const have = got.dataSync();
  const expected = want.dataSync();
  const at = have.findIndex((value, i) => value !== expected[i]);
  if (at >= 0) throw new Error(`${about}: element ${at} is ${have[at]}, not ${expected[at]}`);
}

/** Every method along every dim that allows it, for one shape. */
export function checkMethods(group: Group, shape: Shape, dtype: DType): void {
  const n = group.size;
  const me = group.rank;
  const others = Array.from({ length: n }, (_, rank) => rank);
  const mine = build(shape, dtype, (index) => valueOf(me, index, shape)).to(group.device);
  const sumAt = (index: Index) =>
    others.reduce((sum, rank) => sum + valueOf(rank, index, shape), 0);
  const label = `${group.name} [${shape}] ${dtype}`;
  const expectThat = (got: Tensor, to: Shape, value: (index: Index) => number, what: string) =>
    expectEqual(got, build(to, dtype, value), `${label} ${what}`);

  expectThat(group.allReduce(mine, { site: "sum" }), shape, sumAt, "sum");
  for (const op of ["max", "min"] as const) {
    const best = (index: Index) => Math[op](...others.map((rank) => valueOf(rank, index, shape)));
    expectThat(group.allReduce(mine, { op }), shape, best, op);
  }
  for (let dim = 0; dim < shape.length; dim++) {
    const whole = shape[dim]!;
    const part = whole / n;
    const gathered = (index: Index) =>
      valueOf(Math.floor(index[dim]! / whole), index.with(dim, index[dim]! % whole), shape);
    const larger = shape.with(dim, whole * n);
    expectThat(group.allGather(mine, dim - shape.length), larger, gathered, `gather ${dim}`);
    if (!Number.isInteger(part)) continue;
    const partial = (index: Index) => sumAt(index.with(dim, index[dim]! + me * part));
    expectThat(group.reduceScatter(mine, dim), shape.with(dim, part), partial, `scatter ${dim}`);
    for (let to = 0; to < shape.length; to++) {
      const split = shape.with(dim, part);
      const wide = split[to]!;
      const moved = (index: Index) => {
        const from = index.with(to, index[to]! % wide);
        const rank = Math.floor(index[to]! / wide);
        return valueOf(rank, from.with(dim, from[dim]! + me * part), shape);
      };
      expectThat(group.allToAll(mine, dim, to), split.with(to, wide * n), moved, `${dim} to ${to}`);
    }
  }
  checkBroadcast(group, shape, dtype, mine, expectThat);
}

function checkBroadcast(
  group: Group,
  shape: Shape,
  dtype: DType,
  mine: Tensor,
  expectThat: (got: Tensor, to: Shape, value: (index: Index) => number, what: string) => void,
): void {
  for (let root = 0; root < group.size; root++) {
    const copy = mine.clone();
    group.broadcast_(copy, root);
    expectThat(copy, shape, (index) => valueOf(root, index, shape), `broadcast ${root}`);
    if (shape.length < 2) continue;
    // A strided view: written through to its base.
    const base = mine.clone();
    group.broadcast_(base.transpose(), root, "strided");
    expectThat(base, shape, (index) => valueOf(root, index, shape), `strided ${root}`);
  }
}

/** Messages around the ring in both ways at once, and from rank 0 to everybody and back. */
export function checkMessages(group: Group, shape: Shape, dtype: DType): void {
  const { size: n, rank: me } = group;
  const make = (rank: number) =>
    build(shape, dtype, (index) => valueOf(rank, index, shape)).to(group.device);
  const label = `${group.name} [${shape}] ${dtype}`;
  for (let step = 1; step < n; step++) {
    const from = (me - step + n) % n;
    const got = group.exchange(
      { x: make(me), peer: (me + step) % n, site: `ring ${step}` },
      { shape, dtype, peer: from, site: `ring ${step}` },
    );
    expectEqual(got, make(from), `${label} ring ${step}`);
  }
  for (let peer = 1; peer < n; peer++) {
    if (me === 0) {
      group.send(make(peer), peer, "out");
      expectEqual(group.receive(shape, dtype, peer, "back"), make(peer + 1), `${label} back`);
    } else if (me === peer) {
      expectEqual(group.receive(shape, dtype, 0, "out"), make(peer), `${label} out`);
      group.send(make(peer + 1), 0, "back");
    }
  }
}
