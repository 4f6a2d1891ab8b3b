// Views and layout. Views share memory; `reshape` copies only when the tensor is a strided view.

import { check, native } from "../../native/library.ts";
import type { DType } from "../dtype.ts";
import { isFloat } from "../dtype.ts";
import { ShapeError, shown } from "../errors.ts";
import { recorded } from "../tape.ts";
import { codeOf, int32, putInts, result, type Tensor } from "../tensor.ts";
import { zerosLike } from "../create.ts";

/** The dim as an index from 0; negative dims count from the end. */
export function dimOf(x: Tensor, dim: number, operation: string): number {
  const index = dim < 0 ? dim + x.rank : dim;
  if (Number.isInteger(index) && index >= 0 && index < Math.max(1, x.rank)) return index;
  throw new ShapeError(`${operation}: dim ${dim} is out of range for shape ${shown(x.shape)}`);
}

/** The same elements in another shape; one size may be −1 and is computed. */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const y = rawReshape(x, resolveShape(x, shape));
  return recorded("reshape", [x], y, (dy) => [rawReshape(dy, x.shape)]);
}

function rawReshape(x: Tensor, shape: readonly number[]): Tensor {
  return result(native().xl_reshape(x.handle, putInts(shape)), "reshape");
}

function resolveShape(x: Tensor, shape: readonly number[]): readonly number[] {
  const open = shape.indexOf(-1);
  if (open < 0) return shape;
  const rest = shape.reduce((product, size, i) => (i === open ? product : product * size), 1);
  const size = x.size / rest;
  if (rest <= 0 || !Number.isInteger(size) || shape.indexOf(-1, open + 1) >= 0) {
    throw new ShapeError(`reshape: shape ${shown(x.shape)} does not fit ${shown(shape)}`);
  }
  return shape.map((given, i) => (i === open ? size : given));
}

/** Dim i of the result is dim order[i] of x. A view. */
export function permute(x: Tensor, order: readonly number[]): Tensor {
  const dims = order.map((dim) => dimOf(x, dim, "permute"));
  const y = rawPermute(x, dims);
  const inverse = dims.map((_, i) => dims.indexOf(i));
  return recorded("permute", [x], y, (dy) => [rawPermute(dy, inverse)]);
}

function rawPermute(x: Tensor, order: readonly number[]): Tensor {
  return result(native().xl_permute(x.handle, putInts(order)), "permute");
}

/** Two dims exchanged; default: the last two. A view. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  const order = x.shape.map((_, i) => i);
  const i = dimOf(x, a, "transpose");
  const j = dimOf(x, b, "transpose");
  order[i] = j;
  order[j] = i;
  return permute(x, order);
}

/**
 * Elements [start, end) of a dim, every `step`-th; negative positions count from the end. A view.
 */
export function slice(x: Tensor, dim: number, start = 0, end?: number, step = 1): Tensor {
  const at = dimOf(x, dim, "slice");
  const size = x.shape[at]!;
  const from = start < 0 ? start + size : start;
  const to = end === undefined ? size : end < 0 ? end + size : end;
  for (const position of [from, to, step]) int32(position, "a position of a slice");
  const y = result(native().xl_slice(x.handle, at, from, to, step), "slice");
  return recorded("slice", [x], y, (dy) => {
    const dx = zerosLike(x, dy.dtype);
    using window = result(native().xl_slice(dx.handle, at, from, to, step), "slice");
    write(window, dy);
    return [dx];
  });
}

/** Index `index` of a dim, which disappears. A view. */
export function select(x: Tensor, dim: number, index: number): Tensor {
  const at = dimOf(x, dim, "select");
  const i = index < 0 ? index + x.shape[at]! : index;
  const row = slice(x, at, i, i + 1);
  return reshape(row, [...x.shape.slice(0, at), ...x.shape.slice(at + 1)]);
}

/** Pieces of the given sizes along a dim. Views. */
export function split(x: Tensor, sizes: readonly number[], dim = -1): Tensor[] {
  const at = dimOf(x, dim, "split");
  const total = sizes.reduce((a, b) => a + b, 0);
  if (total !== x.shape[at]) {
    throw new ShapeError(
      `split: sizes ${shown(sizes)} add up to ${total}, not to dim ${dim} of ${shown(x.shape)}`,
    );
  }
  let start = 0;
  return sizes.map((size) => {
    start += size;
    return slice(x, at, start - size, start);
  });
}

/** Repeats dims of size 1, and new leading dims, without copying. */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  const y = result(native().xl_expand(x.handle, putInts(shape)), "expand");
  return recorded("expand", [x], y, (dy) => [sumTo(dy, x.shape)]);
}

/** A new dim of size 1 before `dim` (−1: at the end). */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  const at = dim < 0 ? dim + x.rank + 1 : dim;
  if (!Number.isInteger(at) || at < 0 || at > x.rank) {
    throw new ShapeError(`unsqueeze: dim ${dim} is out of range for shape ${shown(x.shape)}`);
  }
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

/** Without a dim of size 1 (default: all of them). */
export function squeeze(x: Tensor, dim?: number): Tensor {
  if (dim === undefined)
    return reshape(
      x,
      x.shape.filter((size) => size !== 1),
    );
  const at = dimOf(x, dim, "squeeze");
  if (x.shape[at] !== 1) {
    throw new ShapeError(`squeeze: dim ${dim} of shape ${shown(x.shape)} is not 1`);
  }
  return reshape(x, [...x.shape.slice(0, at), ...x.shape.slice(at + 1)]);
}

/** Joins tensors along a dim. */
export function concat(tensors: readonly Tensor[], dim = 0): Tensor {
  const first = tensors[0];
  if (!first) throw new ShapeError("concat: no tensors");
  const at = dimOf(first, dim, "concat");
  const handles = tensors.map((x) => x.handle);
  const y = result(native().xl_concat(putInts(handles), at), "concat");
  return recorded("concat", [...tensors], y, (dy) => {
    let start = 0;
    return tensors.map((x) => {
      start += x.shape[at]!;
      if (!x.requiresGrad) return null;
      return result(native().xl_slice(dy.handle, at, start - x.shape[at]!, start, 1), "slice");
    });
  });
}

/** Joins tensors of one shape along a new dim. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  return concat(
    tensors.map((x) => unsqueeze(x, dim)),
    dim,
  );
}

/** A row-major copy. */
export function clone(x: Tensor): Tensor {
  const y = result(native().xl_copy(x.handle, -1), "clone");
  return recorded("clone", [x], y, (dy) => [dy]);
}

/** The values in another dtype; the tensor itself when it has it already. */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x;
  const y = result(native().xl_copy(x.handle, codeOf(dtype)), "cast");
  if (!isFloat(dtype) || !isFloat(x.dtype)) return y;
  return recorded("cast", [x], y, (dy) => [
    result(native().xl_copy(dy.handle, codeOf(x.dtype)), "cast"),
  ]);
}

/**
 * Writes `source` (broadcast, converted) into `target`, a tensor or a view of one. Not recorded.
 */
export function write(target: Tensor, source: Tensor): Tensor {
  const status = native().xl_assign(target.handle, source.handle);
  check(status, "write");
  return target;
}

/** Sums a gradient back to the shape that was broadcast to its own. */
export function sumTo(dy: Tensor, shape: readonly number[]): Tensor {
  return result(native().xl_sum_to(dy.handle, putInts(shape)), "sumTo");
}
