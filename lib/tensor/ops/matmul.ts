// Matrix products. Operands may be views: transposes cost nothing, packing reads any strides.

import { native } from "../../native/library.ts";
import type { DType } from "../dtype.ts";
import { arithmetic } from "../dtype.ts";
import { ShapeError, shown } from "../errors.ts";
import { recorded, record } from "../tape.ts";
import { codeOf, handleOf, result, type Tensor } from "../tensor.ts";
import { putInts } from "../tensor.ts";
import { sumTo } from "./view.ts";

function product(
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

/** a [.., M, K] · b [.., K, N] → [.., M, N]; batch dims broadcast. */
export function matmul(a: Tensor, b: Tensor): Tensor {
  if (a.rank < 2 || b.rank < 2) {
    throw new ShapeError(
      `matmul: shapes ${shown(a.shape)} and ${shown(b.shape)}: both need at least two dims`,
    );
  }
  const y = product(a, b, false, false);
  return recorded("matmul", [a, b], y, (dy) => [
    a.requiresGrad ? fit(product(dy, b, false, true, undefined, a.dtype), a) : null,
    b.requiresGrad ? fit(product(a, dy, true, false, undefined, b.dtype), b) : null,
  ]);
}

/** The gradient of an operand whose batch dims were broadcast. */
function fit(grad: Tensor, operand: Tensor): Tensor {
  return grad.size === operand.size && grad.rank === operand.rank
    ? grad
    : sumTo(grad, operand.shape);
}

/** y = x Wᵀ (+ b): x [.., K], weight [N, K], bias [N] → [.., N]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  return linears(x, [weight], [bias])[0]!;
}

/**
 * Several linear layers on one input as one operation: the gradient of x is summed in place. Layers
 * whose weight has another arithmetic dtype than x are not possible; `outputs` may ask for f32
 * results of bf16 inputs (gates).
 */
export function linears(
  x: Tensor,
  weights: readonly Tensor[],
  biases: readonly (Tensor | undefined)[] = [],
  outputs: readonly (DType | undefined)[] = [],
): Tensor[] {
  const ys = weights.map((weight, i) => {
    if (weight.rank !== 2 || x.rank < 1 || weight.shape[1] !== x.shape.at(-1)) {
      throw new ShapeError(
        `linear: x ${shown(x.shape)} and weight ${shown(weight.shape)}: ` +
          "expected weight [out, in] with in = the last dim of x",
      );
    }
    return product(x, weight, false, true, biases[i], outputs[i] ?? x.dtype);
  });
  record("linear", [x, ...weights, ...biases], ys, (grads) => {
    const used = grads.flatMap((dy, i) => (dy ? [{ dy, i, weight: weights[i]! }] : []));
    const handles = used.flatMap(({ dy, weight }) => [dy.handle, weight.handle]);
    const dx = x.requiresGrad
      ? [result(native().xl_linear_input_gradient(putInts(handles) / 2, x.handle), "linear")]
      : [null];
    const dweights = grads.map((dy, i) =>
      dy && weights[i]!.requiresGrad ? weightGradient(dy, x, weights[i]!) : null,
    );
    const dbiases = biases.map((bias, i) =>
      bias?.requiresGrad && grads[i] ? columnSums(grads[i]!, bias) : null,
    );
    return [...dx, ...dweights, ...dbiases];
  });
  return ys;
}

/** dW [N, K] = Σ_rows dyᵀ x, in the weight's dtype. */
function weightGradient(dy: Tensor, x: Tensor, weight: Tensor): Tensor {
  const status = native().xl_linear_weight_gradient(dy.handle, x.handle, codeOf(weight.dtype));
  return result(status, "linear");
}

function columnSums(dy: Tensor, bias: Tensor): Tensor {
  const sums = sumTo(dy, bias.shape);
  if (sums.dtype === bias.dtype) return sums;
  using narrow = sums;
  return result(native().xl_copy(narrow.handle, codeOf(arithmetic(dy.dtype))), "linear");
}
