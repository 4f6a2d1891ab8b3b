// Pieces of tensors: which elements of a tensor a file or a rank has. A rank has a box of the
// tensor (by tensor parallelism, whole by default), and of its row-major elements those from `from`
// to `to` (by sharding of flat vectors).

import type { Placement } from "../mesh/placement.ts";

/** [start, length] runs of every dim, in order: what lies here is their product. */
export type Box = Placement["runs"];

/** Elements [from, to) of the row-major elements that a placement has of a tensor. */
export interface Part {
  readonly placement: Placement;
  readonly from: number;
  readonly to: number;
}

/** Number of elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The placement of a process that has all of a tensor. */
export function wholePlacement(shape: readonly number[]): Placement {
  return { globalShape: shape, localShape: shape, runs: shape.map((size) => [[0, size]]) };
}

/** All elements of a placement. */
export function wholePart(placement: Placement): Part {
  return { placement, from: 0, to: elementsOf(placement.localShape) };
}

/** Whether a placement has all of its tensor. */
export function isWhole({ globalShape, localShape }: Placement): boolean {
  return globalShape.every((size, dim) => size === localShape[dim]);
}

/** The placement of a box of a tensor of `shape`. */
export function placementOf(shape: readonly number[], box: Box | undefined): Placement {
  if (!box) return wholePlacement(shape);
  const localShape = box.map((runs) => runs.reduce((sum, [, length]) => sum + length, 0));
  return { globalShape: shape, localShape, runs: box };
}

/** Why a box is none of a tensor of that shape; undefined for a proper one. */
export function boxFault(shape: readonly number[], box: Box): string | undefined {
  if (box.length !== shape.length) {
    return `has a box of ${box.length} dims, the tensor has ${shape.length}`;
  }
  for (const [dim, runs] of box.entries()) {
    let end = 0;
    for (const [start, length] of runs) {
      if (start < end || length < 1 || start + length > shape[dim]!) {
        const size = `dim ${dim} has ${shape[dim]} elements`;
        return `has a box with elements ${start} to ${start + length} after ${end}; ${size}`;
      }
      end = start + length;
    }
  }
  return undefined;
}

/** Where `length` elements that two parts have in common lie in each of them. */
export interface Common {
  readonly a: number;
  readonly b: number;
  readonly length: number;
}

/** The elements that two parts of one tensor have in common, in row-major order of the tensor. */
export function* common(a: Part, b: Part): Generator<Common> {
  const [inA, inB] = [located(a), located(b)];
  let i = 0;
  let j = 0;
  while (i < inA.length && j < inB.length) {
    const [x, y] = [inA[i]!, inB[j]!];
    const start = Math.max(x.start, y.start);
    const end = Math.min(x.end, y.end);
    if (start < end) {
      yield { a: x.at + start - x.start, b: y.at + start - y.start, length: end - start };
    }
    if (x.end <= y.end) i++;
    else j++;
  }
}

/** Row-major elements [start, end) of the tensor, and where in the part they begin. */
interface Located {
  readonly start: number;
  end: number;
  readonly at: number;
}

/**
 * The elements of a part as runs of the tensor, in order. As `elementRuns` of lib/mesh, but without
 * native code: files must be readable where it is not.
 */
function located({ placement, from, to }: Part): Located[] {
  const { globalShape: shape, localShape, runs } = placement;
  // Dims after the last one that is cut are whole: one step there is `inner` elements.
  let outer = shape.length;
  let inner = 1;
  while (outer > 0 && localShape[outer - 1] === shape[outer - 1]) inner *= shape[--outer]!;
  const found: Located[] = [];
  for (let position = from; position < to;) {
    let start = position % inner;
    let left = outer === 0 ? Infinity : -start;
    let rest = Math.floor(position / inner);
    let stride = inner;
    for (let dim = outer - 1; dim >= 0; dim--) {
      const local = localShape[dim]!;
      const [first, count] = runAt(runs[dim]!, rest % local);
      if (dim === outer - 1) left += count * inner;
      start += first * stride;
      stride *= shape[dim]!;
      rest = Math.floor(rest / local);
    }
    const length = Math.min(left, to - position);
    const last = found.at(-1);
    if (last?.end === start) last.end += length;
    else found.push({ start, end: start + length, at: position - from });
    position += length;
  }
  return found;
}

/** Where position `at` of a dim's runs lies in the tensor, and how many follow it, it included. */
function runAt(runs: Box[number], at: number): readonly [number, number] {
  let before = 0;
  for (const [start, length] of runs) {
    if (at < before + length) return [start + at - before, before + length - at];
    before += length;
  }
  throw new RangeError(`position ${at} of ${before}`);
}

/** What `tilingFault` needs of a piece. */
interface Tile {
  readonly file: string;
  readonly box?: Box | undefined;
  readonly from: number;
  readonly to: number;
}

export interface TilingFault {
  readonly reason: string;
  /** File of the piece that is wrong, when it is one. */
  readonly file?: string;
}

/**
 * Why the pieces are not every element of the tensor exactly once; undefined when they are. Boxes
 * of pieces must be equal or have nothing in common: those of one mesh are.
 */
export function tilingFault(
  shape: readonly number[],
  pieces: readonly Tile[],
): TilingFault | undefined {
  const boxes = Map.groupBy(pieces, ({ box }) => JSON.stringify(box ?? null));
  let held = 0;
  const seen: Tile[] = [];
  for (const members of boxes.values()) {
    const [first] = members as [Tile];
    const clash = seen.find((other) => !areDisjoint(shape, first.box, other.box));
    if (clash) return { file: first.file, reason: `its box overlaps that in ${clash.file}` };
    seen.push(first);
    const size = elementsOf(placementOf(shape, first.box).localShape);
    const fault = rangeFault(members, size);
    if (fault) return fault;
    held += size;
  }
  const size = elementsOf(shape);
  if (held === size) return undefined;
  return { reason: `${size - held} of its ${size} elements are in no file` };
}

function rangeFault(pieces: readonly Tile[], size: number): TilingFault | undefined {
  const sorted = pieces.toSorted((x, y) => x.from - y.from);
  let end = 0;
  let before: Tile | undefined;
  for (const piece of sorted) {
    const { file, from, to } = piece;
    if (from < end) {
      const both = `elements ${from} to ${Math.min(end, to)}`;
      return { file, reason: `${both} are in ${before!.file}, too; pieces must not overlap` };
    }
    if (from > end) return missing(end, from, size);
    end = to;
    before = piece;
  }
  return end === size ? undefined : missing(end, size, size);
}

function missing(from: number, to: number, size: number): TilingFault {
  return { reason: `elements ${from} to ${to} of ${size} are in no file; a piece is missing` };
}

/** Products have nothing in common when they have not in one of the dims. */
function areDisjoint(shape: readonly number[], a: Box | undefined, b: Box | undefined): boolean {
  const [x, y] = [placementOf(shape, a).runs, placementOf(shape, b).runs];
  return x.some((runs, dim) =>
    runs.every(([start, length]) =>
      y[dim]!.every(([other, count]) => start + length <= other || other + count <= start),
    ),
  );
}
