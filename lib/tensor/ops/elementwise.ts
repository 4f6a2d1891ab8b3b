// Element-wise functions and broadcasting arithmetic. Numbers are accepted wherever tensors are.

import { native } from "../../native/library.ts";
import { Binary, Unary } from "../../native/symbols.ts";
import { full } from "../create.ts";
import { onDevice } from "../device.ts";
import type { DType } from "../dtype.ts";
import { withProduct } from "../known.ts";
import { needsGrad, recorded } from "../tape.ts";
import { handleOf, result, Tensor } from "../tensor.ts";
import { cast, sumTo } from "./view.ts";

export type UnaryName = keyof typeof Unary;
export type Operand = Tensor | number;

/**
 * Which tensor the backward pass of a function needs; see `Unary.saved` in args/elementwise.zig.
 */
const savesOutput = new Set<UnaryName>(["exp", "sqrt", "rsqrt", "reciprocal"]);
const savesNothing = new Set<UnaryName>(["neg", "scale", "add_scalar"]);

/** y = f(x) element by element, f with an optional parameter. */
export function unary(name: UnaryName, x: Tensor, parameter = 0): Tensor {
  const code = Unary[name];
  const y = result(native().xl_unary(x.handle, code, parameter), name);
  if (!needsGrad(x)) return y;
  const saved = savesNothing.has(name) ? undefined : savesOutput.has(name) ? y.detach() : x;
  return recorded(name, [x], y, (dy) => {
    const status = native().xl_unary_backward(dy.handle, handleOf(saved), code, parameter);
    const dx = result(status, name);
    return [name === "scale" ? withProduct(dx, dy, parameter) : dx];
  });
}

export const neg = (x: Tensor): Tensor => unary("neg", x);
export const abs = (x: Tensor): Tensor => unary("abs", x);
export const exp = (x: Tensor): Tensor => unary("exp", x);
export const log = (x: Tensor): Tensor => unary("log", x);
export const sqrt = (x: Tensor): Tensor => unary("sqrt", x);
/** 1/√x. */
export const rsqrt = (x: Tensor): Tensor => unary("rsqrt", x);
export const square = (x: Tensor): Tensor => unary("square", x);
export const reciprocal = (x: Tensor): Tensor => unary("reciprocal", x);
export const sin = (x: Tensor): Tensor => unary("sin", x);
export const cos = (x: Tensor): Tensor => unary("cos", x);
export const tanh = (x: Tensor): Tensor => unary("tanh", x);
/** 1/(1 + e^−x). */
export const sigmoid = (x: Tensor): Tensor => unary("sigmoid", x);
/** ln(1 + e^x). */
export const softplus = (x: Tensor): Tensor => unary("softplus", x);
/** ln σ(x) = −softplus(−x). */
export const logSigmoid = (x: Tensor): Tensor => unary("log_sigmoid", x);
/** x·σ(x), also called swish. */
export const silu = (x: Tensor): Tensor => unary("silu", x);
export const relu = (x: Tensor): Tensor => unary("relu", x);
/** x·Φ(x); with "tanh": 0.5x(1 + tanh(√(2/π)(x + 0.044715x³))). */
export const gelu = (x: Tensor, approximate: "none" | "tanh" = "none"): Tensor =>
  unary(approximate === "tanh" ? "gelu_tanh" : "gelu_erf", x);

/** cap·tanh(x/cap); null leaves x as it is, without a kernel and without rounding. */
export function softCap(x: Tensor, cap: number | null | undefined): Tensor {
  if (cap === null || cap === undefined) return x;
  if (!(cap > 0)) throw new RangeError(`softCap: ${cap} is not positive; use null for off`);
  return unary("soft_cap", x, cap);
}

/** x^p for a number p. */
export const pow = (x: Tensor, p: number): Tensor =>
  p === 2 ? square(x) : unary("pow_scalar", x, p);

/** min(max(x, low), high). */
export function clamp(x: Tensor, low = -Infinity, high = Infinity): Tensor {
  const above = low === -Infinity ? x : unary("clamp_min", x, low);
  return high === Infinity ? above : unary("clamp_max", above, high);
}

function binary(name: keyof typeof Binary, a: Tensor, b: Tensor): Tensor {
  if (!(a instanceof Tensor && b instanceof Tensor)) throw new TypeError(notTensor(name, a, b));
  return result(native().xl_binary(a.handle, b.handle, Binary[name]), name);
}

/** Names the operand that is neither a tensor nor a number. */
function notTensor(name: string, a: unknown, b: unknown): string {
  const [side, value] = a instanceof Tensor ? ["second", b] : ["first", a];
  const kind = value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;
  const way = Array.isArray(value) ? "; make one with tensor([...])" : "";
  return `${name}: the ${side} operand is ${kind}; expected a Tensor or a number${way}`;
}

function scalarLike(like: Tensor, value: number, dtype: DType): Tensor {
  return onDevice(like.device, () => full([], value, dtype));
}

/** A number beside a tensor, as a tensor of its dtype. */
function lift(x: Operand, like: Tensor): Tensor {
  return typeof x === "number" ? scalarLike(like, x, like.dtype) : x;
}

/** Broadcasting sum; sizes must be equal or 1, trailing dims aligned. */
export function add(a: Tensor, b: Operand): Tensor {
  if (typeof b === "number") return unary("add_scalar", a, b);
  const y = binary("add", a, b);
  return recorded("add", [a, b], y, (dy) => [sumLike(dy, a), sumLike(dy, b)]);
}

export function sub(a: Operand, b: Operand): Tensor {
  if (typeof b === "number") return unary("add_scalar", a as Tensor, -b);
  if (typeof a === "number") return unary("add_scalar", neg(b), a);
  const y = binary("sub", a, b);
  return recorded("sub", [a, b], y, (dy) =>
    [sumLike(dy, a), b.requiresGrad && sumLike(neg(dy), b)].map((grad) => grad || null),
  );
}

/** Broadcasting element-wise product. */
export function mul(a: Tensor, b: Operand): Tensor {
  if (typeof b === "number") return unary("scale", a, b);
  const y = binary("mul", a, b);
  return recorded("mul", [a, b], y, (dy) => [
    a.requiresGrad ? sumLike(binary("mul", dy, b), a) : null,
    b.requiresGrad ? sumLike(binary("mul", dy, a), b) : null,
  ]);
}

export function div(a: Operand, b: Operand): Tensor {
  if (typeof b === "number") return unary("scale", a as Tensor, 1 / b);
  const numerator = lift(a, b);
  const y = binary("div", numerator, b);
  const saved = y.detach();
  return recorded("div", [numerator, b], y, (dy) => {
    const quotient = binary("div", dy, b);
    const db = b.requiresGrad ? sumLike(neg(binary("mul", quotient, saved)), b) : null;
    return [numerator.requiresGrad ? sumLike(quotient, numerator) : null, db];
  });
}

/** Larger of both; at a tie the gradient goes to a. NaN wins. */
export function maximum(a: Tensor, b: Operand): Tensor {
  return extreme("maximum", "ge", a, lift(b, a));
}

/** Smaller of both; at a tie the gradient goes to a. NaN wins. */
export function minimum(a: Tensor, b: Operand): Tensor {
  return extreme("minimum", "le", a, lift(b, a));
}

function extreme(name: "maximum" | "minimum", pick: "ge" | "le", a: Tensor, b: Tensor): Tensor {
  const y = binary(name, a, b);
  return recorded(name, [a, b], y, (dy) => {
    const first = binary(pick, a, b);
    const second = unary("add_scalar", neg(first), 1);
    return [sumLike(binary("mul", dy, first), a), sumLike(binary("mul", dy, second), b)];
  });
}

/** 1 where the comparison holds, else 0, in a's dtype. No gradient. */
export const eq = (a: Tensor, b: Operand): Tensor => binary("eq", a, lift(b, a));
export const lt = (a: Tensor, b: Operand): Tensor => binary("lt", a, lift(b, a));
export const le = (a: Tensor, b: Operand): Tensor => binary("le", a, lift(b, a));
export const gt = (a: Tensor, b: Operand): Tensor => binary("gt", a, lift(b, a));
export const ge = (a: Tensor, b: Operand): Tensor => binary("ge", a, lift(b, a));

/** mask ≠ 0 ? a : b; the mask may have any dtype. */
export function where(mask: Tensor, a: Operand, b: Operand): Tensor {
  const like = typeof a === "number" ? (b as Tensor) : a;
  const yes = lift(a, like);
  const no = lift(b, like);
  const bits = cast(mask, "u8");
  const y = result(native().xl_where(bits.handle, yes.handle, no.handle), "where");
  return recorded("where", [yes, no], y, (dy) => {
    const zero = scalarLike(dy, 0, dy.dtype);
    const pick = (p: Tensor, q: Tensor, to: Tensor) =>
      sumLike(result(native().xl_where(bits.handle, p.handle, q.handle), "where"), to);
    return [pick(dy, zero, yes), pick(zero, dy, no)];
  });
}

/** A gradient summed back to the shape of an operand that was broadcast. */
function sumLike(dy: Tensor, operand: Tensor): Tensor {
  const same = dy.rank === operand.rank && dy.shape.every((size, i) => size === operand.shape[i]);
  return same ? dy : sumTo(dy, operand.shape);
}
