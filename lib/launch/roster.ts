// Who has joined, and whether all of them run the same thing. Every sentence names ranks.

import { z } from "zod";
import { rankList, ranksNamed } from "./errors.ts";

const word = z.string().max(256);

/** What a rank says about itself when it joins. */
export const factsSchema = z.strictObject({
  host: word,
  pid: z.int().min(0),
  /** cpu or cuda. */
  device: word,
  /** Version of the library. */
  version: word,
  /** Hash of the native library's interface. */
  abi: word,
  /** Hash of the recipe and its settings. */
  recipe: word,
});

export type Facts = z.output<typeof factsSchema>;

/** Facts that must be equal, and what to do when they are not. */
const shared = [
  ["recipe", "recipe hash", "start every rank with the same recipe and settings"],
  ["version", "version", "install one version on every host"],
  ["abi", "native interface", "run `bun run build:native` on every host"],
  ["device", "device", "give every rank the same device"],
] as const;

export class Roster {
  readonly world: number;
  readonly #facts = new Map<number, Facts>();

  constructor(world: number) {
    this.world = world;
  }

  /** Takes a rank in. Returns what is wrong with it instead, if anything is. */
  join(rank: number, facts: Facts): string | undefined {
    const other = this.#facts.get(rank);
    if (other) {
      return (
        `rank ${rank} joined twice: pid ${other.pid} on ${other.host} and pid ${facts.pid} on ` +
        `${facts.host}; give every process a rank of its own`
      );
    }
    this.#facts.set(rank, facts);
    return undefined;
  }

  get isComplete(): boolean {
    return this.#facts.size === this.world;
  }

  facts(rank: number): Facts | undefined {
    return this.#facts.get(rank);
  }

  all(): Facts[] {
    return this.missing().length > 0 ? [] : this.#ranks().map((rank) => this.#facts.get(rank)!);
  }

  missing(): number[] {
    return this.#ranks().filter((rank) => !this.#facts.has(rank));
  }

  /** `rank 3 (n02, pid 4711)`. */
  describe(rank: number): string {
    const facts = this.#facts.get(rank);
    return facts ? `rank ${rank} (${facts.host}, pid ${facts.pid})` : `rank ${rank}`;
  }

  /** What ranks disagree about; undefined when they agree. */
  mismatch(): string | undefined {
    const differing = shared.flatMap(([key, name, remedy]) => {
      const groups = this.#groupedBy((facts) => facts[key]);
      if (groups.size < 2) return [];
      const sides = [...groups].map(
        ([value, ranks]) => `${value || "none"} on ${ranksNamed(ranks)}`,
      );
      return [`${name} ${sides.join(", ")}; ${remedy}`];
    });
    return differing.length > 0 ? `the ranks differ: ${differing.join("; ")}` : undefined;
  }

  /** `6 of 8 ranks after 120 s; missing 3, 5; joined: 0-2 (n01), 4, 6, 7 (n02)`. */
  late(seconds: number): string {
    const hosts = this.#groupedBy((facts) => facts.host);
    const joined = [...hosts].map(([host, ranks]) => `${rankList(ranks)} (${host})`).join(", ");
    const missing = `missing ${rankList(this.missing())}; joined: ${joined}`;
    return `${this.#facts.size} of ${this.world} ranks after ${seconds} s; ${missing}`;
  }

  #ranks(): number[] {
    return Array.from({ length: this.world }, (_, rank) => rank);
  }

  #groupedBy(key: (facts: Facts) => string): Map<string, number[]> {
    const groups = new Map<string, number[]>();
    for (const rank of this.#ranks()) {
      const facts = this.#facts.get(rank);
      if (!facts) continue;
      const value = key(facts);
      groups.set(value, [...(groups.get(value) ?? []), rank]);
    }
    return groups;
  }
}
