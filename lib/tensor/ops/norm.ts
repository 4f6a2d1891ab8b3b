// Norms over the last dim, head norms, softmax. Statistics in f32 (f64 for f64), two-pass variance.

import { native } from "../../native/library.ts";
import { recorded } from "../tape.ts";
import { handleOf, putInts, result, results, type Tensor } from "../tensor.ts";
import { reshape } from "./view.ts";

export interface NormOptions {
  /** Added to the variance. */
  eps?: number;
  bias?: Tensor | undefined;
  /** 1 when the stored scale is w and the factor is 1 + w. */
  scaleOffset?: number;
}

/** (x − mean)/√(var + eps)·scale (+ bias) over the last dim. */
export function layerNorm(x: Tensor, scale?: Tensor, options: NormOptions = {}): Tensor {
  return normed("layerNorm", x, scale, { ...options, center: true }, 1);
}

/** x/√(mean(x²) + eps)·scale (+ bias) over the last dim. */
export function rmsNorm(x: Tensor, scale?: Tensor, options: NormOptions = {}): Tensor {
  return normed("rmsNorm", x, scale, { ...options, center: false }, 1);
}

/**
 * Norm of each head: h [B, S, NH, DV] → [B, S, NH·DV], statistics over DV, scale [NH·DV]. `center`
 * picks LayerNorm (default) or RMSNorm. kernels.md §9.
 */
export function headNorm(
  h: Tensor,
  scale?: Tensor,
  options: NormOptions & { center?: boolean } = {},
): Tensor {
  const groups = h.shape[h.rank - 2]!;
  const flat = reshape(h, [...h.shape.slice(0, -2), groups * h.shape.at(-1)!]);
  return normed("headNorm", flat, scale, { center: true, ...options }, groups);
}

function normed(
  name: string,
  x: Tensor,
  scale: Tensor | undefined,
  options: NormOptions & { center: boolean },
  groups: number,
): Tensor {
  const { eps = 1e-6, bias, scaleOffset = 0 } = options;
  const center = options.center ? 1 : 0;
  const status = native().xl_norm(
    x.handle,
    0,
    handleOf(scale),
    handleOf(bias),
    groups,
    center,
    eps,
    scaleOffset,
  );
  const [y, mean, rstd] = results(status, name);
  return recorded(name, [x, scale, bias], y!, (dy) => {
    const status = native().xl_norm_backward(
      dy.handle,
      x.handle,
      handleOf(scale),
      mean!.handle,
      rstd!.handle,
      0,
      groups,
      center,
      bias ? 1 : 0,
      scaleOffset,
    );
    const [dx, dscale, dbias] = results(status, name);
    return [dx, shapedLike(dscale!, scale), shapedLike(dbias!, bias)];
  });
}

/** A flat parameter gradient in the parameter's shape; null when there is no such parameter. */
function shapedLike(grad: Tensor, parameter: Tensor | undefined): Tensor | null {
  if (!parameter) return null;
  return parameter.rank === 1 ? grad : reshape(grad, parameter.shape);
}

/**
 * σ(o) ∘ headNorm(h) in one pass: h [B, S, NH, DV], o [B, S, NH·DV] pre-activations.
 * kernels.md §9.
 */
export function headNormGate(
  h: Tensor,
  o: Tensor,
  scale: Tensor | undefined,
  options: NormOptions & { center?: boolean } = {},
): Tensor {
  const { eps = 1e-6, bias, scaleOffset = 0 } = options;
  const center = (options.center ?? true) ? 1 : 0;
  const groups = h.shape[h.rank - 2]!;
  const flat = reshape(h, [...h.shape.slice(0, -2), groups * h.shape.at(-1)!]);
  const status = native().xl_head_norm_gate(
    flat.handle,
    o.handle,
    handleOf(scale),
    handleOf(bias),
    groups,
    center,
    eps,
    scaleOffset,
  );
  const [y, mean, rstd] = results(status, "headNormGate");
  return recorded("headNormGate", [flat, o, scale, bias], y!, (dy) => {
    putInts([
      dy.handle,
      flat.handle,
      o.handle,
      handleOf(scale),
      handleOf(bias),
      mean!.handle,
      rstd!.handle,
    ]);
    const status = native().xl_head_norm_gate_backward(groups, center, eps, scaleOffset);
    const [dh, dO, dscale, dbias] = results(status, "headNormGate");
    return [dh, dO, shapedLike(dscale!, scale), shapedLike(dbias!, bias)];
  });
}

/** e^x / Σ e^x over the last dim. */
export function softmax(x: Tensor): Tensor {
  return softened(x, 0);
}

/** x − ln Σ e^x over the last dim. */
export function logSoftmax(x: Tensor): Tensor {
  return softened(x, 1);
}

function softened(x: Tensor, logarithm: 0 | 1): Tensor {
  const name = logarithm ? "logSoftmax" : "softmax";
  const y = result(native().xl_softmax(x.handle, logarithm), name);
  const saved = y.detach();
  return recorded(name, [x], y, (dy) => [
    result(native().xl_softmax_backward(dy.handle, saved.handle, logarithm), name),
  ]);
}
