// Norms over the last dim, head norms, softmax. Statistics in f32 (f64 for f64), two-pass variance.

import { native } from "../../native/library.ts";
import { type Backward, type Gradient, recomputable, record, recorded } from "../tape.ts";
import { handleOf, putInts, result, results, type Tensor } from "../tensor.ts";
import { cast, reshape } from "./view.ts";

export interface NormOptions {
  /** Added to the variance. */
  eps?: number;
  bias?: Tensor | undefined;
  /** 1 when the stored scale is w and the factor is 1 + w. */
  scaleOffset?: number;
  /** Linear layers on the result make it again in their backward pass instead of keeping it. */
  recompute?: boolean;
}

/** Picks LayerNorm (true) or RMSNorm. */
type Centered = NormOptions & { center?: boolean };

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
export function headNorm(h: Tensor, scale?: Tensor, options: Centered = {}): Tensor {
  const groups = h.shape[h.rank - 2]!;
  const flat = reshape(h, [...h.shape.slice(0, -2), groups * h.shape.at(-1)!]);
  return normed("headNorm", flat, scale, { center: true, ...options }, groups);
}

function normed(
  name: string,
  x: Tensor,
  scale: Tensor | undefined,
  options: Centered,
  groups: number,
): Tensor {
  const outputs = forward(name, x, undefined, scale, options, groups);
  const [y, mean, rstd] = outputs as [Tensor, Tensor, Tensor];
  const slopes = (dy: Tensor) => backward(name, { dy, x, mean, rstd }, scale, options, groups);
  recorded(name, [x, scale, options.bias], y, slopes, [mean, rstd]);
  return options.recompute ? recomputable(y, () => again(name, x, scale, options, groups)) : y;
}

/**
 * sum = x + branch, and y = norm(sum), in one pass: what stands between two branches of a residual
 * stack. The gradient that arrives at the sum joins that of the norm without being rounded between.
 * Without a branch x is such a sum already, made elsewhere; all values have the same bits.
 */
export function residualNorm(
  x: Tensor,
  branch: Tensor | undefined,
  scale?: Tensor,
  options: Centered = {},
): { sum: Tensor; y: Tensor } {
  const name = "residualNorm";
  const added = branch && cast(branch, x.dtype);
  const outputs = forward(name, x, added, scale, options, 1);
  const [y, mean, rstd, total] = outputs as [Tensor, Tensor, Tensor, Tensor];
  const sum = added ? total : x.detach();
  const terms = added ? 2 : 1;
  const slopes: Backward = ([dsum, dy]) => {
    if (!dy) return [...Array<Gradient>(terms).fill(dsum), null, null];
    const [dx, ...rest] = backward(name, { dy, dsum, x: sum, mean, rstd }, scale, options, 1);
    return [...Array<Gradient>(terms).fill(dx), ...rest];
  };
  const inputs = added ? [x, added] : [x];
  record(name, [...inputs, scale, options.bias], [sum, y], slopes, [mean, rstd]);
  if (options.recompute) recomputable(y, () => again(name, sum, scale, options, 1));
  return { sum, y };
}

/** y, mean, rstd and, with a branch, the sum. */
function forward(
  name: string,
  x: Tensor,
  branch: Tensor | undefined,
  scale: Tensor | undefined,
  { eps = 1e-6, bias, scaleOffset = 0, center = true }: Centered,
  groups: number,
): Tensor[] {
  const status = native().xl_norm(
    x.handle,
    handleOf(branch),
    handleOf(scale),
    handleOf(bias),
    groups,
    center ? 1 : 0,
    eps,
    scaleOffset,
  );
  return results(status, name);
}

/** y alone. */
function again(
  name: string,
  x: Tensor,
  scale: Tensor | undefined,
  options: Centered,
  groups: number,
): Tensor {
  const [y, mean, rstd] = forward(name, x, undefined, scale, options, groups);
  mean!.dispose();
  rstd!.dispose();
  return y!;
}

interface Saved {
  readonly dy: Tensor;
  /** The gradient of a residual sum by other ways than the norm. */
  readonly dsum?: Tensor | null | undefined;
  /** What was normalised. */
  readonly x: Tensor;
  readonly mean: Tensor;
  readonly rstd: Tensor;
}

/** dx, dscale, dbias. */
function backward(
  name: string,
  { dy, dsum, x, mean, rstd }: Saved,
  scale: Tensor | undefined,
  { bias, scaleOffset = 0, center = true }: Centered,
  groups: number,
): (Tensor | null)[] {
  const status = native().xl_norm_backward(
    dy.handle,
    x.handle,
    handleOf(scale),
    mean.handle,
    rstd.handle,
    handleOf(dsum),
    groups,
    center ? 1 : 0,
    bias ? 1 : 0,
    scaleOffset,
  );
  const [dx, dscale, dbias] = results(status, name);
  return [dx!, shapedLike(dscale!, scale), shapedLike(dbias!, bias)];
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
  options: Centered = {},
): Tensor {
  const name = "headNormGate";
  const { eps = 1e-6, bias, scaleOffset = 0 } = options;
  const center = (options.center ?? true) ? 1 : 0;
  const groups = h.shape[h.rank - 2]!;
  const flat = reshape(h, [...h.shape.slice(0, -2), groups * h.shape.at(-1)!]);
  const run = () => {
    const given = [flat, o, scale, bias].map(handleOf) as [number, number, number, number];
    const status = native().xl_head_norm_gate(...given, groups, center, eps, scaleOffset);
    return results(status, name) as [Tensor, Tensor, Tensor];
  };
  const [y, mean, rstd] = run();
  const slopes = (dy: Tensor) => {
    putInts([dy, flat, o, scale, bias, mean, rstd].map(handleOf));
    const status = native().xl_head_norm_gate_backward(groups, center, eps, scaleOffset);
    const [dh, dO, dscale, dbias] = results(status, name);
    return [dh!, dO!, shapedLike(dscale!, scale), shapedLike(dbias!, bias)];
  };
  recorded(name, [flat, o, scale, bias], y, slopes, [mean, rstd]);
  return options.recompute ? recomputable(y, () => run()[0]) : y;
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
