// Parameters: leaf tensors with a stable dotted name. Their values come from (seed, name, element
// index) alone, so every mesh and every order of construction gives the same model.

import { native, check } from "../native/library.ts";
import type { DType } from "../tensor/dtype.ts";
import { keyOf, type Key } from "../tensor/random.ts";
import {
  full,
  keep,
  noGrad,
  onDevice,
  requireGrad,
  Tensor,
  tensor,
  write,
  zeros,
} from "../tensor/index.ts";
import { putFloats } from "../tensor/tensor.ts";
import type { Initializer, ParameterSpec } from "./parameters.ts";

/** A trainable tensor. `name` is its key in gradients, optimiser states and checkpoints. */
export class Parameter extends Tensor {
  declare readonly name: string;
  /** Whether weight decay applies by default (names ending in `.weight`). */
  declare readonly decay: boolean;

  /** Zeros; filled by `initialize` or from a checkpoint. */
  static from(spec: ParameterSpec, dtype: DType): Parameter {
    const made = zeros(spec.shape, dtype);
    const parameter = Object.setPrototypeOf(made, Parameter.prototype) as Parameter;
    Object.defineProperty(parameter, "name", { value: spec.name, enumerable: true });
    Object.defineProperty(parameter, "decay", { value: spec.decay, enumerable: false });
    return requireGrad(keep(parameter));
  }
}

/** Fills a parameter by its rule (models.md §7), in place. */
export function initialize(parameter: Parameter, init: Initializer, seed: number): void {
  noGrad(() => {
    const key = keyOf(parameter.name, seed);
    switch (init.kind) {
      case "normal":
        return draw(parameter, 1, key, init.std, 0);
      case "truncatedNormal":
        return draw(parameter, 2, key, init.std, 0);
      case "uniform":
        return draw(parameter, 0, key, init.high - init.low, init.low);
      case "constant": {
        using value = onDevice(parameter.device, () => full([], init.value, parameter.dtype));
        write(parameter, value);
        return;
      }
      case "values": {
        const data = Float64Array.from(init.values);
        using values = onDevice(parameter.device, () => tensor(data, { shape: parameter.shape }));
        write(parameter, values);
        return;
      }
    }
  });
}

function draw(target: Tensor, kind: number, key: Key, scale: number, offset: number): void {
  putFloats([scale, offset]);
  check(native().xl_random_into(kind, target.handle, key.low, key.high, 0), "initialize");
}

/** All parameters of a model by name, handed to layers as they ask for them. */
export class ParameterStore {
  readonly #parameters = new Map<string, Parameter>();
  readonly #taken = new Set<string>();

  constructor(specs: readonly ParameterSpec[], dtypeOf: (spec: ParameterSpec) => DType) {
    for (const spec of specs) {
      this.#parameters.set(spec.name, Parameter.from(spec, dtypeOf(spec)));
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
