// Compares the ranks' heartbeats and says in one line who holds the others up. Pure: the server
// feeds it with what arrives and with the time in milliseconds.

import { ranksNamed } from "./errors.ts";
import { type Beat, type Deadlines, limitOf, phases, showBeat } from "./phases.ts";

interface State {
  readonly beat: Beat;
  /** The step of the rank's first report behind `init`: it may take longer than others. */
  readonly first?: number | undefined;
  /** When its progress changed last, and when it was heard of last. */
  readonly changed: number;
  readonly heard: number;
}

/** What the heartbeats say: the line, and the ranks that others wait for. */
export interface Verdict {
  readonly reason: string;
  readonly late: readonly number[];
}

/** Time in which failures of other ranks are collected before the verdict. */
const collectMilliseconds = 500;
/** Ranks that wait in a collective know its name: their own deadline comes first. */
const marginMilliseconds = 500;

export class Monitor {
  readonly #deadlines: Deadlines;
  readonly #describe: (rank: number) => string;
  readonly #states = new Map<number, State>();
  /** What ranks that wait in a collective say about it. */
  readonly #failures = new Map<number, string>();
  #failedAt: number | undefined;

  /** `describe` names a rank with its host. */
  constructor(deadlines: Deadlines, describe: (rank: number) => string) {
    this.#deadlines = deadlines;
    this.#describe = describe;
  }

  beat(rank: number, beat: Beat, now: number): void {
    const before = this.#states.get(rank);
    const changed = before?.beat.ticks === beat.ticks ? before.changed : now;
    const first = before?.first ?? (beat.phase === "init" ? undefined : beat.step);
    this.#states.set(rank, { beat, first, changed, heard: now });
  }

  /** A rank's collective failed; `reason` is its account of who is missing where. */
  failure(rank: number, reason: string, now: number): void {
    this.#failures.set(rank, reason);
    this.#failedAt ??= now;
  }

  /** A rank has left in good order: nobody waits for it any more. */
  leave(rank: number): void {
    this.#states.delete(rank);
  }

  /** The line for a rank whose connection broke, or that failed for a reason of its own. */
  ended(rank: number, how: "was lost" | "failed"): string {
    const state = this.#states.get(rank);
    const name = `${this.#describe(rank)} ${how}`;
    if (!state) return name;
    const place = showBeat(state.beat);
    return how === "failed" ? `${name} at ${place}` : `${name} (last heard of at ${place})`;
  }

  /** The verdict, once there is one: who is behind, where, and who waits for them. */
  check(now: number): Verdict | undefined {
    if (this.#failedAt !== undefined) {
      const isDue = now - this.#failedAt >= collectMilliseconds;
      return isDue || this.#failures.size >= this.#states.size ? this.#verdict(now) : undefined;
    }
    const { heartbeat } = this.#deadlines;
    const silent = this.#ranks((state) => now - state.heard > 1000 * heartbeat);
    if (silent.length > 0) {
      const who = this.#places(silent, "is stopped or cut off", "are stopped or cut off");
      return { reason: `${who}: no heartbeat for ${heartbeat} s`, late: silent };
    }
    const isStuck = this.#behind(this.#ranks()).some((rank) => {
      const { beat, first, changed } = this.#states.get(rank)!;
      return now - changed > 1000 * limitOf(this.#deadlines, beat, first) + marginMilliseconds;
    });
    return isStuck ? this.#verdict(now) : undefined;
  }

  /** Those of the ranks that have come least far. */
  #behind(ranks: readonly number[]): number[] {
    const place = (rank: number) => {
      const { step, phase } = this.#states.get(rank)!.beat;
      return step * phases.length + phases.indexOf(phase);
    };
    const least = Math.min(...ranks.map(place));
    return ranks.filter((rank) => place(rank) === least);
  }

  #verdict(now: number): Verdict {
    const all = this.#ranks();
    // Who failed has waited for others; so the others are the ones to look at.
    const quiet = all.filter((rank) => !this.#failures.has(rank));
    const behind = this.#behind(quiet.length > 0 ? quiet : all);
    const ahead = all.filter((rank) => !behind.includes(rank));
    // The rank that noticed first is not told by others: its text is the shortest.
    const [reason] = [...this.#failures.values()].sort((a, b) => a.length - b.length);
    const idle = Math.max(...behind.map((rank) => now - this.#states.get(rank)!.changed));
    const since = `no progress for ${(idle / 1000).toFixed(idle < 10_000 ? 1 : 0)} s`;
    if (ahead.length === 0) {
      const where = this.#places(all, "is", "are");
      return { reason: `${reason ?? `no rank moves, ${since}`}; ${where}`, late: [] };
    }
    const who = this.#places(behind, "is behind", "are behind");
    const others = this.#places(ahead, "waits", "wait");
    return { reason: `${who}, ${since}; ${others}${reason ? `: ${reason}` : ""}`, late: behind };
  }

  /** `rank 3 (n02, pid 7) is behind at step 12, data`; ranks at one place stand together. */
  #places(ranks: readonly number[], doesOne: string, doMany: string): string {
    const groups = new Map<string, number[]>();
    for (const rank of ranks) {
      const place = showBeat(this.#states.get(rank)!.beat);
      groups.set(place, [...(groups.get(place) ?? []), rank]);
    }
    const parts = [...groups].map(([place, [first, ...more]]) =>
      more.length === 0
        ? `${this.#describe(first!)} ${doesOne} at ${place}`
        : `${ranksNamed([first!, ...more])} ${doMany} at ${place}`,
    );
    return parts.join(" and ");
  }

  #ranks(chosen: (state: State) => boolean = () => true): number[] {
    const found = [...this.#states].filter(([, state]) => chosen(state)).map(([rank]) => rank);
    return found.sort((a, b) => a - b);
  }
}
