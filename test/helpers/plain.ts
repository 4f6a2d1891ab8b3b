// Tensors as plain arrays: slow, obvious, and all that property tests compare with.

import { sizeOf } from "./random.ts";

export interface Plain {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

/** The index lists of a shape in row-major order. */
export function indices(shape: readonly number[]): number[][] {
  return shape.reduce<number[][]>(
    (found, size) =>
      found.flatMap((index) => Array.from({ length: size }, (_, i) => [...index, i])),
    [[]],
  );
}

export function at({ shape, data }: Plain, index: readonly number[]): number {
  return data[index.reduce((place, i, dim) => place * shape[dim]! + i, 0)]!;
}

/** A tensor whose element at an index is `f(index)`. */
export function build(shape: readonly number[], f: (index: number[]) => number): Plain {
  return { shape, data: indices(shape).map(f) };
}

/** Trailing dims aligned, sizes equal or 1; undefined when they do not fit. */
export function broadcastShape(
  a: readonly number[],
  b: readonly number[],
): readonly number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const shape: number[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return undefined;
    shape.push(x === 1 ? y : x);
  }
  return shape;
}

/** x seen in a larger shape. */
export function expand(x: Plain, shape: readonly number[]): Plain {
  const lead = shape.length - x.shape.length;
  return build(shape, (index) =>
    at(
      x,
      x.shape.map((size, i) => (size === 1 ? 0 : index[lead + i]!)),
    ),
  );
}

export function combine(a: Plain, b: Plain, f: (x: number, y: number) => number): Plain {
  const shape = broadcastShape(a.shape, b.shape);
  if (!shape) throw new Error(`[${a.shape}] and [${b.shape}] do not broadcast`);
  const [x, y] = [expand(a, shape), expand(b, shape)];
  return { shape, data: x.data.map((value, i) => f(value, y.data[i]!)) };
}

export function permute(x: Plain, order: readonly number[]): Plain {
  const shape = order.map((dim) => x.shape[dim]!);
  return build(shape, (index) =>
    at(
      x,
      x.shape.map((_, dim) => index[order.indexOf(dim)]!),
    ),
  );
}

export function reshape(x: Plain, shape: readonly number[]): Plain {
  if (sizeOf(shape) !== x.data.length) throw new Error(`[${x.shape}] is not [${shape}]`);
  return { shape, data: x.data };
}

export function slice(x: Plain, dim: number, start: number, end: number, step: number): Plain {
  const count = Math.max(0, Math.ceil((end - start) / step));
  const shape = x.shape.map((size, i) => (i === dim ? count : size));
  return build(shape, (index) =>
    at(
      x,
      index.map((i, place) => (place === dim ? start + i * step : i)),
    ),
  );
}

export function concat(parts: readonly Plain[], dim: number): Plain {
  const sizes = parts.map((part) => part.shape[dim]!);
  const total = sizes.reduce((a, b) => a + b, 0);
  const shape = parts[0]!.shape.map((size, i) => (i === dim ? total : size));
  return build(shape, (index) => {
    let place = index[dim]!;
    let part = 0;
    while (place >= sizes[part]!) place -= sizes[part++]!;
    return at(
      parts[part]!,
      index.map((i, other) => (other === dim ? place : i)),
    );
  });
}

/** Folds the elements of the given dims. */
export function reduce(
  x: Plain,
  dims: readonly number[],
  keep: boolean,
  f: (values: readonly number[]) => number,
): Plain {
  const groups = new Map<string, number[]>();
  for (const index of indices(x.shape)) {
    const key = index.map((i, dim) => (dims.includes(dim) ? 0 : i)).join();
    groups.set(key, [...(groups.get(key) ?? []), at(x, index)]);
  }
  const kept = x.shape.map((size, dim) => (dims.includes(dim) ? 1 : size));
  const data = indices(kept).map((index) => f(groups.get(index.join()) ?? []));
  return { shape: keep ? kept : x.shape.filter((_, dim) => !dims.includes(dim)), data };
}

/** a [.., M, K] · b [.., K, N] with broadcast batch dims. */
export function matmul(a: Plain, b: Plain): Plain {
  const [m, inner] = a.shape.slice(-2) as [number, number];
  const n = b.shape.at(-1)!;
  const batch = broadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2))!;
  const left = expand(a, [...batch, m, inner]);
  const right = expand(b, [...batch, inner, n]);
  return build([...batch, m, n], (index) => {
    const [lead, i, j] = [index.slice(0, -2), index.at(-2)!, index.at(-1)!];
    let sum = 0;
    for (let k = 0; k < inner; k++) sum += at(left, [...lead, i, k]) * at(right, [...lead, k, j]);
    return sum;
  });
}
