// What a rank's main thread and its agent share without messages, because the main thread may be
// blocked in native code or in a long loop: the place in the step, and why the run must end.

import type { Ending } from "./messages.ts";
import { type Beat, type Phase, phases } from "./phases.ts";

const words = { step: 0, phase: 1, ticks: 2, ended: 3, exitCode: 4, length: 5, left: 6 } as const;
const textOffset = 64;
const textBytes = 8192;

export class SharedState {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #text: Uint8Array;

  constructor(memory = new SharedArrayBuffer(textOffset + textBytes)) {
    this.memory = memory;
    this.#words = new Int32Array(memory, 0, textOffset / 4);
    this.#text = new Uint8Array(memory, textOffset, textBytes);
  }

  get beat(): Beat {
    const [step, phase, ticks] = [words.step, words.phase, words.ticks].map((at) =>
      Atomics.load(this.#words, at),
    );
    return { step: step!, phase: phases[phase!] ?? "init", ticks: ticks! };
  }

  /** The main thread is at this place now. */
  report(step: number, phase: Phase): void {
    Atomics.store(this.#words, words.step, step);
    Atomics.store(this.#words, words.phase, phases.indexOf(phase));
    Atomics.add(this.#words, words.ticks, 1);
  }

  /** Why this rank must end; undefined while all is well. */
  get ending(): Ending | undefined {
    if (Atomics.load(this.#words, words.ended) === 0) return undefined;
    const bytes = this.#text.slice(0, this.#words[words.length]);
    return { reason: new TextDecoder().decode(bytes), exitCode: this.#words[words.exitCode]! };
  }

  set ending(ending: Ending | undefined) {
    if (!ending || Atomics.load(this.#words, words.ended) !== 0) return;
    const { written } = new TextEncoder().encodeInto(ending.reason, this.#text);
    this.#words[words.length] = written;
    this.#words[words.exitCode] = ending.exitCode;
    Atomics.store(this.#words, words.ended, 1);
  }

  /** The agent has closed its connections. */
  markLeft(): void {
    Atomics.store(this.#words, words.left, 1);
    Atomics.notify(this.#words, words.left);
  }

  /** Blocks until the agent has left; false when it did not within `seconds`. */
  waitUntilLeft(seconds: number): boolean {
    return Atomics.wait(this.#words, words.left, 0, 1000 * seconds) !== "timed-out";
  }
}
