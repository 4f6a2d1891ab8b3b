// How a tensor of ours lies in another implementation's checkpoint, as data: the shape it has
// there, and the steps that turn it into ours. Each can be undone, so one table serves both ways.

/** What name maps need of a tensor; axes and rows are those of row-major arrays. */
export interface TensorOps<T> {
  shape(tensor: T): readonly number[];
  reshape(tensor: T, shape: readonly number[]): T;
  /** Axis i of the result is axis `axes[i]` of the tensor. */
  permute(tensor: T, axes: readonly number[]): T;
  /** `length` entries of axis 0 from `start` on. */
  rows(tensor: T, start: number, length: number): T;
  /** Joins along axis 0. */
  concat(tensors: readonly T[]): T;
  /** Whether two tensors of one shape hold the same values. */
  equal(a: T, b: T): boolean;
}

export type Step =
  | { readonly op: "reshape"; readonly shape: readonly number[] }
  | { readonly op: "permute"; readonly axes: readonly number[] };

/** The shape a tensor has there, and the steps from there to ours. */
export interface Placement {
  readonly shape: readonly number[];
  readonly steps: readonly Step[];
}

const reshape = (...shape: number[]): Step => ({ op: "reshape", shape });
const permute = (...axes: number[]): Step => ({ op: "permute", axes });

type Rule = (ours: readonly number[], heads: number) => Placement;

/** The layouts of models.md §12 by name; `ours` is our shape. */
export const layouts = {
  same: (ours) => ({ shape: ours, steps: [] }),
  /** Dense kernels stored [in, out]. */
  transpose: ([out, from]) => ({ shape: [from!, out!], steps: [permute(1, 0)] }),
  /** A leading axis of length 1, the tensor-parallel shard. */
  lead: (ours) => ({ shape: [1, ...ours], steps: [reshape(...ours)] }),
  leadHeads: ([width], heads) => ({
    shape: [1, heads, width! / heads],
    steps: [reshape(width!)],
  }),
  /** Dense gates [1, in, out]; head-wise gates [1, NH, out, in] keep the order of their axes. */
  leadTranspose: (ours) => {
    if (ours.length === 3) return { shape: [1, ...ours], steps: [reshape(...ours)] };
    const [out, from] = ours as [number, number];
    return { shape: [1, from, out], steps: [reshape(from, out), permute(1, 0)] };
  },
  /** [1, k, 1, C] to [C, k]. */
  leadConv: ([channels, k]) => ({
    shape: [1, k!, 1, channels!],
    steps: [reshape(k!, channels!), permute(1, 0)],
  }),
  /** [C, 1, k] to [C, k]. */
  squeezeConv: ([channels, k]) => ({
    shape: [channels!, 1, k!],
    steps: [reshape(channels!, k!)],
  }),
  /** [NH, gate x out, in] to [gate, NH, in, out]. */
  recurrentVanilla: ([gates, heads, from, out]) => ({
    shape: [heads!, gates! * out!, from!],
    steps: [reshape(heads!, gates!, out!, from!), permute(1, 0, 3, 2)],
  }),
  /** [NH, in, gate x out] to [gate, NH, in, out]. */
  recurrentCuda: ([gates, heads, from, out]) => ({
    shape: [heads!, from!, gates! * out!],
    steps: [reshape(heads!, from!, gates!, out!), permute(2, 0, 1, 3)],
  }),
  /** Flat [gate, NH, DH]. */
  biasVanilla: (ours) => ({ shape: [product(ours)], steps: [reshape(...ours)] }),
  /** Flat [NH, gate, DH]. */
  biasCuda: ([gates, heads, width]) => ({
    shape: [gates! * heads! * width!],
    steps: [reshape(heads!, gates!, width!), permute(1, 0, 2)],
  }),
} satisfies Record<string, Rule>;

export type LayoutName = keyof typeof layouts;

/** Where a tensor of our shape lies under a layout. */
export function place(layout: LayoutName, ours: readonly number[], heads: number): Placement {
  return (layouts[layout] as Rule)(ours, heads);
}

/** Their tensor to ours. */
export function applySteps<T>(tensor: T, steps: readonly Step[], ops: TensorOps<T>): T {
  let result = tensor;
  for (const step of steps) {
    result =
      step.op === "reshape" ? ops.reshape(result, step.shape) : ops.permute(result, step.axes);
  }
  return result;
}

/** Our tensor to theirs: the same steps backwards, each one undone. */
export function undoSteps<T>(tensor: T, placement: Placement, ops: TensorOps<T>): T {
  const { shape, steps } = placement;
  const before = [shape];
  for (const step of steps) before.push(shapeAfter(before.at(-1)!, step));
  let result = tensor;
  for (const [index, step] of [...steps.entries()].reverse()) {
    result =
      step.op === "reshape"
        ? ops.reshape(result, before[index]!)
        : ops.permute(result, inverse(step.axes));
  }
  return result;
}

/** Product of the lengths. */
export function product(shape: readonly number[]): number {
  return shape.reduce((total, length) => total * length, 1);
}

function shapeAfter(shape: readonly number[], step: Step): readonly number[] {
  return step.op === "reshape" ? step.shape : step.axes.map((axis) => shape[axis]!);
}

function inverse(axes: readonly number[]): number[] {
  return axes.map((_, axis) => axes.indexOf(axis));
}
