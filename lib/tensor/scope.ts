// Lifetime of native memory, in three layers: `using`/`dispose`, scopes, and the garbage collector
// as the backstop for tensors made outside of any scope.
//
//   using _ = scope();                    // every tensor made from here on dies with the block
//   const loss = scope(() => model.loss(batch));  // survivors move to the outer scope

import { AsyncLocalStorage } from "node:async_hooks";
import { check, claim, native, scratch } from "../native/library.ts";

/** What scopes keep: anything with a handle. */
export interface Owned {
  readonly id: number;
  readonly byteLength: number;
  /** Called once when the scope disposes of it; must forget the handle. */
  [forget](): void;
}

export const forget = Symbol("forget");
/** Method of objects that hold tensors: lists them, so that they leave a scope with the object. */
export const contents = Symbol("contents");

/** Holds the innermost open scope: one place for the program, one for each `scopeAsync`. */
interface Place {
  scope: Scope | undefined;
}

const outside: Place = { scope: undefined };
let asyncScopes = 0;
const storage = new AsyncLocalStorage<Place>();
const owners = new WeakMap<Owned, Scope>();
const claims = new WeakMap<Owned, ArrayBuffer>();

/** A set of tensors that die together. Scopes nest and end in reverse order. */
export class Scope implements Disposable {
  readonly #tensors = new Set<Owned>();
  readonly #parent: Scope | undefined;
  readonly #place: Place;
  #ended = false;

  /** Opens as the innermost scope of the place. */
  constructor(parent: Scope | undefined, place: Place) {
    this.#parent = parent;
    this.#place = place;
    place.scope = this;
  }

  get size(): number {
    return this.#tensors.size;
  }

  add(tensor: Owned): void {
    this.#tensors.add(tensor);
    owners.set(tensor, this);
  }

  remove(tensor: Owned): void {
    this.#tensors.delete(tensor);
    owners.delete(tensor);
  }

  /** Moves a tensor to the scope around this one, or out of all scopes. */
  release(tensor: Owned): void {
    this.remove(tensor);
    adopt(tensor, this.#outer() ?? null);
  }

  /** The nearest scope around this one that is still open: scopes may end out of order. */
  #outer(): Scope | undefined {
    let scope = this.#parent;
    while (scope && scope.#ended) scope = scope.#parent;
    return scope;
  }

  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    if (this.#place.scope === this) {
      const outer = this.#outer();
      // What still runs when a `scopeAsync` is over belongs to nobody, not to a scope elsewhere.
      this.#place.scope = outer && outer.#place === this.#place ? outer : undefined;
    }
    const { ints } = scratch();
    let pending = 0;
    for (const tensor of this.#tensors) {
      ints[pending++] = tensor.id;
      tensor[forget]();
      if (pending === ints.length) pending = flush(pending);
    }
    flush(pending);
    this.#tensors.clear();
  }
}

function flush(count: number): number {
  if (count > 0) check(native().xl_dispose_many(count), "dispose");
  return 0;
}

/** Where scopes are opened now. */
function currentPlace(): Place {
  return (asyncScopes > 0 ? storage.getStore() : undefined) ?? outside;
}

/** The scope that new tensors belong to. */
export function currentScope(): Scope | undefined {
  return currentPlace().scope;
}

/** Gives a tensor its owner: the current scope, another one, or (null) the garbage collector. */
export function adopt(tensor: Owned, owner: Scope | null = currentScope() ?? null): void {
  if (owner) return owner.add(tensor);
  check(native().xl_cell(tensor.id), "cell");
  claims.set(tensor, claim(scratch().numbers[0]!, tensor.byteLength));
}

/** Takes a tensor out of its scope: it lives until `dispose` or the garbage collector. */
export function keep<T extends Owned>(tensor: T): T {
  const owner = owners.get(tensor);
  if (owner) {
    owner.remove(tensor);
    adopt(tensor, null);
  }
  return tensor;
}

/** Frees one tensor now. */
export function free(tensor: Owned): void {
  const claimed = claims.get(tensor);
  owners.get(tensor)?.remove(tensor);
  if (claimed) {
    // Runs the deallocator, which queues the handle; the queue is emptied by the next allocation.
    claims.delete(tensor);
    claimed.transfer(0);
  } else check(native().xl_dispose(tensor.id), "dispose");
}

/**
 * Opens a scope: `using _ = scope()`; or runs `body` in one and returns its result, whose tensors
 * move to the scope outside. A Promise is refused: use `scopeAsync`.
 */
export function scope(): Scope;
export function scope<T>(body: () => T): T;
export function scope<T>(body?: () => T): Scope | T {
  const place = currentPlace();
  const inner = new Scope(place.scope, place);
  if (!body) return inner;
  using _ = inner;
  const result = body();
  if (result instanceof Promise) {
    throw new TypeError("scope(): the body returned a Promise; use `await scopeAsync(...)`");
  }
  escape(result, inner);
  return result;
}

/** `scope` for an asynchronous body. */
export async function scopeAsync<T>(body: () => Promise<T>): Promise<T> {
  const place: Place = { scope: undefined };
  using inner = new Scope(currentScope(), place);
  asyncScopes++;
  try {
    const result = await storage.run(place, body);
    escape(result, inner);
    return result;
  } finally {
    asyncScopes--;
  }
}

/** Moves every tensor found in a result (arrays, maps, sets, plain objects) to the outer scope. */
function escape(value: unknown, inner: Scope, depth = 0): void {
  if (value === null || typeof value !== "object" || depth > 8) return;
  if (forget in value) {
    if (owners.get(value as Owned) === inner) inner.release(value as Owned);
    return;
  }
  for (const item of itemsOf(value)) escape(item, inner, depth + 1);
}

function itemsOf(value: object): Iterable<unknown> {
  if (contents in value) return (value as { [contents](): Iterable<unknown> })[contents]();
  if (value instanceof Map) return value.values();
  if (Array.isArray(value) || value instanceof Set) return value;
  return Object.getPrototypeOf(value) === Object.prototype ? Object.values(value) : [];
}

/** Live tensors and bytes of native memory, and the most there have been. */
export interface MemoryStats {
  readonly tensors: number;
  readonly bytes: number;
  readonly peakBytes: number;
  readonly cachedBytes: number;
  readonly kernelCalls: number;
}

export function memory(): MemoryStats {
  check(native().xl_memory(), "memory");
  const [tensors, bytes, peakBytes, cachedBytes, kernelCalls] = scratch().numbers;
  return {
    tensors: tensors!,
    bytes: bytes!,
    peakBytes: peakBytes!,
    cachedBytes: cachedBytes!,
    kernelCalls: kernelCalls!,
  };
}

/** Sets the peak to what is live now. */
export function resetPeakMemory(): void {
  check(native().xl_reset_peak(), "resetPeakMemory");
}
