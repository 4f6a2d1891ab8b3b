// The differentiable operations outside of cells and losses: one row per operation and option.
// An operation without a row fails gradients.test.ts.

import type * as tensors from "../../lib/tensor/index.ts";
import { tensor } from "../../lib/tensor/index.ts";
import type { Domain, Outputs } from "./gradients.ts";
import type { Tensor } from "../../lib/tensor/index.ts";

export type Operations = typeof tensors;

export interface GradientRow {
  /** The exported operation that the row stands for. */
  readonly operation: keyof Operations;
  readonly note: string;
  readonly shapes: readonly (readonly number[])[];
  /** Of each input; the last one repeats. */
  readonly domains: readonly Domain[];
  /** Step of the differences: large ones are exact for linear functions. */
  readonly step?: number;
  readonly run: (t: Operations, ...inputs: Tensor[]) => Outputs;
}

type Run = GradientRow["run"];

export function row(
  operation: keyof Operations,
  note: string,
  shapes: GradientRow["shapes"],
  run: Run,
  domains: readonly Domain[] = ["normal"],
  step?: number,
): GradientRow {
  return { operation, note, shapes, run, domains, ...(step ? { step } : {}) };
}

type Unary = {
  [K in keyof Operations]: Operations[K] extends (x: Tensor) => Tensor ? K : never;
}[keyof Operations];

function simple(operation: Unary, domain: Domain = "normal"): GradientRow {
  return row(operation, domain, [[3, 7]], (t, x) => (t[operation] as (x: Tensor) => Tensor)(x), [
    domain,
  ]);
}

/** A named function of the native table, for names that no export has for itself. */
function named(name: Parameters<Operations["unary"]>[0], parameter = 0, domain: Domain = "normal") {
  return row("unary", name, [[3, 7]], (t, x) => t.unary(name, x, parameter), [domain]);
}

const functions: GradientRow[] = [
  ...(["neg", "abs", "exp", "square", "sin", "cos", "tanh", "sigmoid"] as const).map((name) =>
    simple(name),
  ),
  ...(["softplus", "logSigmoid", "silu", "relu", "gelu"] as const).map((name) => simple(name)),
  ...(["log", "sqrt", "rsqrt", "reciprocal"] as const).map((name) => simple(name, "positive")),
  ...(["neg", "abs", "exp", "square", "sigmoid", "tanh", "silu", "gelu_erf"] as const).map((name) =>
    named(name),
  ),
  ...(["gelu_tanh", "relu", "relu2", "selu", "softplus", "log_sigmoid"] as const).map((name) =>
    named(name),
  ),
  ...(["sin", "cos"] as const).map((name) => named(name)),
  ...(["log", "sqrt", "rsqrt", "reciprocal"] as const).map((name) => named(name, 0, "positive")),
  named("soft_cap", 1.5),
  named("scale", -0.7),
  named("add_scalar", 0.3),
  named("pow_scalar", 2.5, "positive"),
  named("clamp_min", -0.4),
  named("clamp_max", 0.4),
  row("gelu", "tanh form", [[3, 7]], (t, x) => t.gelu(x, "tanh")),
  row("softCap", "cap 2", [[3, 7]], (t, x) => t.softCap(x, 2)),
  row("softCap", "off", [[3, 7]], (t, x) => t.softCap(x, null)),
  row("pow", "square", [[3, 7]], (t, x) => t.pow(x, 2)),
  row("pow", "third power of negative numbers too", [[3, 7]], (t, x) => t.pow(x, 3)),
  row("pow", "-1.5", [[3, 7]], (t, x) => t.pow(x, -1.5), ["positive"]),
  row("clamp", "both sides", [[3, 7]], (t, x) => t.clamp(x, -0.5, 0.5)),
  row("clamp", "from below", [[3, 7]], (t, x) => t.clamp(x, -0.5)),
  row("exp", "of a transposed view", [[3, 7]], (t, x) => t.exp(t.transpose(x))),
  ...(["gelu", "geluTanh", "relu", "relu2", "selu", "sigmoid", "swish", "tanh"] as const).flatMap(
    (name) => [
      row("unaryActivation", name, [[3, 7]], (t, x) => t.unaryActivation(x, name)),
      row(
        "gatedActivation",
        name,
        [
          [3, 7],
          [3, 7],
        ],
        (t, gate, up) => t.gatedActivation(gate, up, name),
      ),
    ],
  ),
];

type Broadcast = readonly [string, readonly number[], readonly number[]];
const pairs: readonly Broadcast[] = [
  ["equal shapes", [2, 3], [2, 3]],
  ["a row", [4, 3], [3]],
  ["a column", [4, 3], [4, 1]],
  ["both", [4, 1], [1, 3]],
  ["a scalar", [2, 3], []],
  ["new dims on the left", [3], [2, 2, 3]],
];

const arithmetic: GradientRow[] = [
  ...(["add", "sub", "mul", "div", "maximum", "minimum"] as const).flatMap((name) =>
    pairs.map(([note, a, b]) =>
      row(name, note, [a, b], (t, x, y) => t[name](x, y), [
        "normal",
        name === "div" ? "positive" : "normal",
      ]),
    ),
  ),
  row("add", "a number", [[2, 3]], (t, x) => t.add(x, 0.5)),
  row("add", "to itself", [[2, 3]], (t, x) => t.add(x, x)),
  row("sub", "from a number", [[2, 3]], (t, x) => t.sub(0.5, x)),
  row("sub", "a number", [[2, 3]], (t, x) => t.sub(x, 0.5)),
  row("sub", "a product of itself", [[2, 3]], (t, x) => t.sub(x, t.mul(x, x))),
  row("mul", "a number", [[2, 3]], (t, x) => t.mul(x, -3)),
  row("mul", "by itself", [[2, 3]], (t, x) => t.mul(x, x)),
  row("div", "a number by it", [[2, 3]], (t, x) => t.div(2, x), ["positive"]),
  row("div", "by a number", [[2, 3]], (t, x) => t.div(x, 3)),
  row("maximum", "a number", [[2, 3]], (t, x) => t.maximum(x, 0.1)),
  row("minimum", "a number", [[2, 3]], (t, x) => t.minimum(x, 0.1)),
  ...pairs.map(([note, a, b]) =>
    row("where", note, [a, b], (t, x, y) => {
      const bits = tensor(new Uint8Array([1, 0, 1]));
      return t.where(bits, x, y);
    }),
  ),
  row("where", "numbers on one side", [[2, 3]], (t, x) => [
    t.where(t.gt(x.detach(), 0), x, 5),
    t.where(t.gt(x.detach(), 0), 5, x),
  ]),
];

const cube = [[2, 3, 4]];
const reductions: GradientRow[] = (
  ["sum", "mean", "max", "min", "sumSquares", "logSumExp"] as const
).flatMap((name) => [
  row(name, "all", cube, (t, x) => t[name](x)),
  row(name, "last dim", cube, (t, x) => t[name](x, -1)),
  row(name, "first dim", cube, (t, x) => t[name](x, 0)),
  row(name, "outer dims, kept", cube, (t, x) => t[name](x, [0, 2], { keepDims: true })),
  row(name, "of a permuted view", cube, (t, x) => t[name](t.permute(x, [2, 0, 1]), 1)),
]);

const views: GradientRow[] = [
  row("reshape", "with an open size", cube, (t, x) => t.reshape(x, [4, -1])),
  row("reshape", "of a view", cube, (t, x) => t.reshape(t.permute(x, [1, 0, 2]), [6, 4])),
  row("permute", "three dims", cube, (t, x) => t.permute(x, [2, 0, 1])),
  row("transpose", "last dims", cube, (t, x) => t.transpose(x)),
  row("transpose", "outer dims", cube, (t, x) => t.transpose(x, 0, -1)),
  row("slice", "middle", cube, (t, x) => t.slice(x, 1, 1, 2)),
  row("slice", "from the end", cube, (t, x) => t.slice(x, -1, -3)),
  row("slice", "every second", cube, (t, x) => t.slice(x, 2, 0, undefined, 2)),
  row("slice", "overlapping pieces", cube, (t, x) => [t.slice(x, 2, 0, 3), t.slice(x, 2, 1, 4)]),
  row("slice", "empty", cube, (t, x) => [t.slice(x, 2, 1, 1), t.neg(x)]),
  row("select", "from the end", cube, (t, x) => t.select(x, 1, -1)),
  row("split", "two pieces", cube, (t, x) => t.split(x, [1, 3])),
  row("split", "one of them unused", cube, (t, x) => t.split(x, [1, 2], 1)[1]!),
  row("expand", "old and new dims", [[2, 1, 3]], (t, x) => t.expand(x, [4, 2, 5, 3])),
  row("unsqueeze", "inside and at the end", [[2, 3]], (t, x) => [
    t.unsqueeze(x, 1),
    t.unsqueeze(x, -1),
  ]),
  row("squeeze", "one and all", [[1, 3, 1]], (t, x) => [t.squeeze(x, 0), t.squeeze(x)]),
  row(
    "concat",
    "inner dim",
    [
      [2, 1, 3],
      [2, 4, 3],
    ],
    (t, a, b) => t.concat([a, b, a], 1),
  ),
  row(
    "concat",
    "views, last dim",
    [
      [2, 3],
      [3, 2],
    ],
    (t, a, b) => t.concat([t.transpose(a), b], -1),
  ),
  row(
    "stack",
    "new dim",
    [
      [2, 3],
      [2, 3],
    ],
    (t, a, b) => t.stack([a, b], 1),
  ),
  row("clone", "of a view", cube, (t, x) => t.clone(t.transpose(x))),
  row("cast", "f32 and back", cube, (t, x) => t.cast(t.cast(x, "f32"), "f64"), ["dyadic"], 0.25),
];

const ids = (...list: number[]) => tensor(Int32Array.from(list));
const grid = () => tensor(Int32Array.from([1, 0, 3, 1]), { shape: [2, 2] });
const selections: GradientRow[] = [
  row("embedding", "repeated ids", [[4, 3]], (t, table) => t.embedding(table, grid())),
  row("indexSelect", "first dim, repeated", [[4, 3]], (t, x) => t.indexSelect(x, ids(2, 0, 2))),
  row("indexSelect", "last dim", cube, (t, x) => t.indexSelect(x, ids(3, 1), -1)),
  row("scatterAdd", "repeated", [[3, 2]], (t, x) => t.scatterAdd(x, ids(1, 4, 1), 5)),
  row("scatterAdd", "inner dim", cube, (t, x) => t.scatterAdd(x, ids(5, 0, 5), 6, 1)),
  row("gather", "repeated", [[2, 4]], (t, x) => t.gather(x, grid())),
  row("topK", "two of five", [[3, 5]], (t, x) => t.topK(x, 2).values),
  row("topK", "all", [[3, 5]], (t, x) => t.topK(x, 5).values),
  row("dropout", "a third", [[4, 2, 8]], (t, x) =>
    t.dropout(x, 1 / 3, t.keyOf("mask", 7), { sample: 3 }),
  ),
  row("dropout", "off", [[4, 8]], (t, x) => t.dropout(x, 0, t.keyOf("mask", 7))),
];

const products: GradientRow[] = [
  row(
    "matmul",
    "matrices",
    [
      [3, 4],
      [4, 5],
    ],
    (t, a, b) => t.matmul(a, b),
  ),
  row(
    "matmul",
    "batched",
    [
      [2, 3, 4],
      [2, 4, 2],
    ],
    (t, a, b) => t.matmul(a, b),
  ),
  row(
    "matmul",
    "one matrix for a batch",
    [
      [2, 3, 4],
      [4, 2],
    ],
    (t, a, b) => t.matmul(a, b),
  ),
  row(
    "matmul",
    "batches broadcast both ways",
    [
      [2, 1, 2, 3],
      [3, 3, 2],
    ],
    (t, a, b) => t.matmul(a, b),
  ),
  row(
    "matmul",
    "transposed views",
    [
      [4, 3],
      [5, 4],
    ],
    (t, a, b) => t.matmul(t.transpose(a), t.transpose(b)),
  ),
  row("matmul", "a square matrix by itself", [[3, 3]], (t, a) => t.matmul(a, a)),
  row(
    "linear",
    "without bias",
    [
      [2, 3, 4],
      [5, 4],
    ],
    (t, x, w) => t.linear(x, w),
  ),
  row("linear", "with bias", [[2, 3, 4], [5, 4], [5]], (t, x, w, b) => t.linear(x, w, b)),
  row("linear", "one vector", [[4], [5, 4], [5]], (t, x, w, b) => t.linear(x, w, b)),
  row(
    "linears",
    "three layers, one with bias, one unused",
    [[2, 3, 4], [5, 4], [2, 4], [2], [3, 4]],
    (t, x, w1, w2, b2, w3) =>
      t.linears(x, [w1, w3, w2], [undefined, undefined, b2]).toSpliced(1, 1),
  ),
  row("headwiseLinear", "with bias", [[2, 3, 8], [2, 3, 4], [6]], (t, x, w, b) =>
    t.headwiseLinear(x, w, b),
  ),
  row(
    "headwiseLinear",
    "square blocks of four",
    [
      [5, 8],
      [2, 4, 4],
    ],
    (t, x, w) => t.headwiseLinear(x, w),
  ),
];

const norms: GradientRow[] = [
  ...(["layerNorm", "rmsNorm"] as const).flatMap((name) => [
    row(name, "alone", cube, (t, x) => t[name](x)),
    row(name, "scale", [[2, 3, 4], [4]], (t, x, scale) => t[name](x, scale)),
    row(name, "scale, bias, eps, offset", [[2, 3, 4], [4], [4]], (t, x, scale, bias) =>
      t[name](x, scale, { bias, eps: 0.1, scaleOffset: 1 }),
    ),
    row(name, "of a view", [[2, 4, 3], [4]], (t, x, scale) => t[name](t.transpose(x), scale)),
  ]),
  ...[true, false].flatMap((center) => [
    row("headNorm", `center ${center}`, [[1, 2, 2, 4], [8], [8]], (t, h, scale, bias) =>
      t.headNorm(h, scale, { bias, center }),
    ),
    row("headNormGate", `center ${center}`, [[1, 2, 2, 4], [1, 2, 8], [8]], (t, h, o, scale) =>
      t.headNormGate(h, o, scale, { center }),
    ),
  ]),
  row("headNorm", "no scale", [[1, 2, 2, 4]], (t, h) => t.headNorm(h, undefined, { eps: 0.01 })),
  row(
    "headNormGate",
    "scale, bias, eps, offset",
    [[1, 2, 2, 4], [1, 2, 8], [8], [8]],
    (t, h, o, scale, bias) => t.headNormGate(h, o, scale, { bias, eps: 0.1, scaleOffset: 1 }),
  ),
  row(
    "headNormGate",
    "no scale",
    [
      [1, 2, 2, 4],
      [1, 2, 8],
    ],
    (t, h, o) => t.headNormGate(h, o, undefined),
  ),
  ...[true, false].flatMap((center) => [
    row(
      "residualNorm",
      `both results, center ${center}`,
      [[2, 3, 4], [2, 3, 4], [4], [4]],
      (t, x, branch, scale, bias) => {
        const { sum, y } = t.residualNorm(x, branch, scale, { bias, center, eps: 0.1 });
        return [sum, y];
      },
    ),
    row(
      "residualNorm",
      `the norm alone, center ${center}`,
      [...cube, ...cube],
      (t, x, branch) => t.residualNorm(x, branch, undefined, { center }).y,
    ),
  ]),
  row(
    "residualNorm",
    "the sum alone",
    [...cube, ...cube, [4]],
    (t, x, branch, scale) => t.residualNorm(x, branch, scale).sum,
  ),
  row("residualNorm", "of a tensor and itself", [...cube, [4]], (t, x, scale) => {
    const { sum, y } = t.residualNorm(x, x, scale);
    return [sum, y];
  }),
  row("rmsNorm", "made again behind a layer", [[2, 3, 4], [4], [5, 4]], (t, x, scale, w) =>
    t.linear(t.rmsNorm(x, scale, { recompute: true }), w),
  ),
  row(
    "headNormGate",
    "made again behind a layer",
    [[1, 2, 2, 4], [1, 2, 8], [8], [3, 8]],
    (t, h, o, scale, w) => t.linear(t.headNormGate(h, o, scale, { recompute: true }), w),
  ),
  row(
    "gatedActivation",
    "made again behind a layer",
    [
      [3, 7],
      [3, 7],
      [2, 7],
    ],
    (t, gate, up, w) => t.linear(t.gatedActivation(gate, up, "swish", { recompute: true }), w),
  ),
  row("softmax", "last dim", cube, (t, x) => t.softmax(x)),
  row("logSoftmax", "last dim", cube, (t, x) => t.logSoftmax(x)),
];

export const plainRows: readonly GradientRow[] = [
  ...functions,
  ...arithmetic,
  ...reductions,
  ...views,
  ...selections,
  ...products,
  ...norms,
];
