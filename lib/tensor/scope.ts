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

let current: Scope | undefined;
let asyncScopes = 0;
const storage = new AsyncLocalStorage<{ scope: Scope }>();
const owners = new WeakMap<Owned, Scope>();
const claims = new WeakMap<Owned, ArrayBuffer>();

/** A set of tensors that die together. Scopes nest and end in reverse order. */
export class Scope implements Disposable {
  readonly #tensors = new Set<Owned>();
  readonly #parent: Scope | undefined;
  #ended = false;

  constructor(parent: Scope | undefined) {
    this.#parent = parent;
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
    adopt(tensor, this.#parent ?? null);
  }

  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    if (current === this) current = this.#parent;
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

/** The scope that new tensors belong to. */
export function currentScope(): Scope | undefined {
  return asyncScopes > 0 ? (storage.getStore()?.scope ?? current) : current;
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
  const inner = new Scope(currentScope());
  if (asyncScopes > 0 && storage.getStore()) storage.enterWith({ scope: inner });
  current = inner;
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
  using inner = new Scope(currentScope());
  asyncScopes++;
  try {
    const result = await storage.run({ scope: inner }, body);
    escape(result, inner);
    return result;
  } finally {
    asyncScopes--;
  }
}

/** Moves every tensor found in a result (arrays, maps and plain objects) to the outer scope. */
function escape(value: unknown, inner: Scope, depth = 0): void {
  if (value === null || typeof value !== "object" || depth > 8) return;
  if (forget in value) {
    if (owners.get(value as Owned) === inner) inner.release(value as Owned);
    return;
  }
  if (value instanceof Map) for (const item of value.values()) escape(item, inner, depth + 1);
  else if (Symbol.iterator in value && Array.isArray(value)) {
    for (const item of value) escape(item, inner, depth + 1);
  } else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) escape(item, inner, depth + 1);
  }
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
