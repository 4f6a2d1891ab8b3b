// The tensor: a native handle with shape, dtype and device. Operations live in `ops/`; `methods.ts`
// adds them as methods.

import { check, native, scratch } from "../native/library.ts";
import { type Device, type DType, arrayFor, deviceNames, dtypeBytes, dtypeName } from "./dtype.ts";
import type { TypedArray } from "./dtype.ts";
import { DisposedError, DTypeError, shown } from "./errors.ts";
import { inspectTensor } from "./inspect.ts";
import { adopt, forget, free, type Owned } from "./scope.ts";
import type { Edge } from "./tape.ts";

/** Nested arrays of numbers, as `tolist` returns them. */
export type Nested = number | Nested[];

export class Tensor implements Owned, Disposable {
  /** Native handle; 0 after disposal. */
  readonly id: number;
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly device: Device;
  /** Whether gradients flow to (leaf) or through (result) this tensor. */
  requiresGrad: boolean;
  /** Where the gradient of this tensor goes; undefined for a leaf. */
  declare edge: Edge | undefined;

  constructor(id: number, shape: readonly number[], dtype: DType, device: Device) {
    this.id = id;
    this.shape = shape;
    this.dtype = dtype;
    this.device = device;
    this.requiresGrad = false;
    Object.defineProperty(this, "edge", { value: undefined, writable: true, enumerable: false });
    adopt(this);
  }

  get rank(): number {
    return this.shape.length;
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }

  get byteLength(): number {
    return this.size * dtypeBytes(this.dtype);
  }

  get disposed(): boolean {
    return this.id === 0;
  }

  /** The handle for a native call; throws when the tensor is gone. */
  get handle(): number {
    if (this.id === 0) {
      const label = `Tensor<${this.dtype}>${shown(this.shape)}`;
      throw new DisposedError(`${label} was disposed of, or its scope has ended`);
    }
    return this.id;
  }

  /** Copies the data to a typed array (bf16: converted to Float32Array). Waits for the device. */
  dataSync(): TypedArray {
    const source = this.dtype === "bf16" || this.dtype === "f16" ? convert(this, "f32") : this;
    const array = arrayFor(source.dtype, source.size);
    check(native().xl_to_bytes(source.handle, array, 0, array.byteLength), "data");
    if (source !== this) source.dispose();
    return array;
  }

  /** `dataSync` behind a promise: the name of the place where a program waits. */
  async data(): Promise<TypedArray> {
    return this.dataSync();
  }

  /** The only element as a number. Waits for the device. */
  item(): number {
    if (this.size !== 1) {
      throw new RangeError(`item(): the tensor has shape ${shown(this.shape)}, not one element`);
    }
    return this.dataSync()[0]!;
  }

  /** The elements as nested arrays. Waits for the device. */
  tolist(): Nested {
    const data = this.dataSync();
    let at = 0;
    const build = (dim: number): Nested => {
      if (dim === this.rank) return data[at++]!;
      return Array.from({ length: this.shape[dim]! }, () => build(dim + 1));
    };
    return build(0);
  }

  /** The bytes as stored (bf16: bit patterns), from `offset`; for files and hashes. */
  bytesSync(offset = 0, length = this.byteLength - offset): Uint8Array {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.byteLength)) {
      const part = `${length} bytes from ${offset}`;
      throw new RangeError(`bytesSync(): ${part} do not lie in ${this.byteLength} bytes`);
    }
    const array = new Uint8Array(length);
    check(native().xl_to_bytes(this.handle, array, offset, length), "bytes");
    return array;
  }

  /** The same values without gradient history. */
  detach(): Tensor {
    check(native().xl_alias(this.handle), "detach");
    return outputs(1)[0]!;
  }

  /** Frees the memory now. Safe to call twice. */
  dispose(): void {
    if (this.id === 0) return;
    free(this);
    this[forget]();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  [forget](): void {
    (this as { id: number }).id = 0;
    this.edge = undefined;
  }

  toJSON(): object {
    return { shape: this.shape, dtype: this.dtype, device: this.device };
  }

  toString(): string {
    return inspectTensor(this, false);
  }

  [Symbol.for("nodejs.util.inspect.custom")](_depth: number, options?: { colors?: boolean }) {
    return inspectTensor(this, options?.colors ?? false);
  }

  /** Text for templates and `String(…)`; arithmetic on a tensor is a mistake and throws. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    const label = `Tensor<${this.dtype}>${shown(this.shape)}`;
    throw new TypeError(`${label} is not a number; use .item(), or an operation such as .add()`);
  }
}

/** The results of the native call that has just returned. */
export function outputs(count: number): Tensor[] {
  const records = scratch().outputs;
  const tensors: Tensor[] = [];
  for (let i = 0; i < count; i++) {
    const at = i * 16;
    const shape = Object.freeze(Array.from(records.subarray(at + 4, at + 4 + records[at + 2]!)));
    tensors.push(
      new Tensor(records[at]!, shape, dtypeName(records[at + 1]!), deviceNames[records[at + 3]!]!),
    );
  }
  return tensors;
}

/** Checks a status and wraps the results that the call has left in the scratch block. */
export function results(status: number, operation: string): Tensor[] {
  check(status, operation);
  return outputs(scratch().outputCount[0]!);
}

/** As `results`, for calls with exactly one result. */
export function result(status: number, operation: string): Tensor {
  check(status, operation);
  return outputs(1)[0]!;
}

/** A converted copy, not recorded for gradients. */
export function convert(x: Tensor, dtype: DType): Tensor {
  return result(native().xl_copy(x.handle, codeOf(dtype)), "convert");
}

/** Writes a list of integers into the scratch block; returns its length. */
export function putInts(values: readonly number[], at = 0): number {
  const { ints } = scratch();
  if (at + values.length > ints.length) {
    throw new RangeError(`${values.length} numbers do not fit into the scratch block`);
  }
  for (let i = 0; i < values.length; i++) ints[at + i] = int32(values[i]!);
  return values.length;
}

/** The number itself; throws unless it is a whole number that crosses the border unchanged. */
export function int32(value: number, what = "a size or position"): number {
  if ((value | 0) === value) return value;
  throw new RangeError(`${value} is not ${what}: expected a whole number below 2^31`);
}

/** Writes floats into the scratch block. */
export function putFloats(values: readonly number[], at = 0): void {
  const { floats } = scratch();
  for (let i = 0; i < values.length; i++) floats[at + i] = values[i]!;
}

/** The handle of an optional tensor; 0 for none. */
export function handleOf(tensor: Tensor | null | undefined): number {
  return tensor ? tensor.handle : 0;
}

const codes: Record<DType, number> = { f32: 0, bf16: 1, f16: 2, f64: 3, i32: 4, u8: 5 };
export function codeOf(dtype: DType): number {
  if (Object.hasOwn(codes, dtype)) return codes[dtype];
  throw new DTypeError(`${dtype} is not a dtype; there are ${Object.keys(codes).join(", ")}`);
}
