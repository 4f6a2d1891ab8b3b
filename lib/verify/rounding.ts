// How well the gradients of a model can be known in bf16. kernels.md §13.2 judges cells by f64 on
// inputs that are rounded first, since rounding alone moves some gradients by more than a kernel
// may be off. A model has no such inputs: its weights are rounded, and activations all the way. So
// the judge measures how far the exact gradient moves when the weights are rounded to bf16 and
// nothing else is, and grants a pass, which rounds more, a multiple of it.

import { cast, type Tensor, tensor, uniform } from "../tensor/index.ts";
import { errorFloor, relativeError } from "./report.ts";

/** Of every weight to its nearest, then each up or down by chance. */
const draws = 6;
/**
 * A pass rounds its weights and, at about a dozen places in every block, activations, by as much
 * each. Independent of each other they move a gradient √13 = 3.6 times as far as the weights do.
 */
const roundingsOfPass = 4;

type Gradients = ReadonlyMap<string, ArrayLike<number>>;

/**
 * The bar of every gradient: `bar`, or where that is more, four times what roundings of the weights
 * do, in the root mean square. `exactly` gives our own gradients in f64 with weights as `round`
 * leaves them: those of a file would widen the bar by what is wrong with them.
 */
export function barsOfRounding(
  bar: number,
  exactly: (round: (name: string, weight: Tensor) => Tensor) => Gradients,
): ReadonlyMap<string, number> {
  const exact = exactly((_, weight) => weight);
  const squares = new Map([...exact.keys()].map((name) => [name, 0]));
  const floor = errorFloor(exact);
  for (let draw = 0; draw < draws; draw++) {
    const moved = exactly((name, weight) => roundedToBf16(weight, draw, name));
    for (const [name, values] of exact) {
      const distance = relativeError(moved.get(name)!, values, floor);
      squares.set(name, squares.get(name)! + distance ** 2);
    }
  }
  const barOf = (sum: number) => Math.max(bar, roundingsOfPass * Math.sqrt(sum / draws));
  return new Map([...squares].map(([name, sum]) => [name, barOf(sum)]));
}

/** In f64. Draw 0 is the nearest; others go up with the chance that makes their mean exact. */
export function roundedToBf16(x: Tensor, draw: number, name: string): Tensor {
  if (draw === 0) return cast(cast(x, "bf16"), "f64");
  const chances = uniform(x.shape, { seed: draw, name: `rounding of ${name}` }).dataSync();
  const values = Float32Array.from(x.dataSync());
  const bits = new Uint32Array(values.buffer);
  // The upper 16 bits of an f32 are a bf16: adding below them carries over by chance.
  bits.forEach((word, i) => {
    bits[i] = (word + Math.floor(0x10000 * (chances[i] as number))) & 0xffff0000;
  });
  return tensor(Float64Array.from(values), { shape: x.shape, dtype: "f64" });
}
