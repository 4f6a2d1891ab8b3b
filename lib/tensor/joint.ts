// Linear layers on one input as one matrix product, where a GPU moves fewer bytes for it.
//
// Forward: gates. A product with a handful of columns costs a reading of x, whatever their number;
// one with a bias has no fast kernel, so the bias is added to the (narrow) result.
//
// Backward of n layers with N columns together on x of width K, in bf16: one by one, every
// product but the first reads and writes a sum of f32, and the last sum is rounded: (8 (n − 1) + 6)
// K bytes per row. Beside each other, [dy₁ | dy₂ | …] costs 4 N bytes to make, and has one product
// each for dx and for all weights, which fills the GPU better than one of a few columns.

import { native } from "../native/library.ts";
import { empty, zeros } from "./create.ts";
import { onDevice } from "./device.ts";
import type { DType } from "./dtype.ts";
import { add } from "./ops/elementwise.ts";
import { write } from "./ops/view.ts";
import { codeOf, handleOf, result, type Tensor } from "./tensor.ts";

/** What is joined; each may be switched off, to measure it. */
export const joint = { gates: true, gradients: true };

/** Layers up to this width are narrow: gates, one column per head. */
const mostNarrow = 64;
/** Up to this many rows a product streams the weights, and copying them would double that. */
const fewRows = 8;

/** a·b (+ bias), each operand transposed when asked. */
export function product(
  a: Tensor,
  b: Tensor,
  transposeA: boolean,
  transposeB: boolean,
  bias?: Tensor,
  dtype?: DType,
): Tensor {
  const status = native().xl_matmul(
    a.handle,
    b.handle,
    transposeA ? 1 : 0,
    transposeB ? 1 : 0,
    handleOf(bias),
    dtype ? codeOf(dtype) : -1,
  );
  return result(status, "matmul");
}

/** The dtype of a leaf's gradient: its own, unless it says otherwise (weights gathered in bf16). */
export function gradientDtype(leaf: Tensor & { readonly gradientDtype?: DType }): DType {
  return leaf.gradientDtype ?? leaf.dtype;
}

/** A layer, and the dtype of its result where that is not the input's. */
export interface Layer {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;
  readonly dtype: DType | undefined;
}

/** The results of all layers, in order. */
export function products(x: Tensor, layers: readonly Layer[]): Tensor[] {
  const together = gatesOf(x, layers);
  const joined = together.length > 1 ? jointProduct(x, together) : [];
  return layers.map((layer) => {
    const { weight, bias, dtype = x.dtype } = layer;
    return joined[together.indexOf(layer)] ?? product(x, weight, false, true, bias, dtype);
  });
}

/** Narrow layers that ask for the dtype of the first such layer. */
function gatesOf(x: Tensor, layers: readonly Layer[]): Layer[] {
  const rows = x.size / x.shape.at(-1)!;
  if (!joint.gates || x.device !== "cuda" || rows <= fewRows) return [];
  const narrow = layers.filter(({ weight, dtype }) => dtype && weight.shape[0]! <= mostNarrow);
  return narrow.filter(
    ({ dtype, bias, weight }) =>
      dtype === narrow[0]!.dtype &&
      Boolean(bias) === Boolean(narrow[0]!.bias) &&
      weight.dtype === narrow[0]!.weight.dtype,
  );
}

/** Views of one result, column by column. */
function jointProduct(x: Tensor, layers: readonly Layer[]): Tensor[] {
  const [{ weight, bias, dtype }] = layers as [Layer];
  const widths = layers.map((layer) => layer.weight.shape[0]!);
  using weights = beside(
    layers.map((layer) => layer.weight),
    0,
    weight.dtype,
  );
  const plain = product(x, weights, false, true, undefined, dtype);
  if (!bias) return columns(plain, widths, plain.rank - 1);
  using given = plain;
  using biases = beside(
    layers.map((layer) => layer.bias!),
    0,
    bias.dtype,
  );
  return columns(add(given, biases), widths, plain.rank - 1);
}

/** Products of a GPU are slow where a row is no multiple of 16 bytes: of 8 numbers of bf16. */
const pack = 8;

/** Tensors side by side along a dim, converted, and zeros up to a multiple of `pack`. */
function beside(parts: readonly Tensor[], dim: number, dtype: DType): Tensor {
  const [first] = parts as [Tensor];
  const total = parts.reduce((sum, part) => sum + part.shape[dim]!, 0);
  const padded = Math.ceil(total / pack) * pack;
  const make = (size: number, maker: typeof empty) =>
    onDevice(first.device, () => maker(first.shape.with(dim, size), dtype));
  const all = make(padded, empty);
  let start = 0;
  const put = (part: Tensor) => {
    const end = start + part.shape[dim]!;
    using window = piece(all, dim, start, end);
    write(window, part);
    start = end;
  };
  for (const part of parts) put(part);
  if (padded > total) {
    using rest = make(padded - total, zeros);
    put(rest);
  }
  return all;
}

/** The pieces of a tensor along a dim; the tensor itself is given up. */
function columns(all: Tensor, sizes: readonly number[], dim: number): Tensor[] {
  let start = 0;
  const pieces = sizes.map((size) => {
    start += size;
    return piece(all, dim, start - size, start);
  });
  all.dispose();
  return pieces;
}

function piece(all: Tensor, dim: number, start: number, end: number): Tensor {
  return result(native().xl_slice(all.handle, dim, start, end, 1), "slice");
}

/** Whether gradients of these layers are made by one product. */
export function areJoint(x: Tensor, weights: readonly Tensor[]): boolean {
  const n = weights.length;
  if (!joint.gradients || x.device !== "cuda" || x.dtype !== "bf16" || n < 2) return false;
  if (weights.some((weight) => gradientDtype(weight) !== "f32" || !weight.requiresGrad))
    return false;
  const total = weights.reduce((sum, weight) => sum + weight.shape[0]!, 0);
  return 4 * total < (8 * (n - 1) + 6) * x.shape.at(-1)!;
}

/** What a backward pass does about dx, which comes before the gradients of the weights. */
export interface InputGradient {
  readonly wanted: boolean;
  /** Called as soon as it is there: what becomes of it may begin beside the weights. */
  readonly ready: (dx: Tensor) => void;
}

/** dx, where it is wanted, and the gradient of each weight: rows of one tensor. */
export function jointGradients(
  x: Tensor,
  dys: readonly Tensor[],
  weights: readonly Tensor[],
  { wanted, ready }: InputGradient,
): { dx: Tensor | null; dweights: Tensor[] } {
  using dy = beside(dys, x.rank - 1, x.dtype);
  const dx = wanted ? jointInput(x, dy, weights) : null;
  if (dx) ready(dx);
  const status = native().xl_linear_weight_gradient(dy.handle, x.handle, codeOf("f32"));
  const widths = weights.map((weight) => weight.shape[0]!);
  return { dx, dweights: columns(result(status, "linear"), widths, 0) };
}

function jointInput(x: Tensor, dy: Tensor, weights: readonly Tensor[]): Tensor {
  using all = beside(weights, 0, x.dtype);
  return product(dy, all, false, false, undefined, x.dtype);
}
