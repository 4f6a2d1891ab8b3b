// What becomes of a rank's output: shown as it is, shown with the rank in front of every line, or
// kept back; its last lines are remembered, and a log file may take everything.

import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";

export type Show = "plain" | "prefixed" | "hidden";

const mostLines = 20;
const mostLineLength = 2000;

export class RankOutput implements Disposable {
  readonly #rank: number;
  readonly #show: Show;
  readonly #log: number | undefined;
  readonly #tail: string[] = [];
  readonly #partial: Record<1 | 2, string> = { 1: "", 2: "" };

  /** `logs`: folder for `rank-N.log`, made where it does not exist. */
  constructor(rank: number, show: Show, logs?: string) {
    this.#rank = rank;
    this.#show = show;
    if (logs === undefined) return;
    mkdirSync(logs, { recursive: true });
    this.#log = openSync(join(logs, `rank-${rank}.log`), "w");
  }

  /** The newest lines, oldest first. */
  get lastLines(): readonly string[] {
    return this.#tail;
  }

  /** Reads a stream to its end; `target` is the launcher's own output it belongs to. */
  async follow(stream: ReadableStream<Uint8Array>, target: 1 | 2): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of stream) {
      if (this.#log !== undefined) writeAll(this.#log, bytes);
      if (this.#show === "plain") writeAll(target, bytes);
      this.#lines(decoder.decode(bytes, { stream: true }), target);
    }
    if (this.#partial[target] !== "") this.#lines("\n", target);
  }

  [Symbol.dispose](): void {
    if (this.#log !== undefined) closeSync(this.#log);
  }

  #lines(text: string, target: 1 | 2): void {
    const lines = (this.#partial[target] + text).split("\n");
    this.#partial[target] = lines.pop()!.slice(-mostLineLength);
    for (const raw of lines) {
      // A progress line overwrites itself: what counts is its last state.
      const line = raw.replace(/\r$/, "").split("\r").at(-1)!.slice(0, mostLineLength);
      this.#tail.push(line);
      if (this.#tail.length > mostLines) this.#tail.shift();
      if (this.#show === "prefixed") writeAll(target, encode(`[${this.#rank}] ${line}\n`));
    }
  }
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Writes everything, also to a pipe that is full for a moment; a closed one takes nothing. */
function writeAll(descriptor: number, bytes: Uint8Array): void {
  let at = 0;
  while (at < bytes.length) {
    try {
      at += writeSync(descriptor, bytes, at);
    } catch (error) {
      const { code } = error as { code?: unknown };
      if (code === "EPIPE") return;
      if (code !== "EAGAIN") throw error;
      Bun.sleepSync(1);
    }
  }
}
