// Matrix products. Operands may be views: transposes cost nothing, packing reads any strides.

import { native } from "../../native/library.ts";
import type { DType } from "../dtype.ts";
import { arithmetic } from "../dtype.ts";
import { ShapeError, shown } from "../errors.ts";
import {
  areJoint,
  gradientDtype,
  type InputGradient,
  jointGradients,
  type Layer,
  product,
  products,
} from "../joint.ts";
import type { SharedSums } from "../shared_sums.ts";
import { announce, record, recorded, remembered } from "../tape.ts";
import { codeOf, handleOf, putInts, result, type Tensor } from "../tensor.ts";
import { sumTo } from "./view.ts";

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
 * results of bf16 inputs (gates). `shared`: what ranks that split the layers add together.
 */
export function linears(
  x: Tensor,
  weights: readonly Tensor[],
  biases: readonly (Tensor | undefined)[] = [],
  outputs: readonly (DType | undefined)[] = [],
  shared: SharedSums = {},
): Tensor[] {
  const layers = weights.map((weight, i) => {
    if (weight.rank !== 2 || x.rank < 1 || weight.shape[1] !== x.shape.at(-1)) {
      throw new ShapeError(
        `linear: x ${shown(x.shape)} and weight ${shown(weight.shape)}: ` +
          "expected weight [out, in] with in = the last dim of x",
      );
    }
    return { weight, bias: biases[i], dtype: outputs[i] };
  });
  const ys = inParts(x, layers, shared) ?? products(x, layers);
  const input = remembered(x);
  const node = record("linear", [x, ...weights, ...biases], ys, (grads) => {
    const { dx, dweights } = gradients(input(), grads, weights, {
      wanted: x.requiresGrad,
      parts: shared.outputs ?? 0,
      ready: (dx) => announce(node, 0, dx),
    });
    const dbiases = biases.map((bias, i) =>
      bias?.requiresGrad && grads[i] ? columnSums(grads[i]!, bias) : null,
    );
    return [dx, ...dweights, ...dbiases];
  });
  return ys;
}

/** Results whose sums are added in runs that ranks share: on a CPU, in the dtype of x. */
function inParts(
  x: Tensor,
  layers: readonly Layer[],
  { inputs = 0, segments = [x.shape.at(-1)!] }: SharedSums,
): Tensor[] | undefined {
  const isPlain = layers.every(({ dtype = x.dtype }) => dtype === x.dtype);
  if (inputs === 0 || x.device !== "cpu" || !isPlain) return undefined;
  return layers.map(({ weight, bias }) => {
    const given = [x.handle, weight.handle, handleOf(bias), inputs] as const;
    return result(native().xl_linear_in_parts(...given, putInts(segments)), "linear");
  });
}

/** dx, where it is wanted, and the gradients of weights that have one. */
function gradients(
  x: Tensor,
  grads: readonly (Tensor | null | undefined)[],
  weights: readonly Tensor[],
  { wanted, parts, ready }: InputGradient & { readonly parts: number },
): { dx: Tensor | null; dweights: (Tensor | null)[] } {
  const used = weights.flatMap((weight, i) => (grads[i] ? [{ dy: grads[i], weight }] : []));
  const its = used.map(({ weight }) => weight);
  const dys = used.map(({ dy }) => dy);
  if (areJoint(x, its)) {
    const { dx, dweights } = jointGradients(x, dys, its, { wanted, ready });
    return { dx, dweights: weights.map((_, i) => (grads[i] ? dweights.shift()! : null)) };
  }
  const handles = used.flatMap(({ dy, weight }) => [dy.handle, weight.handle]);
  const dx = wanted
    ? result(native().xl_linear_input_gradient(putInts(handles) / 2, x.handle, parts), "linear")
    : null;
  if (dx) ready(dx);
  const dweights = weights.map((weight, i) =>
    grads[i] && weight.requiresGrad ? weightGradient(grads[i], x, weight) : null,
  );
  return { dx, dweights };
}

/** dW [N, K] = Σ_rows dyᵀ x. */
function weightGradient(dy: Tensor, x: Tensor, weight: Tensor): Tensor {
  const code = codeOf(gradientDtype(weight));
  const status = native().xl_linear_weight_gradient(dy.handle, x.handle, code);
  return result(status, "linear");
}

function columnSums(dy: Tensor, bias: Tensor): Tensor {
  const sums = sumTo(dy, bias.shape);
  if (sums.dtype === bias.dtype) return sums;
  using narrow = sums;
  return result(native().xl_copy(narrow.handle, codeOf(arithmetic(dy.dtype))), "linear");
}
