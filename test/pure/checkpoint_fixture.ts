// Tensors for tests of the writer: bytes without native code.

import type { TensorBytes } from "../../lib/checkpoint/writer.ts";
import { type DType, dtypeBytes } from "../../lib/tensor/dtype.ts";

/** A tensor whose byte i is (seed · 31 + 7 i) mod 251. */
export function bytesTensor(dtype: DType, shape: readonly number[], seed: number): TensorBytes {
  const length = shape.reduce((product, size) => product * size, 1) * dtypeBytes(dtype);
  const bytes = Uint8Array.from({ length }, (_, i) => (seed * 31 + 7 * i) % 251);
  return {
    dtype,
    shape,
    byteLength: length,
    bytesSync: (offset, count) => bytes.subarray(offset, offset + count),
  };
}
