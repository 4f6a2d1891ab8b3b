// What the store holds: values by key, counters, barriers, and who waits for them until when. No
// sockets, no timers: the server feeds it and looks at it from time to time.

import { rankList } from "./errors.ts";
import { mostValueBytes } from "./frames.ts";

const mostKeys = 65_536;
const mostBytes = 256 * 2 ** 20;

/** How a request ends. */
export interface Answer {
  done(value: Uint8Array): void;
  failed(reason: string): void;
}

interface Waiter {
  readonly rank: number;
  readonly answer: Answer;
  readonly seconds: number;
  /** On the clock of `expire`, milliseconds. */
  readonly until: number;
}

const nothing = new Uint8Array();

export class StoreTable {
  readonly #world: number;
  readonly #values = new Map<string, Uint8Array>();
  readonly #counters = new Map<string, number>();
  readonly #waiting = new Map<string, Waiter[]>();
  readonly #barriers = new Map<string, Map<number, Waiter>>();
  #bytes = 0;

  constructor(world: number) {
    this.#world = world;
  }

  /** Stores a value and wakes who waits for it. */
  set(key: string, value: Uint8Array, answer: Answer): void {
    const before = this.#values.get(key)?.length ?? 0;
    const isFull = !this.#values.has(key) && this.#values.size >= mostKeys;
    if (
      value.length > mostValueBytes ||
      isFull ||
      this.#bytes + value.length - before > mostBytes
    ) {
      const limits = `${mostValueBytes} bytes a value, ${mostKeys} keys, ${mostBytes} bytes in all`;
      return answer.failed(`set: "${key}" (${value.length} bytes) is over a limit: ${limits}`);
    }
    this.#values.set(key, value);
    this.#bytes += value.length - before;
    answer.done(nothing);
    for (const waiter of this.#waiting.get(key) ?? []) waiter.answer.done(value);
    this.#waiting.delete(key);
  }

  /** Answers with the value as soon as there is one, or fails after `seconds`. */
  get(key: string, rank: number, seconds: number, now: number, answer: Answer): void {
    const value = this.#values.get(key);
    if (value) return answer.done(value);
    const waiter = { rank, answer, seconds, until: now + 1000 * seconds };
    this.#waiting.set(key, [...(this.#waiting.get(key) ?? []), waiter]);
  }

  /** Adds to a counter that starts at 0; answers with the sum as text. */
  add(key: string, amount: number, answer: Answer): void {
    if (!this.#counters.has(key) && this.#counters.size >= mostKeys) {
      return answer.failed(`add: "${key}" is one counter too many; at most ${mostKeys}`);
    }
    const sum = (this.#counters.get(key) ?? 0) + amount;
    this.#counters.set(key, sum);
    answer.done(new TextEncoder().encode(String(sum)));
  }

  /** Answers when every rank has come; the name can be used again afterwards. */
  barrier(name: string, rank: number, seconds: number, now: number, answer: Answer): void {
    const arrived = this.#barriers.get(name) ?? new Map<number, Waiter>();
    if (arrived.has(rank)) return answer.failed(`barrier "${name}": rank ${rank} is there already`);
    arrived.set(rank, { rank, answer, seconds, until: now + 1000 * seconds });
    this.#barriers.set(name, arrived);
    if (arrived.size < this.#world) return;
    this.#barriers.delete(name);
    for (const waiter of arrived.values()) waiter.answer.done(nothing);
  }

  /** Fails what has waited too long. */
  expire(now: number): void {
    for (const [key, waiters] of this.#waiting) {
      const late = waiters.filter(({ until }) => until <= now);
      if (late.length === 0) continue;
      this.#waiting.set(
        key,
        waiters.filter(({ until }) => until > now),
      );
      for (const { answer, seconds } of late) {
        answer.failed(`get: nobody set "${key}" within ${seconds} s`);
      }
    }
    for (const [name, arrived] of this.#barriers) {
      const late = [...arrived.values()].find(({ until }) => until <= now);
      if (!late) continue;
      this.#barriers.delete(name);
      const ranks = Array.from({ length: this.#world }, (_, rank) => rank);
      const missing = rankList(ranks.filter((rank) => !arrived.has(rank)));
      const reason = `barrier "${name}": missing ${missing} after ${late.seconds} s`;
      for (const { answer } of arrived.values()) answer.failed(reason);
    }
  }
}
