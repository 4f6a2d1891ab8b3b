// Lists of numbers to and from native code, in pages of what the scratch block holds.

import { check, native, scratch } from "../native/library.ts";

/** Makes `numbers` the list that the next call reads. Integers up to 2^53. */
export function giveList(numbers: readonly number[], operation: string): void {
  const page = scratch().floats;
  let first = 0;
  do {
    const length = Math.min(numbers.length - first, page.length);
    for (let i = 0; i < length; i++) page[i] = numbers[first + i]!;
    check(native().xl_mesh_write(first, length), operation);
    first += length;
  } while (first < numbers.length);
}

/** The list that the call with this status made. */
export function takeList(status: number, operation: string): number[] {
  check(status, operation);
  const page = scratch().numbers;
  const length = page[0]!;
  const list: number[] = [];
  while (list.length < length) {
    check(native().xl_mesh_read(list.length), operation);
    const rest = Math.min(page.length, length - list.length);
    for (let i = 0; i < rest; i++) list.push(page[i]!);
  }
  return list;
}

/** The list in rows of `width` numbers. */
export function takeRows(status: number, operation: string, width: number): number[][] {
  const list = takeList(status, operation);
  const rows: number[][] = [];
  for (let i = 0; i < list.length; i += width) rows.push(list.slice(i, i + width));
  return rows;
}
