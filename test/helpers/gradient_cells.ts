// Rows of cells, the convolution, losses and the functions that build on the tape.

import {
  type ConvOptions,
  type LossOptions,
  type MlstmOptions,
  mul,
  type SlstmOptions,
  type Tensor,
  tensor,
  where,
} from "../../lib/tensor/index.ts";
import { type GradientRow, row } from "./gradient_rows.ts";

const B = 2;
const S = 9;
const H = 2;
const qk = 3;
const v = 4;
/** Valid tokens of the second, right-padded row. */
const short = 5;

/** Borders of two rows: the very first token, one inside, two side by side, the last. */
function borders(): Tensor {
  const starts = new Set([0, 4, S, S + 3, S + 4, 2 * S - 1]);
  const data = Uint8Array.from({ length: B * S }, (_, i) => Number(starts.has(i)));
  return tensor(data, { shape: [B, S] });
}

const lengths = () => tensor(Int32Array.from([S, short]));

/** y with what lies behind each row's length taken out: its contents are not defined. */
function valid(y: Tensor): Tensor {
  const inside = Uint8Array.from({ length: B * S }, (_, i) => Number(i < S + short));
  return where(tensor(inside, { shape: [B, S, ...y.shape.slice(2).map(() => 1)] }), y, 0);
}

const cellShapes = [
  [B, S, H, qk],
  [B, S, H, qk],
  [B, S, H, v],
  [B, S, H],
  [B, S, H],
];
const stateShapes = [
  [B, H, qk, v],
  [B, H, qk],
];

/** m of a given state: bookkeeping without a gradient. */
const m0 = (like: Tensor) =>
  tensor(Float64Array.of(0.3, -0.2, 0.1, 0.4), { shape: [B, H], dtype: like.dtype });

type Options<T> = () => T;

function cell(note: string, options: Options<MlstmOptions>): GradientRow {
  return row("mlstm", note, cellShapes, (t, q, k, value, i, f) => {
    const given = { gradMode: "exact", ...options() } as const;
    const { h } = t.mlstm({ q, k, v: value, i, f }, given);
    return given.lengths ? valid(h) : h;
  });
}

/** With a given state and the last one: states are comparable as c·e^m and n·e^m only. */
function cellWithState(note: string, options: Options<MlstmOptions>): GradientRow {
  const shapes = [...cellShapes, ...stateShapes];
  return row("mlstm", `${note}, states`, shapes, (t, q, k, value, i, f, c, n) => {
    const given = { gradMode: "exact", ...options() } as const;
    const sigmoid = given.inputGate === "sigmoid";
    const normalized = !sigmoid || given.normalize;
    const state = { c, n: normalized ? n : undefined, m: sigmoid ? undefined : m0(q) };
    const inputs = { q, k, v: value, i, f };
    const { h, state: last } = t.mlstm(inputs, { ...given, state, returnState: true });
    const factor = last!.m ? t.exp(last!.m) : undefined;
    const times = (x: Tensor | undefined) =>
      x && factor ? mul(x, t.reshape(factor, [B, H, ...x.shape.slice(2).map(() => 1)])) : x;
    return [given.lengths ? valid(h) : h, times(last!.c), times(last!.n)];
  });
}

const sigmoid = { inputGate: "sigmoid" } as const;
const chunkSize = 4;

const mlstmRows: GradientRow[] = [
  cell("exp", () => ({})),
  ...(["chunkwise", "parallel", "recurrent"] as const).flatMap((form) => [
    cell(`exp, ${form}`, () => ({ form, chunkSize })),
    cell(`exp, ${form}, exact resets`, () => ({
      form,
      chunkSize,
      reset: "exact",
      borders: borders(),
    })),
    cellWithState(`exp, ${form}`, () => ({ form, chunkSize })),
  ]),
  cell("exp, eps 0.3", () => ({ eps: 0.3, chunkSize })),
  cell("exp, soft resets", () => ({ reset: "soft", borders: borders(), chunkSize })),
  cell("exp, lengths", () => ({ lengths: lengths(), chunkSize })),
  cellWithState("exp, lengths", () => ({ lengths: lengths(), chunkSize })),
  cellWithState("exp, exact resets", () => ({ reset: "exact", borders: borders(), chunkSize })),
  ...[true, false].flatMap((normalize) => [
    cell(`sigmoid, normalize ${normalize}`, () => ({ ...sigmoid, normalize })),
    cell(`sigmoid, normalize ${normalize}, resets, lengths`, () => ({
      ...sigmoid,
      normalize,
      chunkSize,
      reset: "exact",
      borders: borders(),
      lengths: lengths(),
    })),
    cellWithState(`sigmoid, normalize ${normalize}`, () => ({ ...sigmoid, normalize, chunkSize })),
  ]),
];

const D = 3;
const gateShapes = [
  [B, S, 4, H, D],
  [4, H, D, D],
  [4, H, D],
];

function scalar(note: string, options: Options<SlstmOptions>): GradientRow {
  return row("slstm", note, gateShapes, (t, wx, r, b) => {
    const given = options();
    const { y } = t.slstm(wx, r, b, given);
    return given.lengths ? valid(y) : y;
  });
}

/** A state in the order y, c, n, m; n must be positive. */
function scalarWithState(note: string, options: Options<SlstmOptions>): GradientRow {
  const states = Array.from({ length: 4 }, () => [B, 1, H, D]);
  const shapes = [...gateShapes, ...states];
  const domains = ["normal", "normal", "normal", "normal", "normal", "positive", "normal"] as const;
  return row(
    "slstm",
    `${note}, states`,
    shapes,
    (t, wx, r, b, ...state) => {
      const given = options();
      const { y, state: last } = t.slstm(wx, r, b, { ...given, state: t.concat(state, 1) });
      const [y1, c, n, m] = t.split(last, [1, 1, 1, 1], 1) as [Tensor, Tensor, Tensor, Tensor];
      // Without a stabiliser (plain LSTM) m stays what it was and scales nothing.
      const factor = given.function === "lstm" ? t.full([], 1, c.dtype) : t.exp(m.detach());
      const rest = given.function === "lstm" ? [] : [mul(n, factor)];
      return [given.lengths ? valid(y) : y, y1, mul(c, factor), ...rest];
    },
    domains,
  );
}

const slstmRows: GradientRow[] = [
  scalar("fresh", () => ({})),
  scalar("resets", () => ({ borders: borders() })),
  scalar("lengths", () => ({ lengths: lengths() })),
  scalar("plain LSTM", () => ({ function: "lstm" })),
  scalar("clipped output", () => ({ forwardClip: 0.2 })),
  scalarWithState("given", () => ({})),
  scalarWithState("resets, lengths", () => ({ borders: borders(), lengths: lengths() })),
  scalarWithState("plain LSTM", () => ({ function: "lstm" })),
];

const C = 3;
const K = 4;
const convShapes = [[B, S, C], [C, K], [C], [B, K - 1, C]];

function conv(note: string, options: Options<ConvOptions>): GradientRow {
  return row("causalConv", note, convShapes.slice(0, 3), (t, x, weight, bias) => {
    const given = options();
    const { y, state } = t.causalConv(x, weight, bias, given);
    return [given.lengths ? valid(y) : y, state];
  });
}

const convRows: GradientRow[] = [
  row("causalConv", "no bias", convShapes.slice(0, 2), (t, x, w) => t.causalConv(x, w).y),
  conv("bias", () => ({})),
  conv("silu", () => ({ silu: true })),
  conv("borders", () => ({ borders: borders() })),
  conv("lengths, last inputs", () => ({ lengths: lengths(), returnState: true })),
  ...[false, true].map((silu) =>
    row("causalConv", `given and last inputs, silu ${silu}`, convShapes, (t, x, w, b, state) => {
      const { y, state: last } = t.causalConv(x, w, b, { state, silu, returnState: true });
      return [y, last];
    }),
  ),
  row(
    "causalConv",
    "fewer tokens than taps",
    [
      [B, 2, C],
      [C, K],
      [B, 3, C],
    ],
    (t, x, w, state) => {
      const { y, state: last } = t.causalConv(x, w, undefined, { state, returnState: true });
      return [y, last];
    },
  ),
  row("causalConv", "resets of given inputs", convShapes, (t, x, w, b, state) => {
    const { y, state: last } = t.causalConv(x, w, b, {
      state,
      borders: borders(),
      lengths: lengths(),
      returnState: true,
    });
    return [valid(y), last];
  }),
];

const targets = () => tensor(Int32Array.from([4, 0, 2, 2, 1, 3]), { shape: [2, 3] });
const mask = () => tensor(Uint8Array.from([1, 1, 0, 1, 0, 1]), { shape: [2, 3] });
const lossOptions: Record<string, Options<LossOptions>> = {
  plain: () => ({}),
  mask: () => ({ mask: mask() }),
  "soft cap": () => ({ softCap: 1.5 }),
  smoothing: () => ({ labelSmoothing: 0.1 }),
  "z-loss": () => ({ zLoss: 0.05 }),
  everything: () => ({ mask: mask(), softCap: 2, labelSmoothing: 0.2, zLoss: 0.01 }),
};

const lossRows: GradientRow[] = Object.entries(lossOptions).flatMap(([note, options]) => [
  row("crossEntropy", note, [[2, 3, 5]], (t, x) => t.crossEntropy(x, targets(), options()).loss),
  row(
    "linearCrossEntropy",
    note,
    [
      [2, 3, 4],
      [5, 4],
    ],
    (t, hidden, w) => t.linearCrossEntropy(hidden, w, targets(), options()).loss,
  ),
]);

const square = [
  [2, 3],
  [3, 3],
];

const functionalRows: GradientRow[] = [
  row("checkpoint", "an input", [[2, 3]], (t, x) =>
    t.checkpoint((y) => t.tanh(t.mul(y, t.exp(y))), [x]),
  ),
  row("checkpoint", "a captured parameter, inside a graph", square, (t, x, w) => {
    const y = t.checkpoint((h) => t.tanh(t.linear(h, w)), [t.square(x)], [w]);
    return t.mul(y, x);
  }),
  row("checkpoint", "nested", square, (t, x, w) =>
    t.checkpoint(
      (h) => t.checkpoint((inner) => t.silu(t.linear(inner, w)), [t.sin(h)], [w]),
      [x],
      [w],
    ),
  ),
  row("customGrad", "the derivative of x³", [[2, 3]], (t, x) =>
    t.customGrad((y: Tensor) => ({
      value: t.pow(y, 3),
      backward: (dy) => [t.mul(dy, t.mul(t.square(y), 3))],
    }))(t.neg(x)),
  ),
];

export const cellRows: readonly GradientRow[] = [
  ...mlstmRows,
  ...slstmRows,
  ...convRows,
  ...lossRows,
  ...functionalRows,
];
