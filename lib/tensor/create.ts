// Creation. JavaScript numbers default to f32; other dtypes are asked for.

import { native } from "../native/library.ts";
import { onDevice } from "./device.ts";
import { type DType, dtypeOf, type TypedArray } from "./dtype.ts";
import { DTypeError, ShapeError, shown } from "./errors.ts";
import { type Nested, codeOf, convert, putFloats, putInts, result, Tensor } from "./tensor.ts";
import { nextKey } from "./random.ts";

export interface CreateOptions {
  dtype?: DType;
  shape?: readonly number[];
}

export interface RandomOptions {
  dtype?: DType;
  /** With a name, values depend on (seed, name, element) only. Default: the session's stream. */
  seed?: number;
  name?: string;
}

/** A tensor from a number, nested arrays or a typed array (with `shape`). */
export function tensor(
  data: Nested | TypedArray | ArrayBufferLike,
  options: CreateOptions = {},
): Tensor {
  if (data instanceof ArrayBuffer) return tensor(new Uint8Array(data), options);
  if (ArrayBuffer.isView(data)) return fromArray(data as TypedArray, options);
  const { flat, shape } = flatten(data as Nested);
  const from = fromArray(Float64Array.from(flat), { ...options, shape: options.shape ?? shape });
  const dtype = options.dtype ?? "f32";
  if (from.dtype === dtype) return from;
  using source = from;
  return convert(source, dtype);
}

function fromArray(array: TypedArray, options: CreateOptions): Tensor {
  const shape = options.shape ?? [array.length];
  const dtype = dtypeOf(array);
  checkShape(shape, "tensor");
  const size = shape.reduce((a, b) => a * b, 1);
  if (size !== array.length) {
    throw new ShapeError(`tensor: ${array.length} elements do not fill shape ${shown(shape)}`);
  }
  const rank = putInts(shape);
  const made = result(
    native().xl_from_bytes(rank, codeOf(dtype), array.length ? array : null, array.byteLength),
    "tensor",
  );
  if (!options.dtype || options.dtype === dtype) return made;
  using source = made;
  return convert(source, options.dtype);
}

function flatten(data: Nested): { flat: number[]; shape: number[] } {
  const shape: number[] = [];
  for (let level: Nested = data; Array.isArray(level); level = level[0]!) {
    shape.push(level.length);
    if (level.length === 0) break;
  }
  const flat: number[] = [];
  const walk = (item: Nested, dim: number) => {
    if (dim === shape.length) {
      if (typeof item !== "number") {
        throw new DTypeError(`tensor: expected a number at depth ${dim}, got ${typeof item}`);
      }
      flat.push(item);
      return;
    }
    if (!Array.isArray(item) || item.length !== shape[dim]) {
      const got = Array.isArray(item) ? `${item.length} elements` : typeof item;
      throw new ShapeError(`tensor: ragged data: expected ${shape[dim]} elements, got ${got}`);
    }
    for (const inner of item) walk(inner, dim + 1);
  };
  walk(data, 0);
  return { flat, shape };
}

/** Throws unless every size is a whole number that native code can take. */
export function checkShape(shape: readonly number[], operation: string): void {
  if (shape.length > 8) {
    throw new ShapeError(`${operation}: ${shape.length} dims, at most 8 are possible`);
  }
  for (const size of shape) {
    if (!Number.isInteger(size) || size < 0 || size > 0x7fffffff) {
      throw new ShapeError(`${operation}: ${size} in shape ${shown(shape)} is not a size`);
    }
  }
}

/** Every element `value`. */
export function full(shape: readonly number[], value: number, dtype: DType = "f32"): Tensor {
  checkShape(shape, "full");
  return result(native().xl_full(putInts(shape), codeOf(dtype), value), "full");
}

export function zeros(shape: readonly number[], dtype: DType = "f32"): Tensor {
  return full(shape, 0, dtype);
}

/** Zeros of the shape and on the device of another tensor. */
export function zerosLike(like: Tensor, dtype: DType = like.dtype): Tensor {
  return onDevice(like.device, () => zeros(like.shape, dtype));
}

export function ones(shape: readonly number[], dtype: DType = "f32"): Tensor {
  return full(shape, 1, dtype);
}

/** Undefined contents: for memory that is written next. */
export function empty(shape: readonly number[], dtype: DType = "f32"): Tensor {
  checkShape(shape, "empty");
  return result(native().xl_empty(putInts(shape), codeOf(dtype)), "empty");
}

/** 0, 1, … count − 1; or start, start + step, … below end. */
export function arange(start: number, end?: number, step = 1, dtype: DType = "f32"): Tensor {
  const from = end === undefined ? 0 : start;
  const to = end ?? start;
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (!Number.isSafeInteger(count)) {
    throw new RangeError(`arange: from ${from} to ${to} in steps of ${step} never ends`);
  }
  return result(native().xl_arange(count, codeOf(dtype), from, step), "arange");
}

/** `count` values from `start` to `end`, both included. */
export function linspace(start: number, end: number, count: number, dtype: DType = "f32"): Tensor {
  checkShape([count], "linspace");
  const step = count > 1 ? (end - start) / (count - 1) : 0;
  return result(native().xl_arange(count, codeOf(dtype), start, step), "linspace");
}

/** The identity matrix. */
export function eye(size: number, dtype: DType = "f32"): Tensor {
  const data = new Float32Array(size * size);
  for (let i = 0; i < size; i++) data[i * size + i] = 1;
  return tensor(data, { shape: [size, size], dtype });
}

/** Standard normal values times `std` plus `mean`. */
export function randn(
  shape: readonly number[],
  options: RandomOptions & { mean?: number; std?: number; truncated?: boolean } = {},
): Tensor {
  const kind = options.truncated ? 2 : 1;
  return random(kind, shape, options, options.std ?? 1, options.mean ?? 0);
}

/** Uniform values in [low, high). */
export function uniform(
  shape: readonly number[],
  options: RandomOptions & { low?: number; high?: number } = {},
): Tensor {
  const low = options.low ?? 0;
  return random(0, shape, options, (options.high ?? 1) - low, low);
}

function random(
  kind: number,
  shape: readonly number[],
  options: RandomOptions,
  scale: number,
  offset: number,
): Tensor {
  checkShape(shape, "random");
  const key = nextKey(options);
  putFloats([scale, offset]);
  const status = native().xl_random(
    kind,
    putInts(shape),
    codeOf(options.dtype ?? "f32"),
    key.low,
    key.high,
  );
  return result(status, "random");
}
