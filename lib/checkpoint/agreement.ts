// What several ranks do together: everyone does its part, tells all others how it went, and goes on
// or gives up as everyone else does. A task of that kind is a generator, so that one process can
// take the place of all ranks: what it yields is told to all, and what all have told comes back.

import { messageOf } from "./errors.ts";
import { quietly } from "./files.ts";

/** A task of all ranks. Every rank must run it, and yields as often as all others. */
export type Agreement<T> = Generator<string, T, readonly string[]>;

/** The place of a process among those that save and load together. */
export interface Ranks {
  readonly rank: number;
  readonly size: number;
  /** Tells all ranks a text and returns what every rank has told, in rank order. */
  exchange(text: string): readonly string[];
}

/** A process on its own. */
export const alone: Ranks = { rank: 0, size: 1, exchange: (text) => [text] };

/** Runs a task on this rank. What `exchange` throws, for a lost peer say, it throws as it is. */
export function together<T>(ranks: Ranks, task: Agreement<T>): T {
  let next = task.next();
  while (!next.done) {
    let told: readonly string[];
    try {
      told = ranks.exchange(next.value);
    } catch (error) {
      // The task gets the chance to clean up.
      quietly(() => void task.throw(error));
      throw error;
    }
    next = task.next(told);
  }
  return next.value;
}

/** Where a process is among those that do a task together. */
export type Place = Pick<Ranks, "rank" | "size">;

/** What went wrong on another rank: this one gives up as well. */
export class RankError extends Error {
  override readonly name = "RankError";
  readonly rank: number;
  /** That of the error on that rank, when it has one. */
  readonly exitCode: number | undefined;

  constructor(rank: number, { error, exitCode }: Failure) {
    super(`rank ${rank}: ${error}`);
    this.rank = rank;
    this.exitCode = exitCode;
  }
}

interface Failure {
  readonly error: string;
  readonly exitCode?: number | undefined;
}

/**
 * Does `action` and tells all ranks its result, which must be JSON; returns every rank's. When it
 * threw on some rank, all give up: the first such rank throws what it caught, the others a
 * RankError.
 */
export function* agreed<T>({ rank }: Place, action: () => T): Agreement<T[]> {
  let text: string;
  let caught: unknown;
  try {
    text = JSON.stringify({ result: action() ?? null });
  } catch (error) {
    caught = error;
    const { exitCode } = error as { exitCode?: unknown };
    const code = typeof exitCode === "number" ? { exitCode } : {};
    text = JSON.stringify({ error: messageOf(error), ...code });
  }
  const told = (yield text).map((one) => JSON.parse(one) as { result: T } | Failure);
  return told.map((one, from) => {
    if (!("error" in one)) return one.result;
    throw from === rank ? caught : new RankError(from, one);
  });
}

/** As `agreed`, for what rank 0 does for all; returns its result, null for undefined. */
export function* onFirst<T>(place: Place, action: () => T): Agreement<T> {
  const [first] = yield* agreed(place, () => (place.rank === 0 ? action() : null));
  return first as T;
}
