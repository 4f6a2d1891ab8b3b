// How tensors print: bounded, never throwing, one line for scalars and small vectors.
//
//   Tensor<f32>[2, 3] cpu mean=0.5 std=0.1
//     [[0.1, 0.2, 0.3],
//      [0.4, 0.5, 0.6]]

import { dtypeBytes } from "./dtype.ts";
import type { Tensor } from "./tensor.ts";

const edge = 3;
/** Larger tensors are not copied whole: their corner is read, statistics are left out. */
const most = 1 << 22;

type Read = (at: number) => number;

/** The text of a tensor for the REPL and for logs. */
export function inspectTensor(tensor: Tensor, colors: boolean): string {
  const paint = (code: number, text: string) => (colors ? `\x1b[${code}m${text}\x1b[0m` : text);
  const head = `Tensor<${paint(36, tensor.dtype)}>[${tensor.shape.join(", ")}]`;
  if (tensor.disposed) return `${head}${paint(31, "(disposed)")}`;
  try {
    const grad = tensor.requiresGrad ? paint(90, " grad") : "";
    const title = `${head} ${tensor.device}${grad}`;
    if (tensor.size === 0) return `${title} (empty)`;
    const values = tensor.size <= most ? tensor.dataSync() : undefined;
    const read: Read = values ? (at) => values[at]! : (at) => element(tensor, at);
    if (tensor.rank === 0) return `${title} ${paint(33, number(read(0)))}`;
    const body = corner(read, tensor.shape, 0, 0, 2);
    const stats = values && tensor.size > 1 ? paint(90, ` ${statistics(values)}`) : "";
    const inline = tensor.rank === 1 && body.length < 60;
    return inline ? `${title}${stats} ${body}` : `${title}${stats}\n  ${body}`;
  } catch (error) {
    return `${head} (unreadable: ${error instanceof Error ? error.message : String(error)})`;
  }
}

function statistics(values: ArrayLike<number>): string {
  let sum = 0;
  let squares = 0;
  let bad = 0;
  for (let i = 0; i < values.length; i++) {
    const x = values[i]!;
    if (!Number.isFinite(x)) bad++;
    else {
      sum += x;
      squares += x * x;
    }
  }
  const n = values.length - bad;
  const mean = n > 0 ? sum / n : Number.NaN;
  const spread = n > 0 ? Math.sqrt(Math.max(0, squares / n - mean * mean)) : Number.NaN;
  const warning = bad > 0 ? ` ${bad} not finite` : "";
  return `mean=${number(mean)} std=${number(spread)}${warning}`;
}

/** One element by its row-major number, without a copy of the rest. */
function element(tensor: Tensor, at: number): number {
  const size = dtypeBytes(tensor.dtype);
  const view = new DataView(tensor.bytesSync(at * size, size).buffer);
  switch (tensor.dtype) {
    case "f32":
      return view.getFloat32(0, true);
    case "f64":
      return view.getFloat64(0, true);
    case "f16":
      return view.getFloat16(0, true);
    case "i32":
      return view.getInt32(0, true);
    case "u8":
      return view.getUint8(0);
    case "bf16": {
      const wide = new DataView(new ArrayBuffer(4));
      wide.setUint16(2, view.getUint16(0, true), true);
      return wide.getFloat32(0, true);
    }
  }
}

/** At most six entries of each of the last two dims; two of each dim before them. */
function corner(
  read: Read,
  shape: readonly number[],
  dim: number,
  at: number,
  indent: number,
): string {
  if (dim === shape.length) return number(read(at));
  const step = shape.slice(dim + 1).reduce((a, b) => a * b, 1);
  const size = shape[dim]!;
  const side = dim >= shape.length - 2 ? edge : 1;
  const parts: string[] = [];
  for (let i = 0; i < size; i++) {
    if (size > 2 * side && i === side) {
      parts.push("…");
      i = size - side;
    }
    parts.push(corner(read, shape, dim + 1, at + i * step, indent + 1));
  }
  const last = dim === shape.length - 1;
  return `[${parts.join(last ? ", " : `,\n${" ".repeat(indent + 1)}`)}]`;
}

function number(x: number): string {
  if (Number.isInteger(x) && Math.abs(x) < 1e6) return String(x);
  const size = Math.abs(x);
  if (!Number.isFinite(x)) return String(x);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? x.toExponential(3) : x.toFixed(4);
}
