// Parameters: leaf tensors with a stable dotted name. Their values come from (seed, name, element
// index) alone, so every mesh and every order of construction gives the same model.

import { elementRuns, place, type Placement } from "../mesh/placement.ts";
import type { Axis } from "../mesh/topology.ts";
import type { DType } from "../tensor/dtype.ts";
import { concat, keep, noGrad, requireGrad, scope, slice, Tensor, zeros } from "../tensor/index.ts";
import { fill } from "./initialize.ts";
import type { ParameterSpec } from "./parameters.ts";

/** Where the local part of a parameter lies, and what is left to be done with its gradient. */
export interface Share {
  readonly placement: Placement;
  readonly partial: readonly Axis[];
}

/** A trainable tensor. `name` is its key in gradients, optimiser states and checkpoints. */
export class Parameter extends Tensor {
  declare readonly name: string;
  /** Whether weight decay applies by default (names ending in `.weight`). */
  declare readonly decay: boolean;
  /** Global shape, and which part of it lies here. */
  declare readonly placement: Placement;
  /** Dtype of its gradient, also while its values lie here in a narrower one. */
  declare readonly gradientDtype: DType;
  /** Axes of the mesh over which the gradient is a partial sum when the backward pass ends. */
  declare readonly partial: readonly Axis[];

  /** Zeros; filled by `initialize` or from a checkpoint. Without a share the whole parameter. */
  static from(spec: ParameterSpec, dtype: DType, share: Share = wholeOf(spec)): Parameter {
    const made = zeros(share.placement.localShape, dtype);
    const parameter = Object.setPrototypeOf(made, Parameter.prototype) as Parameter;
    const define = (name: string, value: unknown, enumerable = false) =>
      Object.defineProperty(parameter, name, { value, enumerable });
    define("name", spec.name, true);
    define("decay", spec.decay);
    define("placement", share.placement);
    define("partial", share.partial);
    define("gradientDtype", dtype);
    return requireGrad(keep(parameter));
  }
}

function wholeOf({ shape }: ParameterSpec): Share {
  return { placement: place(shape, undefined, 0, 1), partial: [] };
}

/** Fills the part of a parameter that lies here by its rule (models.md §7), in place. */
export function initialize(parameter: Parameter, init: ParameterSpec["init"], seed: number): void {
  const { name, placement, size } = parameter;
  fill(parameter, { name, init, seed, runs: elementRuns(placement, 0, size) });
}

/** Overwrites a parameter with a tensor of its local, or of its global, shape. */
export function loadInto(parameter: Parameter, source: Tensor): void {
  const { globalShape, runs } = parameter.placement;
  const shape = source.shape.join();
  if (shape === parameter.shape.join()) {
    parameter.write_(source);
    return;
  }
  if (shape !== globalShape.join()) {
    throw new Error(
      `load(): ${parameter.name} has shape [${source.shape}], expected [${globalShape}]`,
    );
  }
  noGrad(() =>
    scope(() => {
      const own = runs.reduce((x, list, dim) => {
        return concat(
          list.map(([start, length]) => slice(x, dim, start, start + length)),
          dim,
        );
      }, source);
      parameter.write_(own);
    }),
  );
}

/** All parameters of a model by name, handed to layers as they ask for them. */
export class ParameterStore {
  readonly #parameters = new Map<string, Parameter>();
  readonly #taken = new Set<string>();

  constructor(
    specs: readonly ParameterSpec[],
    dtypeOf: (spec: ParameterSpec) => DType,
    shareOf: (spec: ParameterSpec) => Share = wholeOf,
  ) {
    for (const spec of specs) {
      this.#parameters.set(spec.name, Parameter.from(spec, dtypeOf(spec), shareOf(spec)));
    }
  }

  /** The parameter of that name; an error when the configuration has none. */
  take(name: string): Parameter {
    const parameter = this.#parameters.get(name);
    if (!parameter) throw new Error(`no parameter is called ${name} in this configuration`);
    this.#taken.add(name);
    return parameter;
  }

  /** The parameter of that name when the configuration has one. */
  maybe(name: string): Parameter | undefined {
    return this.#parameters.has(name) ? this.take(name) : undefined;
  }

  /** Throws when a parameter of the configuration is used by no layer. */
  finish(): Map<string, Parameter> {
    const idle = [...this.#parameters.keys()].filter((name) => !this.#taken.has(name));
    if (idle.length > 0) throw new Error(`parameters without a layer: ${idle.join(", ")}`);
    return this.#parameters;
  }
}
