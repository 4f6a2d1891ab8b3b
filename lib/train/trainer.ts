// The training loop: step, evaluation, log, checkpoint (training.md §3.2, §7; reliability.md §3,
// §4).
//
//   const parts = { model, optimizer, stream, seed: 0 };
//   const start = checkpoints.restore(parts)?.step;      // to go on with an earlier run
//   const { status } = await new Trainer({ ...parts, steps: 1000, start, checkpoints }).run();
//
// Everything a step depends on is the weights, the optimiser's moments, and the number of the step:
// a run that was stopped and resumed equals one that was not, bit for bit.

import type { Batch, BatchStream } from "../data/batches.ts";
import type { XLSTM } from "../nn/model.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { scope } from "../tensor/index.ts";
import { AgreedRequests } from "./agreed_requests.ts";
import { CapturedTraining } from "./captured.ts";
import type { Checkpoints } from "./checkpoints.ts";
import type { MetricsLog } from "./metrics.ts";
import { checkShare, microbatchesOf, type Share } from "./microbatches.ts";
import { NonFiniteStop } from "./non_finite.ts";
import { Parallel } from "./parallel.ts";
import type { Progress } from "./progress.ts";
import { SpoiledStep, type StepFacts, takeStep } from "./step.ts";
import { StopRequests, type StopSignal } from "./stop.ts";

export interface TrainerOptions {
  readonly model: XLSTM;
  readonly optimizer: Optimizer;
  readonly stream: BatchStream;
  /** Optimiser updates of the whole run, those before a resume included. */
  readonly steps: number;
  /** Steps that were taken before, by the run that this one continues. Default 0. */
  readonly start?: number | undefined;
  /** Seed of dropout masks. Default 0. */
  readonly seed?: number;
  /**
   * The model on its mesh, from which `optimizer` got its parameters; every rank runs the same
   * trainer. Default: one rank.
   */
  readonly parallel?: Parallel;
  /**
   * Pieces that each rank's rows of a batch are cut into, one after the other, to save memory and,
   * with pp, to keep the stages busy. Default 1.
   */
  readonly accumulate?: number;
  /** A loss on held-out text every so many steps. */
  readonly validation?: {
    readonly every: number;
    /** Mean loss in nats; called on every rank. */
    readonly evaluate: () => Promise<number>;
  };
  readonly checkpoints?: Checkpoints;
  /** Written by rank 0. */
  readonly metrics?: MetricsLog;
  /** Shown by rank 0. */
  readonly progress?: Progress;
  /** Told after every step. */
  readonly onStep?: (report: TrainingStep) => void;
  /** Steps between two lines of metrics. Default 10. */
  readonly logEvery?: number;
  /** Default: signals of the process. */
  readonly requests?: StopRequests;
}

/** Facts of one step. */
export interface TrainingStep extends StepFacts {
  /** Number of the step, from 1. */
  readonly step: number;
}

export interface TrainingResult {
  readonly status: "finished" | "stopped";
  /** Steps that have been taken. */
  readonly step: number;
  readonly signal: StopSignal | undefined;
  /** The newest checkpoint; undefined without any. */
  readonly checkpoint: string | undefined;
  readonly last: TrainingStep | undefined;
}

export class Trainer {
  readonly #options: TrainerOptions;
  readonly #parallel: Parallel;
  readonly #captured: CapturedTraining | undefined;
  readonly #share: Share;
  readonly #areBytes: boolean;
  #step: number;

  /** RangeError when the batch cannot be cut into equal pieces for all ranks. */
  constructor(options: TrainerOptions) {
    const { model, optimizer, stream, steps, accumulate: pieces = 1 } = options;
    this.#options = options;
    this.#parallel = options.parallel ?? new Parallel(model);
    this.#step = options.start ?? 0;
    this.#areBytes = model.config.vocabSize === 256;
    if (!Number.isSafeInteger(steps) || steps < 0) {
      throw new RangeError(`steps is ${steps}: expected a whole number`);
    }
    const { dataRank: rank, dataSize: ranks } = this.#parallel;
    this.#share = { rank, ranks, pieces };
    checkShare(stream.size, this.#share);
    const isAlone = this.#parallel.mesh.world.size === 1;
    if (!isAlone && optimizer.norm !== this.#parallel.norm) {
      throw new Error(
        "the optimizer does not know the mesh: make it with " +
          "optimizer(parallel.parameters(), settings, parallel)",
      );
    }
    this.#captured = isAlone && pieces === 1 ? CapturedTraining.for(model, optimizer) : undefined;
  }

  /** Steps that have been taken. */
  get step(): number {
    return this.#step;
  }

  /**
   * Trains up to `steps`, or until a signal asks any rank to stop; both end with a checkpoint.
   * Throws a NonFiniteStop before an update that would spoil the weights: they, and the last
   * checkpoint, are as they were.
   */
  async run(): Promise<TrainingResult> {
    const own = this.#options.requests ? undefined : new StopRequests({ notify: this.#announce });
    using listening = this.#options.requests ?? own!;
    const requests = new AgreedRequests(listening, this.#parallel);
    const { steps, stream, checkpoints, validation } = this.#options;
    let last: TrainingStep | undefined;
    // A macrotask before the first step, too: signals of the time before must be seen.
    await requests.settle();
    while (this.#step < steps && !requests.stop) {
      last = this.#takeStep(stream.next());
      this.#progress?.report({ ...last, bytes: this.#areBytes });
      this.#log(last);
      this.#options.onStep?.(last);
      if (validation && this.#step % validation.every === 0) await this.#validate();
      await requests.settle();
      const due = checkpoints?.isDue(this.#step) ?? false;
      if ((due || requests.takeSave()) && this.#step < steps) this.#save("periodic");
    }
    this.#progress?.finish();
    this.#save("last");
    const status = this.#step < steps ? "stopped" : "finished";
    const { stop: signal } = requests;
    return { status, step: this.#step, signal, checkpoint: checkpoints?.newest, last };
  }

  get #progress(): Progress | undefined {
    return this.#parallel.isFirst ? this.#options.progress : undefined;
  }

  get #metrics(): MetricsLog | undefined {
    return this.#parallel.isFirst ? this.#options.metrics : undefined;
  }

  #takeStep(batch: Batch): TrainingStep {
    using _ = scope();
    const step = this.#step + 1;
    try {
      const facts = this.#captured?.run(batch) ?? this.#takeTogether(batch);
      this.#step = step;
      return { step, ...facts };
    } catch (error) {
      if (!(error instanceof SpoiledStep)) throw error;
      const checkpoint = this.#options.checkpoints?.newest;
      const rows = [batch.row, batch.row + batch.size - 1] as const;
      const { loss, message: where } = error;
      throw new NonFiniteStop({ step, loss, rows, where, checkpoint }, error);
    }
  }

  #takeTogether(batch: Batch): StepFacts {
    const { optimizer, seed = 0 } = this.#options;
    const microbatches = microbatchesOf(batch, this.#share);
    return takeStep(this.#parallel, optimizer, microbatches, { seed, step: this.#step });
  }

  #log({ step, loss, norm, lr }: TrainingStep): void {
    const { logEvery = 10, steps } = this.#options;
    if (step % logEvery !== 0 && step !== 1 && step !== steps) return;
    const tokensPerSecond = Math.round(this.#progress?.tokensPerSecond ?? 0);
    this.#metrics?.log("train", step, { loss, norm, lr, tokens_per_second: tokensPerSecond });
  }

  async #validate(): Promise<void> {
    const { validation, checkpoints } = this.#options;
    this.#progress?.pause();
    this.#parallel.mesh.heartbeat(this.#step, "eval");
    const loss = await validation!.evaluate();
    this.#metrics?.log("validation", this.#step, { loss, bits: loss / Math.LN2 });
    const bits = `${(loss / Math.LN2).toFixed(3)} bits/${this.#areBytes ? "byte" : "token"}`;
    this.#progress?.note(`step ${this.#step}: validation loss ${loss.toFixed(4)}, ${bits}`);
    checkpoints?.note({ validation_loss: loss });
  }

  #save(occasion: "periodic" | "last"): void {
    const { checkpoints, model, optimizer, stream, seed = 0, parallel } = this.#options;
    if (!checkpoints) return;
    this.#progress?.pause();
    checkpoints.save({ model, optimizer, stream, seed, parallel }, this.#step, occasion);
  }

  readonly #announce = (signal: StopSignal): void => {
    const again = signal === "SIGINT" ? "; Ctrl-C again leaves at once, without saving" : "";
    this.#progress?.note(`${signal}: stopping after this step${again}`);
  };
}
