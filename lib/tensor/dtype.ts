// Element types. JavaScript numbers become f32 unless asked otherwise; bf16 has no JavaScript
// array type, so its data travels as Uint16Array bits and is converted natively.

import { DTypeCode } from "../native/symbols.ts";

export type DType = keyof typeof DTypeCode;
export type Device = "cpu" | "cuda";
export type TypedArray = Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array;

const byCode = Object.entries(DTypeCode).map(([name]) => name as DType);
const bytes: Record<DType, number> = { f32: 4, bf16: 2, f16: 2, f64: 8, i32: 4, u8: 1 };

export const deviceNames: readonly Device[] = ["cpu", "cuda"];

export function dtypeName(code: number): DType {
  return byCode[code]!;
}

export function dtypeBytes(dtype: DType): number {
  return bytes[dtype];
}

export function isFloat(dtype: DType): boolean {
  return dtype !== "i32" && dtype !== "u8";
}

/** The dtype of statistics, gates, states and parameter gradients beside activations of `dtype`. */
export function arithmetic(dtype: DType): DType {
  return dtype === "f64" ? "f64" : "f32";
}

/** A zeroed JavaScript array that can hold `count` elements of `dtype` (bf16, f16: their bits). */
export function arrayFor(dtype: DType, count: number): TypedArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(count);
    case "f64":
      return new Float64Array(count);
    case "i32":
      return new Int32Array(count);
    case "u8":
      return new Uint8Array(count);
    default:
      return new Uint16Array(count);
  }
}

/** The dtype whose elements an array holds; Uint16Array is taken as bf16 bits. */
export function dtypeOf(array: TypedArray): DType {
  if (array instanceof Float32Array) return "f32";
  if (array instanceof Float64Array) return "f64";
  if (array instanceof Int32Array) return "i32";
  if (array instanceof Uint8Array) return "u8";
  return "bf16";
}
