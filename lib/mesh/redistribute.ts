// The conversions between layouts of one mesh axis, with their gradients (mesh.md §4): each records
// its dual. States of a tensor on the ranks of a group:
//
//   S(d)  dim d is split, part k lies on rank k            gradient: S(d)
//   R     whole on every rank, which do different work     gradient: P
//   P     every rank holds a summand                       gradient: R
//   I     whole on every rank, which repeat the same work  gradient: I
//
// Data crosses ranks in no other way. A group of one rank returns its input and records nothing.
//
// Sums of gradients over the ranks begin when the operation behind has made them, and go on beside
// the rest of its backward pass: of a column-parallel layer, the gradients of its weights.

import { clone, noGrad, scope, ShapeError, shown, slice, type Tensor } from "../tensor/index.ts";
import { record, recorded } from "../tensor/tape.ts";
import type { PendingTensor } from "./comm_pending.ts";
import type { Group } from "./group.ts";

/** What the ranks do with a whole tensor: different work, or all the same. */
export type Whole = "R" | "I";

/** S(dim) → R or I: the parts of all ranks in group order, on every rank. */
export function gather(x: Tensor, group: Group, dim: number, to: Whole, site: string): Tensor {
  if (group.size === 1) return x;
  const y = group.allGather(x, dim, site);
  if (to === "I") return recorded("gather", [x], y, (dy) => [window(dy, group, dim, site)]);
  return crossing("gather", x, y, (dy) => group.startReduceScatter(dy, dim, gradientOf(site)));
}

/** P → S(dim): the sum over the ranks, of which every rank gets its part. */
export function scatterSum(x: Tensor, group: Group, dim: number, site: string): Tensor {
  if (group.size === 1) return x;
  const y = group.reduceScatter(x, dim, site);
  return recorded("scatterSum", [x], y, (dy) => [group.allGather(dy, dim, gradientOf(site))]);
}

/** P → I: the sum over the ranks on every rank. */
export function sum(x: Tensor, group: Group, site: string): Tensor {
  if (group.size === 1) return x;
  return recorded("sum", [x], group.allReduce(x, { site }), (dy) => [dy]);
}

/** I → R: what was the same work on all ranks becomes different work. Moves nothing forward. */
export function enter(x: Tensor, group: Group, site: string): Tensor {
  if (group.size === 1) return x;
  return crossing("enter", x, x.detach(), (dy) =>
    group.startAllReduce(dy, { site: gradientOf(site) }),
  );
}

/** R or I → S(dim): this rank's part of a whole tensor; of I a copy, which outlives the whole. */
export function part(x: Tensor, group: Group, dim: number, from: Whole, site: string): Tensor {
  if (group.size === 1) return x;
  const [start, end] = range(x, group, dim, site);
  // The plain slice puts its gradient into zeros: a summand of the whole gradient.
  if (from === "R") return slice(x, dim, start, end);
  const own = noGrad(() => scope(() => clone(slice(x, dim, start, end))));
  return recorded("part", [x], own, (dy) => [group.allGather(dy, dim, gradientOf(site))]);
}

/** S(join) → S(split): cuts dim `split` into parts for the ranks and joins theirs along `join`. */
export function allToAll(
  x: Tensor,
  group: Group,
  dims: { readonly split: number; readonly join: number },
  site: string,
): Tensor {
  if (group.size === 1) return x;
  const y = group.allToAll(x, dims.split, dims.join, site);
  return recorded("allToAll", [x], y, (dy) => [
    group.allToAll(dy, dims.join, dims.split, gradientOf(site)),
  ]);
}

/** Records y of x, whose gradient is a sum over the ranks that may begin early. */
function crossing(
  name: string,
  x: Tensor,
  y: Tensor,
  start: (dy: Tensor) => PendingTensor,
): Tensor {
  let begun: { readonly dy: Tensor; readonly sum: PendingTensor } | undefined;
  const node = record(name, [x], [y], ([dy]) => {
    const early = begun?.sum.join();
    if (early && begun!.dy === dy) return [early];
    early?.dispose();
    return [start(dy!).join()];
  });
  if (node) {
    node.early = (dy) => {
      // The sum outlives the backward pass that it begins in. Of several only the first may begin.
      begun ??= { dy, sum: start(dy).keep() };
    };
  }
  return y;
}

/** Name of the same place on the way back. */
function gradientOf(site: string): string {
  return `${site} gradient`;
}

/** This rank's part of a gradient. A view. */
function window(dy: Tensor, group: Group, dim: number, site: string): Tensor {
  const [start, end] = range(dy, group, dim, site);
  return slice(dy, dim, start, end);
}

function range(x: Tensor, group: Group, dim: number, site: string): [number, number] {
  const size = x.shape.at(dim)!;
  if (size % group.size !== 0) {
    throw new ShapeError(
      `${site}: dim ${dim} of shape ${shown(x.shape)} is not divisible by ` +
        `the ${group.size} ranks of ${group.name}`,
    );
  }
  const length = size / group.size;
  return [group.rank * length, (group.rank + 1) * length];
}
