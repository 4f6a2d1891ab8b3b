// A rank of test/multi/tensor_parallel_conversions.test.ts: every conversion between layouts and
// its gradient, on shapes of which only the split dim can be divided.

import type { Group } from "../../lib/mesh/group.ts";
import { allToAll, enter, gather, part, scatterSum, sum } from "../../lib/mesh/redistribute.ts";
import { scope, type Tensor, tensor } from "../../lib/tensor/index.ts";
import { meshOf } from "./rank_mesh.ts";
import { Random, sizeOf } from "./random.ts";
import { runRank } from "./ranks.ts";

type State = "S" | "R" | "P" | "I";
/** The layout of the gradient of a tensor. */
const dual = { S: "S", R: "P", P: "R", I: "I" } as const;

interface Conversion {
  readonly name: string;
  readonly from: State;
  readonly to: State;
  readonly run: (x: Tensor, group: Group) => Tensor;
  /** Shape of x on one of n ranks. */
  readonly shape: (n: number) => number[];
  /** Element `at` of the result, as a sum over [rank, element of that rank's x]. */
  readonly value: (at: number[], group: Group) => [rank: number, at: number[]][];
}

const everybody = (n: number) => Array.from({ length: n }, (_, rank) => rank);

function conversionsAlong(dim: number): Conversion[] {
  const whole = (n: number) => [3, 5, 7].with(dim, 2 * n);
  const piece = () => [3, 5, 7].with(dim, 2);
  const inside = (at: number[], { rank }: Group) => at.with(dim, at[dim]! + 2 * rank);
  const join = (dim + 1) % 3;
  return [
    ...(["R", "I"] as const).flatMap((to): Conversion[] => [
      {
        name: `gather S(${dim}) → ${to}`,
        from: "S",
        to,
        run: (x, group) => gather(x, group, dim, to, "x"),
        shape: piece,
        value: (at) => [[Math.floor(at[dim]! / 2), at.with(dim, at[dim]! % 2)]],
      },
      {
        name: `part ${to} → S(${dim})`,
        from: to,
        to: "S",
        run: (x, group) => part(x, group, dim, to, "x"),
        shape: whole,
        value: (at, group) => [[group.rank, inside(at, group)]],
      },
    ]),
    {
      name: `scatterSum P → S(${dim})`,
      from: "P",
      to: "S",
      run: (x, group) => scatterSum(x, group, dim, "x"),
      shape: whole,
      value: (at, group) => everybody(group.size).map((rank) => [rank, inside(at, group)]),
    },
    {
      name: `allToAll S(${join}) → S(${dim})`,
      from: "S",
      to: "S",
      run: (x, group) => allToAll(x, group, { split: dim, join }, "x"),
      shape: (n) => [3, 5, 7].with(dim, 2 * n).with(join, 3),
      value: (at, group) => [
        [Math.floor(at[join]! / 3), inside(at, group).with(join, at[join]! % 3)],
      ],
    },
  ];
}

const conversions: Conversion[] = [
  ...[0, 1, 2].flatMap(conversionsAlong),
  {
    name: "sum P → I",
    from: "P",
    to: "I",
    run: (x, group) => sum(x, group, "x"),
    shape: () => [3, 5],
    value: (at, group) => everybody(group.size).map((rank) => [rank, at]),
  },
  {
    name: "enter I → R",
    from: "I",
    to: "R",
    run: (x, group) => enter(x, group, "x"),
    shape: () => [3, 5],
    value: (at, group) => [[group.rank, at]],
  },
];

/** Random values; the same on all ranks where the layout has copies. */
function draw(state: State, shape: readonly number[], rank: number, salt: number): Float64Array {
  const isCopy = state === "R" || state === "I";
  return new Random(salt + (isCopy ? 0 : 1 + rank)).normals(sizeOf(shape));
}

/** ⟨x, y⟩ of the whole tensors, of which this rank has what its layout says. */
function inner(x: Tensor, y: Tensor, state: State, group: Group): number {
  const mine = x.mul(y).sum();
  return group.allReduce(mine, { site: "inner" }).item() / (state === "I" ? group.size : 1);
}

function indexOf(flat: number, shape: readonly number[]): number[] {
  const index: number[] = [];
  for (const size of shape.toReversed()) {
    index.unshift(flat % size);
    flat = Math.floor(flat / size);
  }
  return index;
}

/** How far a conversion and its gradient are from what they must be. */
function errorsOf({ name, from, to, run, shape, value }: Conversion, group: Group) {
  const given = shape(group.size);
  const make = (state: State, dims: readonly number[], salt: number) =>
    tensor(draw(state, dims, group.rank, salt), { shape: dims });
  const x = make(from, given, 100).requireGrad();
  const y = run(x, group);
  const inputs = everybody(group.size).map((rank) => draw(from, given, rank, 100));
  const flat = (at: number[]) => at.reduce((sum, i, dim) => sum * given[dim]! + i, 0);
  const forward = Math.max(
    ...y.dataSync().map((got, i) => {
      const terms = value(indexOf(i, y.shape), group);
      const want = terms.reduce((total, [rank, at]) => total + inputs[rank]![flat(at)]!, 0);
      return Math.abs(got - want);
    }),
  );
  const dy = make(dual[to], y.shape, 200);
  const dx = y.backward(dy).of(x);
  const there = inner(y.detach(), dy, to, group);
  const back = inner(x.detach(), dx, from, group);
  return { name, forward, adjoint: Math.abs(there - back) / Math.max(1, Math.abs(there)) };
}

await runRank(async (bootstrap) => {
  const mesh = await meshOf(bootstrap, { tp: bootstrap.size });
  const group = mesh.group("tp");
  return conversions.map((conversion) => scope(() => errorsOf(conversion, group)));
});
