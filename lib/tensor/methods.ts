// Operations as methods: `x.add(y).relu()` is `relu(add(x, y))`. They are put on the prototype
// here,
// not enumerable, so that tensors print and compare as plain data.

import * as elementwise from "./ops/elementwise.ts";
import * as index from "./ops/index.ts";
import * as products from "./ops/matmul.ts";
import * as norm from "./ops/norm.ts";
import * as reduce from "./ops/reduce.ts";
import * as view from "./ops/view.ts";
import { withValue } from "./known.ts";
import { backward, hooks, requireGrad } from "./tape.ts";
import { ones } from "./create.ts";
import { onDevice, toDevice } from "./device.ts";
import { Gradients } from "./gradients.ts";
import { keep } from "./scope.ts";
import { Tensor } from "./tensor.ts";

const functions = {
  abs: elementwise.abs,
  add: elementwise.add,
  clamp: elementwise.clamp,
  cos: elementwise.cos,
  div: elementwise.div,
  eq: elementwise.eq,
  exp: elementwise.exp,
  ge: elementwise.ge,
  gelu: elementwise.gelu,
  gt: elementwise.gt,
  le: elementwise.le,
  log: elementwise.log,
  logSigmoid: elementwise.logSigmoid,
  lt: elementwise.lt,
  maximum: elementwise.maximum,
  minimum: elementwise.minimum,
  mul: elementwise.mul,
  neg: elementwise.neg,
  pow: elementwise.pow,
  reciprocal: elementwise.reciprocal,
  relu: elementwise.relu,
  rsqrt: elementwise.rsqrt,
  sigmoid: elementwise.sigmoid,
  silu: elementwise.silu,
  sin: elementwise.sin,
  softCap: elementwise.softCap,
  softplus: elementwise.softplus,
  sqrt: elementwise.sqrt,
  square: elementwise.square,
  sub: elementwise.sub,
  tanh: elementwise.tanh,
  argmax: index.argmax,
  gather: index.gather,
  indexSelect: index.indexSelect,
  scatterAdd: index.scatterAdd,
  topK: index.topK,
  linear: products.linear,
  matmul: products.matmul,
  layerNorm: norm.layerNorm,
  logSoftmax: norm.logSoftmax,
  rmsNorm: norm.rmsNorm,
  softmax: norm.softmax,
  logSumExp: reduce.logSumExp,
  max: reduce.max,
  mean: reduce.mean,
  min: reduce.min,
  sum: reduce.sum,
  sumSquares: reduce.sumSquares,
  to: toDevice,
  cast: view.cast,
  clone: view.clone,
  expand: view.expand,
  permute: view.permute,
  reshape: view.reshape,
  select: view.select,
  slice: view.slice,
  split: view.split,
  squeeze: view.squeeze,
  transpose: view.transpose,
  unsqueeze: view.unsqueeze,
} as const;

type Functions = typeof functions;
type Method<F> = F extends (x: Tensor, ...rest: infer Rest) => infer Result
  ? (...rest: Rest) => Result
  : F extends (x: infer _, ...rest: infer Rest) => infer Result
    ? (...rest: Rest) => Result
    : never;

declare module "./tensor.ts" {
  interface Tensor extends Methods {
    /** Gradients of every leaf this (one-element) tensor depends on. Uses up the tape. */
    backward(seed?: Tensor): Gradients;
    /** Marks a leaf as one that gradients are wanted for. */
    requireGrad(): this;
    /** Takes the tensor out of its scope. */
    keep(): this;
    /** Overwrites the values in place, broadcasting and converting. Not recorded. */
    write_(source: Tensor): this;
  }
}

type Methods = { [K in keyof Functions]: Method<Functions[K]> };

function define(name: string, value: unknown): void {
  Object.defineProperty(Tensor.prototype, name, { value, configurable: true, writable: true });
}

for (const [name, f] of Object.entries(functions)) {
  const call = f as (...args: unknown[]) => unknown;
  define(name, function (this: Tensor, ...rest: unknown[]) {
    return call(this, ...rest);
  });
}

define("backward", function (this: Tensor, seed?: Tensor) {
  return new Gradients(backward([this], [seed]));
});
define("requireGrad", function (this: Tensor) {
  return requireGrad(this);
});
define("keep", function (this: Tensor) {
  return keep(this);
});
define("write_", function (this: Tensor, source: Tensor) {
  return view.write(this, source);
});

hooks.add = elementwise.add;
hooks.ones = (like) =>
  withValue(
    onDevice(like.device, () => ones(like.shape, like.dtype)),
    1,
  );
