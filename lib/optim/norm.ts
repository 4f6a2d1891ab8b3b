// The global gradient norm (mesh.md §15, §16): every true element counts once, in f64, over fixed
// blocks of 4096 elements of a tensor that are added in order. Which rank holds a block changes
// nothing, so that the norm, and with it the clip factor, has the same bits on every mesh of dp,
// fsdp and pp. Over tp the sums of the parts are added.

import type { Group } from "../mesh/group.ts";
import { native, scratch } from "../native/library.ts";
import {
  concat,
  type Device,
  noGrad,
  onDevice,
  reshape,
  slice,
  type Tensor,
  tensor,
  write,
  zeros,
} from "../tensor/index.ts";
import { putInts, result } from "../tensor/tensor.ts";

/** Elements of a block: native/src/cpu/reduce_squares.zig. */
const block = 4096;

/** Sums of squares of the gradients of a whole model. */
export interface GradientNorm {
  /** Names of the tensors that the sums are of, in order. */
  readonly names: readonly string[];
  /**
   * f64 [names + 1, 2]: Σg² and the number of elements that are not finite of every tensor, totals
   * in the last row. `gradients` are the parts here, by name. The same on all ranks of a mesh.
   */
  sums(gradients: ReadonlyMap<string, Tensor>): Tensor;
}

/** The first tensor, over all ranks, with elements that are not finite, and how many they are. */
export function firstBad(
  norm: GradientNorm,
  tensors: ReadonlyMap<string, Tensor>,
): { name: string; count: number } | undefined {
  using sums = noGrad(() => norm.sums(tensors));
  const rows = sums.dataSync();
  const at = norm.names.findIndex((_, i) => rows[2 * i + 1]! > 0);
  return at < 0 ? undefined : { name: norm.names[at]!, count: rows[2 * at + 1]! };
}

/** f64 [tensors + 1, 2]: Σx² and the number of non-finite elements of each, totals last. */
export function sumSquares(tensors: readonly Tensor[]): Tensor {
  const most = scratch().ints.length;
  const parts: Tensor[] = [];
  for (let start = 0; start < tensors.length; start += most) {
    const handles = tensors.slice(start, start + most).map((tensor) => tensor.handle);
    const status = native().xl_global_sum_squares(putInts(handles));
    parts.push(result(status, "globalNorm"));
  }
  if (parts.length === 1) return parts[0]!;
  const rows = concat(parts.map((part) => part.slice(0, 0, -1)));
  return concat([rows, rows.sum(0, { keepDims: true })]);
}

/** The norm of gradients that are all here. Tensors without a gradient have no row. */
export class LocalNorm implements GradientNorm {
  names: readonly string[] = [];

  sums(gradients: ReadonlyMap<string, Tensor>): Tensor {
    this.names = [...gradients.keys()];
    return sumSquares([...gradients.values()]);
  }
}

/** How much of a tensor's gradient is here. */
export interface NormPart {
  readonly name: string;
  /** Elements of the tensor on this rank's coordinate of tp. */
  readonly size: number;
  /** Those of them that are here: [from, to) in row-major order. */
  readonly from: number;
  readonly to: number;
  /** Whether the ranks of fsdp hold different parts of it, some of them several. */
  readonly straddles: boolean;
  /** Whether this rank's elements count: of copies on several ranks only one does. */
  readonly counts: boolean;
}

/** Groups and names of a mesh, as the norm needs them. */
export interface NormRanks {
  readonly fsdp: Group;
  /** The ranks of pp and tp together. */
  readonly stages: Group;
  /** Names of the whole model's tensors in order. */
  readonly names: readonly string[];
  /** Where the gradients lie. On a GPU nothing waits, and sums of parts are added in any order. */
  readonly device: Device;
}

/** The norm of gradients that lie on the ranks of a mesh. Every rank calls it with its parts. */
export class MeshNorm implements GradientNorm {
  readonly names: readonly string[];
  readonly #parts: readonly NormPart[];
  readonly #ranks: NormRanks;
  readonly #rowOf: readonly number[];

  /** RangeError when a part's name is none of the model's. */
  constructor(parts: readonly NormPart[], ranks: NormRanks) {
    this.names = ranks.names;
    this.#parts = parts;
    this.#ranks = ranks;
    this.#rowOf = parts.map(({ name }) => {
      const row = ranks.names.indexOf(name);
      if (row < 0) throw new RangeError(`the gradient norm: the model has no tensor ${name}`);
      return row;
    });
  }

  sums(gradients: ReadonlyMap<string, Tensor>): Tensor {
    const isExact = this.#ranks.device === "cpu";
    return noGrad(() => (isExact ? this.#exact(gradients) : this.#onDevice(gradients)));
  }

  /** Blocks in order, on the host. */
  #exact(gradients: ReadonlyMap<string, Tensor>): Tensor {
    const rows = new Float64Array(2 * (this.names.length + 1));
    const places = placesOf(this.#parts);
    const found = new Float64Array(2 * places.total);
    this.#fill(gradients, places.first, found);
    const blocks = everywhere(found, this.#ranks.fsdp, "gradient norm, blocks");
    this.#parts.forEach((_, i) => {
      const row = 2 * this.#rowOf[i]!;
      for (let at = 2 * places.first[i]!; at < 2 * places.first[i + 1]!; at += 2) {
        rows[row] = rows[row]! + blocks[at]!;
        rows[row + 1] = rows[row + 1]! + blocks[at + 1]!;
      }
    });
    const all = everywhere(rows, this.#ranks.stages, "gradient norm");
    const last = all.length - 2;
    for (let at = 0; at < last; at += 2) {
      all[last] = all[last]! + all[at]!;
      all[last + 1] = all[last + 1]! + all[at + 1]!;
    }
    return tensor(all, { shape: [this.names.length + 1, 2] });
  }

  /** The sums of what is here and counts, at their places among all of the model's blocks. */
  #fill(
    gradients: ReadonlyMap<string, Tensor>,
    first: readonly number[],
    found: Float64Array,
  ): void {
    const tensors: Tensor[] = [];
    const places: number[] = [];
    const views: Tensor[] = [];
    this.#parts.forEach((part, i) => {
      const gradient = gradients.get(part.name);
      if (!gradient || !part.counts || part.to === part.from) return;
      if (!part.straddles) {
        tensors.push(gradient);
        places.push(first[i]!);
        return;
      }
      const flat = reshape(gradient, [-1]);
      views.push(flat);
      for (let at = part.from; at < part.to; at += block) {
        const start = at - part.from;
        const view = slice(flat, 0, start, Math.min(start + block, part.to - part.from));
        views.push(view);
        tensors.push(view);
        places.push(first[i]! + at / block);
      }
    });
    if (tensors.length === 0) return;
    using sums = sumSquares(tensors);
    const values = sums.dataSync();
    places.forEach((place, k) => found.set(values.subarray(2 * k, 2 * k + 2), 2 * place));
    for (const view of views) view.dispose();
  }

  /** Sums of the parts, without a wait: the same number on every rank, in another order. */
  #onDevice(gradients: ReadonlyMap<string, Tensor>): Tensor {
    const { fsdp, stages, device } = this.#ranks;
    const counted = this.#parts.flatMap((part, i) => {
      const gradient = gradients.get(part.name);
      const isHere = part.counts && part.to > part.from;
      return gradient && isHere ? [{ gradient, row: this.#rowOf[i]! }] : [];
    });
    const rows = onDevice(device, () => zeros([this.names.length + 1, 2], "f64"));
    if (counted.length > 0) {
      const sums = sumSquares(counted.map(({ gradient }) => gradient));
      // The last row has the totals, here and there.
      const places = [...counted.map(({ row }) => row), this.names.length];
      runsOf(places).forEach(([k, row, length]) =>
        write(slice(rows, 0, row, row + length), slice(sums, 0, k, k + length)),
      );
    }
    const site = "gradient norm";
    return stages.allReduce(fsdp.allReduce(rows, { site }), { site });
  }
}

/** [first index, first row, length] of the runs in which rows follow each other. */
function runsOf(rows: readonly number[]): [number, number, number][] {
  const runs: [number, number, number][] = [];
  rows.forEach((row, k) => {
    const last = runs.at(-1);
    if (last && row === last[1] + last[2]) last[2]++;
    else runs.push([k, row, 1]);
  });
  return runs;
}

/** Where the blocks of every part begin; one that is not cut needs a single place. */
function placesOf(parts: readonly NormPart[]): { first: number[]; total: number } {
  const first = [0];
  for (const { size, straddles } of parts) {
    first.push(first.at(-1)! + (straddles ? Math.ceil(size / block) : 1));
  }
  return { first, total: first.at(-1)! };
}

/** The sum of a vector over a group, of whose ranks only one has a number that is not 0. */
function everywhere(values: Float64Array, group: Group, site: string): Float64Array {
  if (group.size === 1) return values;
  using mine = tensor(values);
  using sums = group.allReduce(mine, { site });
  return sums.dataSync() as Float64Array;
}
