// A vocabulary that is split over the ranks of tp (mesh.md §8.5): the rows of the table that lie on
// this rank, looking ids up in them, and logits.

import type { Group } from "../mesh/group.ts";
import { gather as assemble } from "../mesh/redistribute.ts";
import {
  cast,
  concat,
  type Device,
  type DType,
  embedding,
  indexSelect,
  keep,
  mul,
  onDevice,
  reshape,
  slice,
  type Tensor,
  tensor,
  unsqueeze,
  zeros,
} from "../tensor/index.ts";
import type { Parameter } from "./parameter.ts";

/** Ids of the vocabulary [V] that lie on this rank of a group. */
export class VocabularyPart implements Disposable {
  readonly group: Group;
  /** The first id that lies here. */
  readonly first: number;
  /** How many lie here. */
  readonly rows: number;
  /** V. */
  readonly size: number;
  /** The most ids that lie on one rank. */
  readonly most: number;
  /** i32 [V]: row of an id in the local table; for ids of other ranks some row, each its own. */
  readonly #rowOf: Tensor;
  /** [V]: 1 for ids that lie here. */
  readonly #isHere: Tensor;

  /** `table` is [V, D], split along its first dim. */
  constructor(table: Parameter, group: Group, dtype: DType) {
    const [first, rows] = table.placement.runs[0]![0]!;
    const size = table.placement.globalShape[0]!;
    this.group = group;
    this.first = first;
    this.rows = rows;
    this.size = size;
    this.most = Math.ceil(size / group.size);
    const here = (id: number) => id >= first && id < first + rows;
    const ids = Array.from({ length: size }, (_, id) => id);
    const make = (data: Int32Array | Float64Array, type: DType) =>
      onDevice(table.device, () => {
        return keep(tensor(data, { dtype: type }));
      });
    this.#rowOf = make(
      Int32Array.from(ids, (id) => (here(id) ? id - first : id % rows)),
      "i32",
    );
    this.#isHere = make(
      Float64Array.from(ids, (id) => Number(here(id))),
      dtype,
    );
  }

  get device(): Device {
    return this.#rowOf.device;
  }

  /**
   * Rows of ids i32 [..] in the local table, and which of them lie here (1, else 0). An id that is
   * not of the vocabulary is an error on every rank.
   */
  find(ids: Tensor): { rows: Tensor; isHere: Tensor } {
    const flat = reshape(ids, [-1]);
    return {
      rows: reshape(indexSelect(this.#rowOf, flat), ids.shape),
      isHere: reshape(indexSelect(this.#isHere, flat), ids.shape),
    };
  }

  /** Rows of the table of ids i32 [..] that lie here, zeros for others: a summand (P). */
  embed(table: Parameter, ids: Tensor, dtype: DType): Tensor {
    const { rows, isHere } = this.find(ids);
    return mul(embedding(table, rows, dtype), cast(unsqueeze(isHere, -1), dtype));
  }

  /** Logits [.., rows] of the ids that lie here → the logits of all ids [.., V], the same work. */
  assemble(logits: Tensor, site: string): Tensor {
    const dim = logits.rank - 1;
    const missing = this.most - this.rows;
    const { device, dtype, shape } = logits;
    const padding = () => onDevice(device, () => zeros(shape.with(dim, missing), dtype));
    const padded = missing > 0 ? concat([logits, padding()], dim) : logits;
    return slice(assemble(padded, this.group, dim, "I", site), dim, 0, this.size);
  }

  dispose(): void {
    this.#rowOf.dispose();
    this.#isHere.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
