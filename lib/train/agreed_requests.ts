// Requests from outside to a run on a mesh: what one rank is asked, all of them do after the same
// step. A scheduler may send its signal to one process, or to all of them at different times.

import type { Parallel } from "./parallel.ts";
import { type StopRequests, type StopSignal, stopSignals } from "./stop.ts";

export class AgreedRequests {
  readonly #requests: StopRequests;
  readonly #parallel: Parallel;
  #stop: StopSignal | undefined;
  #save = false;

  constructor(requests: StopRequests, parallel: Parallel) {
    this.#requests = requests;
    this.#parallel = parallel;
  }

  /**
   * Lets signals arrive, and agrees with all ranks on what was asked so far. Every rank calls it
   * after the same steps.
   */
  async settle(): Promise<void> {
    await new Promise(setImmediate);
    const { stop } = this.#requests;
    const asked = [stop ? 1 + stopSignals.indexOf(stop) : 0, this.#requests.takeSave() ? 1 : 0];
    const [signal, save] = this.#parallel.maxOverAll(asked, "stop requests");
    this.#stop ??= stopSignals[signal! - 1];
    this.#save ||= save === 1;
  }

  /** The signal that asked a rank to stop; undefined for none. */
  get stop(): StopSignal | undefined {
    return this.#stop;
  }

  /** Whether a save was asked for since the last call. */
  takeSave(): boolean {
    const save = this.#save;
    this.#save = false;
    return save;
  }
}
