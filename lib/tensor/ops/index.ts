// Rows by index, arg-max, top-k, dropout, sampling.

import { native } from "../../native/library.ts";
import type { DType } from "../dtype.ts";
import type { Key } from "../random.ts";
import { recorded } from "../tape.ts";
import { codeOf, int32, result, results, type Tensor } from "../tensor.ts";
import { cast, dimOf } from "./view.ts";

/** Rows of table [V, D] for ids i32 [..]: [.., D] in `dtype` (default: the table's). */
export function embedding(table: Tensor, ids: Tensor, dtype: DType = table.dtype): Tensor {
  const y = result(native().xl_embedding(table.handle, ids.handle, codeOf(dtype)), "embedding");
  return recorded("embedding", [table], y, (dy) => [
    result(native().xl_embedding_backward(dy.handle, ids.handle, table.shape[0]!), "embedding"),
  ]);
}

/** x at the positions `indices` (i32 [n]) of a dim. */
export function indexSelect(x: Tensor, indices: Tensor, dim = 0): Tensor {
  const at = dimOf(x, dim, "indexSelect");
  const y = result(native().xl_index_select(x.handle, indices.handle, at), "indexSelect");
  return recorded("indexSelect", [x], y, (dy) => {
    const size = x.shape[at]!;
    const dx = result(native().xl_index_add(dy.handle, indices.handle, at, size), "indexSelect");
    return [cast(dx, x.dtype)];
  });
}

/** Zeros of `count` positions along a dim, with x added at `indices`: the transpose of a select. */
export function scatterAdd(x: Tensor, indices: Tensor, count: number, dim = 0): Tensor {
  const at = dimOf(x, dim, "scatterAdd");
  int32(count, "a number of positions");
  const sums = result(native().xl_index_add(x.handle, indices.handle, at, count), "scatterAdd");
  return recorded("scatterAdd", [x], cast(sums, x.dtype), (dy) => [
    result(native().xl_index_select(dy.handle, indices.handle, at), "scatterAdd"),
  ]);
}

/** y[.., j] = x[.., indices[.., j]] along the last dim. */
export function gather(x: Tensor, indices: Tensor): Tensor {
  const y = result(native().xl_take_along(x.handle, indices.handle), "gather");
  return recorded("gather", [x], y, (dy) => {
    const width = x.shape.at(-1)!;
    const dx = result(native().xl_take_along_backward(dy.handle, indices.handle, width), "gather");
    return [cast(dx, x.dtype)];
  });
}

/** Index (i32) of the largest element of the last dim; the lowest index wins ties. */
export function argmax(x: Tensor): Tensor {
  const [indices, values] = results(native().xl_argmax(x.handle), "argmax");
  values!.dispose();
  return indices!;
}

/** The k largest elements of the last dim, descending, and their indices (i32). */
export function topK(x: Tensor, k: number): { values: Tensor; indices: Tensor } {
  int32(k, "a number of elements for topK");
  const [values, indices] = results(native().xl_top_k(x.handle, k), "topK");
  recorded("topK", [x], values!, (dy) => {
    const width = x.shape.at(-1)!;
    const dx = result(native().xl_take_along_backward(dy.handle, indices!.handle, width), "topK");
    return [cast(dx, x.dtype)];
  });
  return { values: values!, indices: indices! };
}

/** Global numbers of x[0, .., 0]: dropout masks do not depend on how a batch is split. */
export interface DropoutPlace {
  /** Row of the global batch. */
  readonly sample?: number;
  readonly position?: number;
  readonly feature?: number;
}

/**
 * Zeroes elements with probability `rate` and scales the rest by 1/(1 − rate). x [samples, ..,
 * features], a part of a larger tensor that begins at `first`.
 */
export function dropout(x: Tensor, rate: number, key: Key, first: DropoutPlace = {}): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new RangeError(`dropout: rate ${rate} is not in [0, 1)`);
  if (rate === 0) return x;
  const { sample = 0, position = 0, feature = 0 } = first;
  const apply = (t: Tensor) => {
    const { low, high } = key;
    const status = native().xl_dropout(t.handle, 1 - rate, low, high, sample, position, feature);
    return result(status, "dropout");
  };
  return recorded("dropout", [x], apply(x), (dy) => [apply(dy)]);
}
