// The mLSTM cell: chunkwise, parallel or recurrent form of one function. kernels.md §2-6.

import { native } from "../../native/library.ts";
import { zeros, zerosLike } from "../create.ts";
import { type Backward, needsGrad, record } from "../tape.ts";
import { handleOf, putFloats, putInts, result, results, type Tensor } from "../tensor.ts";

export interface MlstmInputs {
  /** [B, S, NH, DQK]; views into a fused projection are fine. */
  q: Tensor;
  k: Tensor;
  /** [B, S, NH, DV]. */
  v: Tensor;
  /** Gate pre-activations [B, S, NH], f32 (f64 for f64). Soft caps come before the cell. */
  i: Tensor;
  f: Tensor;
}

/** C [B, NH, DQK, DV], n [B, NH, DQK], m [B, NH]; comparable as C·e^m and n·e^m. */
export interface MlstmState {
  c?: Tensor | undefined;
  /** None for the sigmoid gate without normaliser. */
  n?: Tensor | undefined;
  /** None for the sigmoid gate. */
  m?: Tensor | undefined;
}

export interface MlstmOptions {
  inputGate?: "exp" | "sigmoid";
  /** Sigmoid gate only: divide by max(|q·n|, 1). The exp gate always normalises. */
  normalize?: boolean;
  /** Added to the denominator. */
  eps?: number;
  /** Derivative through the denominator ("exact"), or what public kernels compute. */
  gradMode?: "exact" | "frozenDenominator";
  /** At document borders: a fresh state ("exact"), or f := resetForgetValue ("soft"). */
  reset?: "none" | "exact" | "soft";
  resetForgetValue?: number;
  form?: "auto" | "chunkwise" | "parallel" | "recurrent";
  chunkSize?: number | "auto";
  /** u8 [B, S], 1 at the first token of a document. */
  borders?: Tensor | undefined;
  /** i32 [B]: valid tokens of right-padded rows. */
  lengths?: Tensor | undefined;
  state?: MlstmState | undefined;
  returnState?: boolean;
}

const resets = { none: 0, exact: 1, soft: 2 };
const forms = { auto: 0, chunkwise: 0, parallel: 1, recurrent: 2 };

function putOptions(options: MlstmOptions, length: number, keeps = false): void {
  const sigmoid = options.inputGate === "sigmoid";
  const chunk = options.chunkSize ?? "auto";
  putInts(
    [
      sigmoid ? 1 : 0,
      !sigmoid || options.normalize ? 1 : 0,
      resets[options.reset ?? "none"],
      // One token of state: the recurrent form does the same arithmetic without chunk scratch.
      length === 1 ? forms.recurrent : forms[options.form ?? "auto"],
      chunk === "auto" ? 64 : chunk,
      options.gradMode === "frozenDenominator" ? 0 : 1,
      1,
      options.returnState ? 1 : 0,
      keeps ? 1 : 0,
    ],
    32,
  );
  putFloats([options.eps ?? 1e-6, options.resetForgetValue ?? -25]);
}

/** h [B, S, NH, DV] and, when asked for, the state after the last token. One tape node. */
export function mlstm(
  inputs: MlstmInputs,
  options: MlstmOptions = {},
): { h: Tensor; state: MlstmState | undefined } {
  const { q, k, v, i, f } = inputs;
  const sigmoid = options.inputGate === "sigmoid";
  const normalized = !sigmoid || options.normalize === true;
  const { c: c0, n: n0, m: m0 } = options.state ?? {};
  const initial = [c0, normalized ? n0 : undefined, sigmoid ? undefined : m0];
  const all = [q, k, v, i, f, ...initial, options.borders, options.lengths];
  const length = q.shape[1] ?? 0;
  const differentiated = [q, k, v, i, f, initial[0], initial[1]];
  putInts(all.map(handleOf));
  putOptions(options, length, needsGrad(...differentiated));
  const made = results(native().xl_mlstm(), "mlstm");
  const h = made.shift()!;
  const [cLast, nLast, mLast] = options.returnState ? made.splice(0, 3) : [];
  // For the backward pass, each only where it is used: records of the gates, and sigma.
  const saved = made;
  const records = saved.find((tensor) => tensor.shape.length === 1);
  const sigma = saved.find((tensor) => tensor.shape.length === 3);
  const slopes: Backward = ([dh, dc, dn]) => {
    const given = dh ?? zerosLike(h);
    const dnGiven = normalized ? dn : undefined;
    putInts([...all, h, sigma, given, dc, dnGiven, records].map(handleOf));
    putOptions(options, length);
    const [dq, dk, dv, di, df, ...rest] = results(native().xl_mlstm_backward(), "mlstm");
    return [dq, dk, dv, di, df, ...initial.slice(0, 2).map((x) => x && rest.shift())];
  };
  const outputs = cLast && nLast ? [h, cLast, nLast] : [h];
  record("mlstm", differentiated, outputs, slopes, saved);
  if (!cLast) return { h, state: undefined };
  const state = {
    c: cLast,
    n: normalized ? nLast : undefined,
    m: sigmoid ? undefined : mLast,
  };
  return { h, state };
}

/** A fresh state for `batch` rows: zeros. */
export function mlstmState(
  sizes: { batch: number; heads: number; qk: number; v: number },
  dtype: "f32" | "f64" = "f32",
): Required<MlstmState> {
  const { batch, heads, qk, v } = sizes;
  return {
    c: zeros([batch, heads, qk, v], dtype),
    n: zeros([batch, heads, qk], dtype),
    m: zeros([batch, heads], dtype),
  };
}

/**
 * One token: q, k [rows, NH, DQK], v [rows, NH, DV], gates [rows, NH]; `state` changes in place.
 */
export function mlstmStep(
  inputs: MlstmInputs,
  state: MlstmState,
  options: Pick<MlstmOptions, "inputGate" | "normalize" | "eps"> & {
    /** i32 [rows]: which rows of the state these tokens belong to. */
    slots?: Tensor | undefined;
  } = {},
): Tensor {
  const { q, k, v, i, f } = inputs;
  putInts([q, k, v, i, f, options.slots, state.c, state.n, state.m].map(handleOf));
  putOptions(options, 1);
  return result(native().xl_mlstm_step(), "mlstmStep");
}
