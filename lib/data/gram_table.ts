// An open-addressing hash table from byte strings of one length, packed into a number, to counts.
// Typed arrays instead of objects: a million n-grams take 40 MB and a fraction of a second.

/** Statistics of all byte strings of one length, by slot. */
export class GramTable {
  /** Occurrences of the string. */
  count = new Int32Array(256);
  /** Occurrences of the string with a byte after it, and how many different bytes those are. */
  total = new Int32Array(256);
  types = new Int32Array(256);
  #keys = new Float64Array(256).fill(-1);
  #used = 0;

  /** Strings in the table. */
  get size(): number {
    return this.#used;
  }

  /** Slot of `key`, or -1 when it was never added. */
  find(key: number): number {
    const slot = this.#probe(key);
    return this.#keys[slot] === key ? slot : -1;
  }

  /** Slot of `key`, added when it is new. Adding moves the slots of other keys. */
  add(key: number): number {
    let slot = this.#probe(key);
    if (this.#keys[slot] === key) return slot;
    if (this.#used * 2 >= this.#keys.length) {
      this.#grow();
      slot = this.#probe(key);
    }
    this.#keys[slot] = key;
    this.#used++;
    return slot;
  }

  #probe(key: number): number {
    const keys = this.#keys;
    const mask = keys.length - 1;
    let hash = Math.imul(key | 0, 0x9e3779b1) ^ Math.imul((key / 2 ** 32) | 0, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & mask;
    while (keys[slot] !== key && keys[slot] !== -1) slot = (slot + 1) & mask;
    return slot;
  }

  #grow(): void {
    const { count, total, types } = this;
    const keys = this.#keys;
    const capacity = keys.length * 4;
    this.#keys = new Float64Array(capacity).fill(-1);
    this.count = new Int32Array(capacity);
    this.total = new Int32Array(capacity);
    this.types = new Int32Array(capacity);
    for (let from = 0; from < keys.length; from++) {
      if (keys[from] === -1) continue;
      const to = this.#probe(keys[from]!);
      this.#keys[to] = keys[from]!;
      this.count[to] = count[from]!;
      this.total[to] = total[from]!;
      this.types[to] = types[from]!;
    }
  }
}
