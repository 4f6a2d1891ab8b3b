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
import { type NonFiniteError, type Optimizer } from "../optim/optimizer.ts";
import { div, type Gradients, scope, type Tensor } from "../tensor/index.ts";
import { CapturedTraining, SpoiledStep } from "./captured.ts";
import type { Checkpoints } from "./checkpoints.ts";
import type { MetricsLog } from "./metrics.ts";
import { firstNonFinite, NonFiniteStop } from "./non_finite.ts";
import type { Progress } from "./progress.ts";
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
  /** Pieces a batch is cut into, one after the other, to save memory. Default 1. */
  readonly accumulate?: number;
  /** A loss on held-out text every so many steps. */
  readonly validation?: {
    readonly every: number;
    /** Mean loss in nats. */
    readonly evaluate: () => Promise<number>;
  };
  readonly checkpoints?: Checkpoints;
  readonly metrics?: MetricsLog;
  readonly progress?: Progress;
  /** Told after every step. */
  readonly onStep?: (report: TrainingStep) => void;
  /** Steps between two lines of metrics. Default 10. */
  readonly logEvery?: number;
  /** Default: signals of the process. */
  readonly requests?: StopRequests;
}

/** Facts of one step. */
export interface TrainingStep {
  /** Number of the step, from 1. */
  readonly step: number;
  /** Mean loss over the batch in nats per token, before the update. */
  readonly loss: number;
  /** Global gradient norm before clipping. */
  readonly norm: number;
  readonly lr: number;
  readonly tokens: number;
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
  readonly #captured: CapturedTraining | undefined;
  readonly #pieces: number;
  readonly #areBytes: boolean;
  #step: number;

  /** RangeError when the batch cannot be cut into `accumulate` equal pieces. */
  constructor(options: TrainerOptions) {
    this.#options = options;
    this.#pieces = options.accumulate ?? 1;
    this.#step = options.start ?? 0;
    this.#areBytes = options.model.config.vocabSize === 256;
    const { size } = options.stream;
    const { steps } = options;
    this.#captured = CapturedTraining.for(options.model, options.optimizer);
    if (!Number.isSafeInteger(steps) || steps < 0) {
      throw new RangeError(`steps is ${steps}: expected a whole number`);
    }
    if (!Number.isSafeInteger(this.#pieces) || this.#pieces < 1 || size % this.#pieces !== 0) {
      throw new RangeError(
        `accumulate is ${this.#pieces}: expected a divisor of the batch size ${size}`,
      );
    }
  }

  /** Steps that have been taken. */
  get step(): number {
    return this.#step;
  }

  /**
   * Trains up to `steps`, or until a signal asks to stop; both end with a checkpoint. Throws a
   * NonFiniteStop before an update that would spoil the weights: they, and the last checkpoint, are
   * as they were.
   */
  async run(): Promise<TrainingResult> {
    const own = this.#options.requests ? undefined : new StopRequests({ notify: this.#announce });
    using requests = this.#options.requests ?? own!;
    const { steps, stream, progress, checkpoints, validation } = this.#options;
    let last: TrainingStep | undefined;
    // A macrotask before the first step, too: signals of the time before must be seen.
    await new Promise(setImmediate);
    while (this.#step < steps && !requests.stop) {
      last = this.#takeStep(stream.next());
      progress?.report({ ...last, bytes: this.#areBytes });
      this.#log(last);
      this.#options.onStep?.(last);
      if (validation && this.#step % validation.every === 0) await this.#validate();
      const due = checkpoints?.isDue(this.#step) ?? false;
      if ((due || requests.takeSave()) && this.#step < steps) this.#save("periodic");
      await new Promise(setImmediate);
    }
    progress?.finish();
    this.#save("last");
    const status = this.#step < steps ? "stopped" : "finished";
    const { stop: signal } = requests;
    return { status, step: this.#step, signal, checkpoint: checkpoints?.newest, last };
  }

  #takeStep(batch: Batch): TrainingStep {
    using _ = scope();
    const { optimizer } = this.#options;
    const tokens = batch.size * batch.length;
    if (this.#captured && this.#pieces === 1) return this.#replay(this.#captured, batch, tokens);
    const { loss, gradients } = this.#differentiate(batch, tokens);
    const step = this.#step + 1;
    if (!Number.isFinite(loss)) throw this.#stopped(step, batch, loss, gradients);
    try {
      const { norm, lr } = optimizer.step(gradients);
      this.#step = step;
      return { step, loss, norm, lr, tokens };
    } catch (error) {
      if ((error as Error).name !== "NonFiniteError") throw error;
      throw this.#stopped(step, batch, loss, gradients, error as NonFiniteError);
    }
  }

  /** The same step as a graph: one launch, one wait for its numbers. */
  #replay(captured: CapturedTraining, batch: Batch, tokens: number): TrainingStep {
    const step = this.#step + 1;
    try {
      const facts = captured.run(batch);
      this.#step = step;
      return { step, tokens, ...facts };
    } catch (error) {
      if (!(error instanceof SpoiledStep)) throw error;
      const { checkpoints } = this.#options;
      const rows = [batch.row, batch.row + batch.size - 1] as const;
      const { loss, message: where } = error;
      throw new NonFiniteStop({ step, loss, rows, where, checkpoint: checkpoints?.newest }, error);
    }
  }

  /** Loss and gradients of the mean over all tokens of the batch, piece by piece in row order. */
  #differentiate(batch: Batch, tokens: number): { loss: number; gradients: Gradients } {
    const { model, seed = 0 } = this.#options;
    const losses: Tensor[] = [];
    let total: Gradients | undefined;
    for (const piece of piecesOf(batch, this.#pieces)) {
      const dropout = { seed, step: this.#step, sample: piece.row };
      const sums = model.lossSum(piece, { train: true, dropout });
      const mean = div(sums.loss, tokens);
      losses.push(mean);
      const gradients = mean.backward();
      total = total ? total.plus(gradients) : gradients;
    }
    const loss = losses.reduce((sum, piece) => sum + piece.item(), 0);
    return { loss, gradients: total! };
  }

  #stopped(
    step: number,
    batch: Batch,
    loss: number,
    gradients: Gradients,
    cause?: NonFiniteError,
  ): NonFiniteStop {
    const { model, checkpoints } = this.#options;
    const rows = [batch.row, batch.row + batch.size - 1] as const;
    const where = cause ? cause.message : firstNonFinite(model.parameters(), gradients);
    return new NonFiniteStop({ step, loss, rows, where, checkpoint: checkpoints?.newest }, cause);
  }

  #log({ step, loss, norm, lr }: TrainingStep): void {
    const { metrics, logEvery = 10, steps, progress } = this.#options;
    if (step % logEvery !== 0 && step !== 1 && step !== steps) return;
    const tokensPerSecond = Math.round(progress?.tokensPerSecond ?? 0);
    metrics?.log("train", step, { loss, norm, lr, tokens_per_second: tokensPerSecond });
  }

  async #validate(): Promise<void> {
    const { validation, metrics, progress, checkpoints } = this.#options;
    progress?.pause();
    const loss = await validation!.evaluate();
    metrics?.log("validation", this.#step, { loss, bits: loss / Math.LN2 });
    const bits = `${(loss / Math.LN2).toFixed(3)} bits/${this.#areBytes ? "byte" : "token"}`;
    progress?.note(`step ${this.#step}: validation loss ${loss.toFixed(4)}, ${bits}`);
    checkpoints?.note({ validation_loss: loss });
  }

  #save(occasion: "periodic" | "last"): void {
    const { checkpoints, model, optimizer, stream, seed = 0, progress } = this.#options;
    if (!checkpoints) return;
    progress?.pause();
    checkpoints.save({ model, optimizer, stream, seed }, this.#step, occasion);
  }

  readonly #announce = (signal: StopSignal): void => {
    const again = signal === "SIGINT" ? "; Ctrl-C again leaves at once, without saving" : "";
    this.#options.progress?.note(`${signal}: stopping after this step${again}`);
  };
}

/** Equal runs of rows, in order. */
function piecesOf(batch: Batch, count: number) {
  const rows = batch.size / count;
  const shape = [rows, batch.length] as const;
  const span = rows * batch.length;
  return Array.from({ length: count }, (_, k) => {
    const cut = (data: Int32Array) => ({ data: data.subarray(k * span, (k + 1) * span), shape });
    const { tokens, targets, row } = batch;
    return { tokens: cut(tokens.data), targets: cut(targets.data), row: row + k * rows };
  });
}
