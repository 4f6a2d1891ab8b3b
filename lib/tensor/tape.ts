// Automatic differentiation: one node per coarse operation. A node keeps edges to where gradients
// go on, not the tensors themselves, so that intermediates may be disposed of once they are not
// saved.
//
// Memory: what `transient` records dies in the backward pass, operation by operation; a
// `recomputable` result need not even live until then.

import { GradientError, shown } from "./errors.ts";
import { scope } from "./scope.ts";
import type { Tensor } from "./tensor.ts";

export type Gradient = Tensor | null | undefined;
/**
 * Gradients of the inputs for gradients of the outputs; null where there is none. Returns new
 * tensors
 * or the ones it was given, never a saved one: the walk disposes of them.
 */
export type Backward = (grads: Gradient[]) => Gradient[];

export interface Node {
  /** Creation order: a node's inputs come from nodes with smaller numbers. */
  readonly sequence: number;
  readonly name: string;
  readonly edges: (Edge | Tensor | undefined)[];
  readonly outputs: number;
  backward: Backward | undefined;
  /** Begins with a gradient that `backward` will end with, beside work that comes in between. */
  early: ((grad: Tensor) => void) | undefined;
  /** Tensors that nobody has but the tape: they die once `backward` has run. */
  owned: readonly Tensor[] | undefined;
}

/** Output `index` of a node. */
export interface Edge {
  readonly node: Node;
  readonly index: number;
}

let sequence = 0;
let enabled = true;
/** Whether results that are recorded now belong to the tape. */
let owning = false;

/** Whether operations are being recorded. */
export function gradEnabled(): boolean {
  return enabled;
}

/** Runs `body` without recording. */
export function noGrad<T>(body: () => T): T {
  return withGrad(false, body);
}

/** Runs `body` with recording on or off. */
export function withGrad<T>(on: boolean, body: () => T): T {
  const before = enabled;
  enabled = on;
  try {
    return body();
  } finally {
    enabled = before;
  }
}

/** Whether an operation with these inputs must be recorded. */
export function needsGrad(...inputs: (Tensor | null | undefined)[]): boolean {
  return enabled && inputs.some((input) => input?.requiresGrad);
}

/**
 * Records an operation: `backward` maps output gradients to input gradients, in order. `saved` are
 * tensors that were made for it alone. Returns the node: a backward pass that finds further leaves
 * appends them to its edges, and their gradients to what it returns.
 */
export function record(
  name: string,
  inputs: (Tensor | null | undefined)[],
  outputs: Tensor[],
  backward: Backward,
  saved: readonly Tensor[] = [],
): Node | undefined {
  if (!needsGrad(...inputs)) return undefined;
  const edges = inputs.map((input) => (input?.requiresGrad ? (input.edge ?? input) : undefined));
  const node: Node = {
    sequence: sequence++,
    name,
    edges,
    outputs: outputs.length,
    backward,
    early: undefined,
    owned: owning ? [...outputs, ...saved] : undefined,
  };
  outputs.forEach((output, index) => {
    output.requiresGrad = true;
    output.edge = { node, index };
  });
  return node;
}

/**
 * Tells the operation that made a node's input `index` what the gradient of that input will be,
 * before the node's backward pass has made the rest. If other nodes add to it, that was in vain.
 */
export function announce(node: Node | undefined, index: number, grad: Tensor): void {
  const target = node?.edges[index];
  if (target && "node" in target) target.node.early?.(grad);
}

/** `record` for one output; returns it. */
export function recorded(
  name: string,
  inputs: (Tensor | null | undefined)[],
  output: Tensor,
  backward: (grad: Tensor) => Gradient[],
  saved?: readonly Tensor[],
): Tensor {
  record(name, inputs, [output], ([grad]) => backward(grad!), saved);
  return output;
}

/**
 * Runs a part of a model whose intermediate results nobody else sees. Each of them dies in the
 * backward pass as soon as that has left the operation that made it, and without recording when
 * `body` ends. `seen` lists the tensors of the value, which live on.
 */
export function transient<T>(
  body: () => T,
  seen: (value: T) => Iterable<Tensor | null | undefined>,
): T {
  if (!enabled) return scope(body);
  const before = owning;
  owning = true;
  try {
    const value = body();
    if (!before) for (const tensor of seen(value)) disown(tensor);
    return value;
  } finally {
    owning = before;
  }
}

function disown(tensor: Tensor | null | undefined): void {
  const node = tensor?.edge?.node;
  if (node?.owned) node.owned = node.owned.filter((owned) => owned !== tensor);
}

const recipes = new WeakMap<Tensor, () => Tensor>();

/**
 * Tells how to make y again, bit for bit, out of what its own node has saved. Operations that would
 * save y (`remembered`) keep the recipe instead, and y may be disposed of (`release`).
 */
export function recomputable(y: Tensor, again: () => Tensor): Tensor {
  if (y.requiresGrad) recipes.set(y, again);
  return y;
}

/** What a backward pass needs of its input: call it there, and leave the result to the tape. */
export function remembered(x: Tensor): () => Tensor {
  return recipes.get(x) ?? (() => x);
}

/** Frees an input that all its readers can do without: they do not record, or make it again. */
export function release(x: Tensor): void {
  if (!x.requiresGrad || recipes.has(x)) x.dispose();
}

/** Marks a leaf as one that gradients are wanted for. */
export function requireGrad<T extends Tensor>(tensor: T): T {
  if (tensor.edge) {
    throw new GradientError("requireGrad(): the tensor is the result of a recorded operation");
  }
  tensor.requiresGrad = true;
  return tensor;
}

/** Adds two gradients; set by `methods.ts` to the operation, which lies above this file. */
export const hooks: {
  add: (a: Tensor, b: Tensor) => Tensor;
  ones: (like: Tensor) => Tensor;
} = {
  add: () => missing(),
  ones: () => missing(),
};

function missing(): never {
  throw new GradientError("import tensors through lib/tensor/index.ts");
}

/** Gradient tensors that are in use, with how many slots hold them: a tensor may be in several. */
class Pending {
  readonly #uses = new Map<Tensor, number>();

  hold(grad: Tensor): Tensor {
    this.#uses.set(grad, (this.#uses.get(grad) ?? 0) + 1);
    return grad;
  }

  drop(grad: Tensor): void {
    const uses = (this.#uses.get(grad) ?? 1) - 1;
    if (uses > 0) this.#uses.set(grad, uses);
    else {
      this.#uses.delete(grad);
      grad.dispose();
    }
  }

  /** b added to a slot's a, which gives a up and holds the sum; the caller still holds b. */
  sum(a: Tensor | undefined, b: Tensor): Tensor {
    if (!a) return this.hold(b);
    const total = hooks.add(a, b);
    this.drop(a);
    return this.hold(total);
  }
}

/**
 * Walks the tape backwards from `roots` and returns the gradient of every leaf reached. The tape is
 * used up. `seeds` are the gradients of the roots; a root without one must have a single element.
 */
export function backward(
  roots: readonly Tensor[],
  seeds: readonly (Tensor | undefined)[] = [],
): Map<Tensor, Tensor> {
  const pending = new Pending();
  const slots = new Map<Node, (Tensor | undefined)[]>();
  const leaves = new Map<Tensor, Tensor>();
  const deliver = (target: Edge | Tensor, grad: Tensor) => {
    if (!("node" in target)) leaves.set(target, pending.sum(leaves.get(target), grad));
    else {
      let row = slots.get(target.node);
      if (!row) slots.set(target.node, (row = Array.from({ length: target.node.outputs })));
      row[target.index] = pending.sum(row[target.index], grad);
    }
  };
  noGrad(() => {
    roots.forEach((root, i) => {
      if (!root.requiresGrad) {
        throw new GradientError(
          "backward(): the tensor does not depend on anything with gradients",
        );
      }
      // A seed belongs to the caller: held once more than it is dropped, it is never disposed of.
      deliver(root.edge ?? root, seeds[i] ? pending.hold(seeds[i]!) : seedOf(root));
    });
    for (const node of order(roots)) {
      const grads = slots.get(node);
      if (!grads) continue;
      slots.delete(node);
      const run = node.backward;
      if (!run) throw new GradientError(`backward(): the tape of ${node.name} was used up before`);
      node.backward = undefined;
      // What a backward pass makes on the way ends with it, not with the scope of the whole step.
      const inner = scope(() => run(grads));
      // One tensor may be the gradient of several inputs: hold them all before giving any away.
      for (const grad of inner) if (grad) pending.hold(grad);
      node.edges.forEach((target, i) => {
        if (target && inner[i]) deliver(target, inner[i]!);
      });
      for (const grad of inner) if (grad) pending.drop(grad);
      for (const grad of grads) if (grad) pending.drop(grad);
      for (const tensor of node.owned ?? []) tensor.dispose();
    }
  });
  return leaves;
}

function seedOf(root: Tensor): Tensor {
  if (root.size !== 1) {
    throw new GradientError(
      `backward(): the tensor has shape ${shown(root.shape)}; ` +
        "sum it to one element first, or give the gradient",
    );
  }
  return hooks.ones(root);
}

/** Every node reachable from the roots, newest first. */
function order(roots: readonly Tensor[]): Node[] {
  const seen = new Set<Node>();
  const stack = roots.flatMap((root) => (root.edge ? [root.edge.node] : []));
  while (stack.length > 0) {
    const node = stack.pop()!;
    if (seen.has(node)) continue;
    seen.add(node);
    for (const edge of node.edges) if (edge && "node" in edge) stack.push(edge.node);
  }
  return [...seen].sort((a, b) => b.sequence - a.sequence);
}
