// Requests from outside to a running loop (reliability.md §3). Handlers only set flags: the loop
// looks at them between two steps, where everything is in a state that can be saved.
//
//   using requests = new StopRequests();
//   while (!requests.stop) { ...; await new Promise(setImmediate); }

/** Signals that end a run after the current step. */
export const stopSignals = ["SIGINT", "SIGTERM", "SIGUSR1"] as const;
export type StopSignal = (typeof stopSignals)[number];

/** Exit code of a run that a second interrupt ended at once. */
const interruptedTwice = 70;
const secondInterruptMilliseconds = 10_000;

export interface StopOptions {
  /** Told once, when the first stopping signal arrives. */
  notify?: (signal: StopSignal) => void;
  /** Ends the process. Default: process.exit. */
  exit?: (code: number) => void;
  /** Clock in milliseconds. */
  now?: () => number;
}

/**
 * Listens until it is disposed of. SIGINT, SIGTERM and SIGUSR1 ask to save and stop; schedulers
 * send theirs twice, so repeats change nothing, but a second SIGINT within ten seconds is a human
 * who does not want to wait: the process ends with code 70, unsaved. SIGUSR2 asks to save and go
 * on.
 */
export class StopRequests implements Disposable {
  #stop: StopSignal | undefined;
  #save = false;
  #interrupted = -Infinity;
  readonly #listeners: (readonly [NodeJS.Signals, () => void])[];

  constructor(options: StopOptions = {}) {
    const now = options.now ?? (() => performance.now());
    const exit = options.exit ?? ((code: number) => process.exit(code));
    const receive = (signal: StopSignal) => {
      const first = this.#stop === undefined;
      this.#stop ??= signal;
      if (signal === "SIGINT") {
        if (now() - this.#interrupted < secondInterruptMilliseconds) return exit(interruptedTwice);
        this.#interrupted = now();
      }
      if (first) options.notify?.(signal);
    };
    this.#listeners = [
      ...stopSignals.map((signal) => [signal, () => receive(signal)] as const),
      ["SIGUSR2", () => void (this.#save = true)] as const,
    ];
    for (const [signal, listener] of this.#listeners) process.on(signal, listener);
  }

  /** The signal that asked to stop; undefined for none. */
  get stop(): StopSignal | undefined {
    return this.#stop;
  }

  /** Whether a save was asked for since the last call. */
  takeSave(): boolean {
    const save = this.#save;
    this.#save = false;
    return save;
  }

  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) process.off(signal, listener);
  }
}
