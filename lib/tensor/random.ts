// Random numbers that depend on (seed, name, element index) only: the key of a tensor is
// XXH3-64(name, seed) and its element e comes from Philox counter e >> 2 (mesh.md §14). The order
// in
// which tensors are drawn, threads and meshes change nothing.

/** A 64-bit Philox key in two halves. */
export interface Key {
  readonly low: number;
  readonly high: number;
}

/** The key of a named use of randomness under a seed. */
export function keyOf(name: string, seed: number): Key {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new RangeError(`seed ${seed} is not an integer between 0 and 2^53 - 1`);
  }
  const hash = Bun.hash.xxHash3(name, BigInt(seed));
  return { low: Number(hash & 0xffffffffn), high: Number(hash >> 32n) };
}

let seedOfStream = 0;
let draws = 0;

/** Restarts the stream that unnamed draws (`randn([2, 3])`) take their names from. */
export function manualSeed(seed: number): void {
  keyOf("", seed);
  seedOfStream = seed;
  draws = 0;
}

/** The key of the next unnamed draw, or of a named one under an explicit seed. */
export function nextKey(options: { seed?: number; name?: string } = {}): Key {
  const name = options.name ?? `draw/${draws++}`;
  return keyOf(name, options.seed ?? seedOfStream);
}
