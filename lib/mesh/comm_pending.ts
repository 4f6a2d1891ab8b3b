// A result that a GPU may still be working on beside other work.

import { check, native, scratch } from "../native/library.ts";
import { reshape } from "../tensor/ops/view.ts";
import { keep } from "../tensor/scope.ts";
import { noGrad } from "../tensor/tape.ts";
import { outputs, type Tensor } from "../tensor/tensor.ts";

/** What a started collective will have made. Memory it reads and writes is kept until `join`. */
export class PendingTensor {
  #tensor: Tensor;
  /** Native number of the work; 0 when it is done. */
  #ticket: number;

  constructor(tensor: Tensor, ticket = 0) {
    this.#tensor = tensor;
    this.#ticket = ticket;
  }

  /** Of the native call that has just returned. */
  static of(status: number, operation: string): PendingTensor {
    check(status, operation);
    const ticket = scratch().numbers[0]!;
    return new PendingTensor(outputs(1)[0]!, ticket);
  }

  /** The same result in another shape of as many elements. */
  shaped(shape: readonly number[]): this {
    using given = this.#tensor;
    this.#tensor = noGrad(() => reshape(given, shape));
    return this;
  }

  /** The result outlives the scope that the collective was started in; returns this. */
  keep(): this {
    keep(this.#tensor);
    return this;
  }

  /**
   * The result, for all work asked of the device after this. Does not wait on the host. The tensor
   * belongs to the scope that the collective was started in.
   */
  join(): Tensor {
    if (this.#ticket > 0) check(native().xl_comm_join(this.#ticket), "join");
    this.#ticket = 0;
    return this.#tensor;
  }
}
