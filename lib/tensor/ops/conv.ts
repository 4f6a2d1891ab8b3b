// Causal depthwise convolution over time, and head-wise (block-diagonal) linear maps.

import { native } from "../../native/library.ts";
import { zerosLike } from "../create.ts";
import { record, recorded } from "../tape.ts";
import { handleOf, putInts, result, results, type Tensor } from "../tensor.ts";
import { reshape } from "./view.ts";

export interface ConvOptions {
  /** The K − 1 inputs before the first token [B, K − 1, C]; default zeros. */
  state?: Tensor | undefined;
  /** u8 [B, T]: taps from before a document's first token read 0. */
  borders?: Tensor | undefined;
  /** i32 [B]: valid tokens of right-padded rows. */
  lengths?: Tensor | undefined;
  /** Apply x·σ(x) to the result in the same pass. */
  silu?: boolean;
  /** Also return the last K − 1 inputs. */
  returnState?: boolean;
}

/**
 * y_t = b + Σ_j w_j x_{t − (K−1) + j} for x [B, T, C], weight [C, K]; the last tap meets the
 * current
 * token. kernels.md §8.
 */
export function causalConv(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: ConvOptions = {},
): { y: Tensor; state: Tensor | undefined } {
  const { state, borders, lengths } = options;
  const silu = options.silu ? 1 : 0;
  const status = native().xl_conv(
    x.handle,
    weight.handle,
    handleOf(bias),
    handleOf(state),
    handleOf(borders),
    handleOf(lengths),
    silu,
  );
  const [y, last] = results(status, "causalConv") as [Tensor, Tensor];
  record("causalConv", [x, weight, bias, state], [y, last], ([dy, dlast]) => {
    const given = dy ?? zerosLike(y);
    putInts([given, x, weight, bias, state, borders, lengths, dlast].map(handleOf));
    const status = native().xl_conv_backward(silu);
    const [dx, dweight, dbias, dstate] = results(status, "causalConv");
    return [dx, dweight, bias ? dbias : null, state ? dstate : null];
  });
  if (options.returnState) return { y, state: last };
  if (!y.requiresGrad) last.dispose();
  return { y, state: undefined };
}

/** One token of `causalConv`: x [rows, C]; `state` [slots, K − 1, C] is updated in place. */
export function causalConvStep(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  state: Tensor,
  options: { silu?: boolean; slots?: Tensor | undefined } = {},
): Tensor {
  const status = native().xl_conv_step(
    x.handle,
    weight.handle,
    handleOf(bias),
    handleOf(options.slots),
    state.handle,
    options.silu ? 1 : 0,
  );
  return result(status, "causalConvStep");
}

/** y[.., h·b + o] = Σ_i W[h, o, i] x[.., h·a + i] (+ bias): weight [n, b, a]. models.md §2.4. */
export function headwiseLinear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const status = native().xl_headwise(x.handle, weight.handle, handleOf(bias));
  const y = result(status, "headwiseLinear");
  return recorded("headwiseLinear", [x, weight, bias], y, (dy) => {
    const has = bias ? 1 : 0;
    const status = native().xl_headwise_backward(dy.handle, x.handle, weight.handle, has);
    const [dx, dweight, dbias] = results(status, "headwiseLinear");
    return [dx, dweight, bias ? reshape(dbias!, bias.shape) : null];
  });
}
