// Reductions over dims. Sums are made in a fixed order: the same bits for any number of threads.

import { native } from "../../native/library.ts";
import { Reduction } from "../../native/symbols.ts";
import { recorded } from "../tape.ts";
import { putInts, result, type Tensor } from "../tensor.ts";
import { eq, exp, mul, sub, unary } from "./elementwise.ts";
import { dimOf, expand, reshape } from "./view.ts";

export interface ReduceOptions {
  /** Leave the reduced dims with size 1. */
  keepDims?: boolean;
}

type Dims = number | readonly number[] | undefined;

function raw(name: keyof typeof Reduction, x: Tensor, dims: readonly number[], keep: boolean) {
  const count = dims.length === x.rank ? 0 : putInts(dims);
  return result(native().xl_reduce(x.handle, Reduction[name], count, keep ? 1 : 0), name);
}

function resolve(x: Tensor, dims: Dims, name: string): number[] {
  if (dims === undefined) return x.shape.map((_, i) => i);
  const list = typeof dims === "number" ? [dims] : dims;
  const found = list.map((dim) => dimOf(x, dim, name));
  return [...new Set(found)].sort((a, b) => a - b);
}

/** Shape of x with the reduced dims kept as 1. */
function kept(x: Tensor, dims: readonly number[]): number[] {
  return x.shape.map((size, i) => (dims.includes(i) ? 1 : size));
}

/** Reduction, or a copy when there is nothing to reduce over. */
function reduce(
  name: keyof typeof Reduction,
  x: Tensor,
  over: Dims,
  options: ReduceOptions,
  gradient: (dy: Tensor, y: Tensor, dims: number[]) => Tensor,
): Tensor {
  const dims = resolve(x, over, name);
  if (dims.length === 0 && x.rank > 0) return x;
  const y = raw(name, x, dims, options.keepDims ?? false);
  const saved = y.detach();
  return recorded(name, [x], y, (dy) => {
    const shape = kept(x, dims);
    return [gradient(reshape(dy, shape), reshape(saved, shape), dims)];
  });
}

/** Sum over the dims (default: all). */
export function sum(x: Tensor, dims?: Dims, options: ReduceOptions = {}): Tensor {
  return reduce("sum", x, dims, options, (dy) => expand(dy, x.shape));
}

/** Mean over the dims (default: all). */
export function mean(x: Tensor, dims?: Dims, options: ReduceOptions = {}): Tensor {
  return reduce("mean", x, dims, options, (dy, y) =>
    expand(unary("scale", dy, y.size / x.size), x.shape),
  );
}

/** Largest element; the gradient is shared by all elements that attain it. */
export function max(x: Tensor, dims?: Dims, options: ReduceOptions = {}): Tensor {
  return reduce("max", x, dims, options, (dy, y, over) => shared(x, dy, y, over));
}

/** Smallest element; the gradient is shared by all elements that attain it. */
export function min(x: Tensor, dims?: Dims, options: ReduceOptions = {}): Tensor {
  return reduce("min", x, dims, options, (dy, y, over) => shared(x, dy, y, over));
}

function shared(x: Tensor, dy: Tensor, y: Tensor, dims: number[]): Tensor {
  const hit = eq(x, y);
  const count = raw("sum", hit, dims, true);
  return mul(hit, mul(dy, unary("reciprocal", count)));
}

/** Sum of squares over the dims (default: all). */
export function sumSquares(x: Tensor, dims?: Dims, options: ReduceOptions = {}): Tensor {
  return reduce("sum_squares", x, dims, options, (dy) => mul(unary("scale", x.detach(), 2), dy));
}

/** ln Σ e^x over the dims (default: all). */
export function logSumExp(x: Tensor, dims?: Dims, options: ReduceOptions = {}): Tensor {
  return reduce("logsumexp", x, dims, options, (dy, y) => mul(exp(sub(x.detach(), y)), dy));
}
