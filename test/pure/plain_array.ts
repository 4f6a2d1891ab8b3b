// Small arrays for the tests of name maps: row-major values with a shape.

import { elements } from "../../lib/nn/parameters.ts";
import type { TensorOps } from "../../lib/nn/names.ts";

export interface PlainArray {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

/** 0, 1, 2, ... from `first` on: no two elements are alike. */
export function counted(shape: readonly number[], first = 0): PlainArray {
  return { shape, data: Array.from({ length: elements(shape) }, (_, i) => first + i) };
}

export const plainOps: TensorOps<PlainArray> = {
  shape: ({ shape }) => shape,
  reshape({ data }, shape) {
    if (elements(shape) !== data.length) {
      throw new Error(`${data.length} values do not fill [${shape.join(", ")}]`);
    }
    return { shape, data };
  },
  permute(array, axes) {
    const shape = axes.map((axis) => array.shape[axis]!);
    const data = Array.from({ length: array.data.length }, (_, flat) => {
      const index = unravel(flat, shape);
      const source = array.shape.map((_length, axis) => index[axes.indexOf(axis)]!);
      return array.data[ravel(source, array.shape)]!;
    });
    return { shape, data };
  },
  rows(array, start, length) {
    const [, ...rest] = array.shape;
    const size = elements(rest);
    return {
      shape: [length, ...rest],
      data: array.data.slice(start * size, (start + length) * size),
    };
  },
  concat(arrays) {
    const rows = arrays.reduce((total, { shape }) => total + shape[0]!, 0);
    return {
      shape: [rows, ...arrays[0]!.shape.slice(1)],
      data: arrays.flatMap(({ data }) => data),
    };
  },
  equal: (a, b) => a.shape.join() === b.shape.join() && a.data.every((x, i) => x === b.data[i]),
};

export function at(array: PlainArray, ...index: readonly number[]): number {
  return array.data[ravel(index, array.shape)]!;
}

function ravel(index: readonly number[], shape: readonly number[]): number {
  return index.reduce((flat, i, axis) => flat * shape[axis]! + i, 0);
}

function unravel(flat: number, shape: readonly number[]): number[] {
  let rest = flat;
  const index = shape.map(() => 0);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    index[axis] = rest % shape[axis]!;
    rest = Math.floor(rest / shape[axis]!);
  }
  return index;
}
