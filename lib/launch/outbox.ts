// Writes to a socket that takes only as many bytes as fit: the rest waits for it to drain.

interface Writable {
  write(bytes: Uint8Array): number;
  end(): void;
}

export class Outbox {
  readonly #socket: Writable;
  #waiting: Uint8Array[] = [];
  #isEnding = false;

  constructor(socket: Writable) {
    this.#socket = socket;
  }

  write(bytes: Uint8Array): void {
    if (this.#isEnding) return;
    this.#waiting.push(bytes);
    if (this.#waiting.length === 1) this.drain();
  }

  /** To be called when the socket can take more. */
  drain(): void {
    for (let next = this.#waiting[0]; next; next = this.#waiting[0]) {
      const written = Math.max(0, this.#socket.write(next));
      if (written < next.length) {
        this.#waiting[0] = next.subarray(written);
        return;
      }
      this.#waiting.shift();
    }
    if (this.#isEnding) this.#socket.end();
  }

  /** Closes the socket when everything is written. */
  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    if (this.#waiting.length === 0) this.#socket.end();
  }
}
