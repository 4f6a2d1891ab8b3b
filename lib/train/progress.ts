// The line that shows how training is going: redrawn in place on a terminal, and a plain line every
// few seconds where there is none (a log file, CI).

/** Where progress is written to; process.stderr is one. */
export interface ProgressOutput {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export interface ProgressOptions {
  /** Steps of the whole run. */
  total: number;
  /** Step the run was resumed after; does not count for speed and ETA. Default 0. */
  start?: number;
  output?: ProgressOutput;
  /** Redraw in place. Default: on a terminal that is not "dumb", and not in CI. */
  interactive?: boolean;
  /** Milliseconds between two plain lines. Default 10,000. */
  interval?: number;
  /** Clock in milliseconds. */
  now?: () => number;
}

/** What is known after a step. */
export interface StepReport {
  /** Number of the step, from 1. */
  step: number;
  /** Mean loss in nats per token. */
  loss: number;
  /** Tokens that went through since the last report. */
  tokens: number;
  lr?: number;
  /** One token is one byte: show bits per byte as well. */
  bytes?: boolean;
}

const redraw = 100;
/** Milliseconds over which the speed is averaged. */
const speedWindow = 15_000;

/** Counts tokens and time, and draws. */
export class Progress {
  readonly #total: number;
  readonly #output: ProgressOutput;
  readonly #interactive: boolean;
  readonly #interval: number;
  readonly #now: () => number;
  readonly #history: { time: number; step: number; tokens: number }[];
  #tokens = 0;
  #drawn = -Infinity;
  #line = "";
  #paused: number | undefined;

  constructor(options: ProgressOptions) {
    const { CI, TERM } = process.env;
    this.#total = options.total;
    this.#output = options.output ?? process.stderr;
    const terminal = Boolean(this.#output.isTTY) && !CI && TERM !== "dumb";
    this.#interactive = options.interactive ?? terminal;
    this.#interval = this.#interactive ? redraw : (options.interval ?? 10_000);
    this.#now = options.now ?? (() => performance.now());
    this.#history = [{ time: this.#now(), step: options.start ?? 0, tokens: 0 }];
  }

  /** Tokens per second over the last seconds, pauses left out; 0 before the first report. */
  get tokensPerSecond(): number {
    const { time, tokens } = this.#rate();
    return time > 0 ? (1000 * tokens) / time : 0;
  }

  /** Counts a step and draws when it is time, and always for the last step. */
  report(report: StepReport): void {
    this.resume();
    const time = this.#now();
    this.#tokens += report.tokens;
    this.#history.push({ time, step: report.step, tokens: this.#tokens });
    while (this.#history.length > 2 && time - this.#history[1]!.time > speedWindow) {
      this.#history.shift();
    }
    this.#line = this.#render(report);
    if (time - this.#drawn < this.#interval && report.step < this.#total) return;
    this.#drawn = time;
    if (this.#interactive) this.#output.write(`\r\x1b[2K${this.#fit(this.#line)}`);
    else this.#output.write(`${this.#line}\n`);
  }

  /** Prints lines above the progress line: a validation result, a saved checkpoint. */
  note(text: string): void {
    if (!this.#interactive) this.#output.write(`${text}\n`);
    else this.#output.write(`\r\x1b[2K${text}\n${this.#fit(this.#line)}`);
  }

  /** Stops the clock: validation and saving are no training time. */
  pause(): void {
    this.#paused ??= this.#now();
  }

  /** Starts the clock again; a report does so, too. */
  resume(): void {
    if (this.#paused === undefined) return;
    const pause = this.#now() - this.#paused;
    this.#paused = undefined;
    for (const entry of this.#history) entry.time += pause;
  }

  /** Leaves the last line standing. */
  finish(): void {
    if (this.#interactive && this.#line !== "") this.#output.write("\n");
    this.#line = "";
  }

  #rate(): { time: number; steps: number; tokens: number } {
    const first = this.#history[0]!;
    const last = this.#history.at(-1)!;
    return {
      time: last.time - first.time,
      steps: last.step - first.step,
      tokens: last.tokens - first.tokens,
    };
  }

  #render({ step, loss, lr, bytes }: StepReport): string {
    const { time, steps } = this.#rate();
    const left = steps > 0 ? (time / steps) * (this.#total - step) : NaN;
    const width = String(this.#total).length;
    const parts = [
      `step ${String(step).padStart(width)}/${this.#total}`,
      `loss ${loss.toFixed(4)}`,
      bytes ? `${(loss / Math.LN2).toFixed(3)} bits/byte` : "",
      lr === undefined ? "" : `lr ${lr.toExponential(2)}`,
      `${shortCount(this.tokensPerSecond)} tokens/s`,
      step < this.#total ? `ETA ${duration(left)}` : "done",
    ].filter((part) => part !== "");
    return (this.#interactive ? [bar(step / this.#total), ...parts] : parts).join("  ");
  }

  #fit(line: string): string {
    const columns = this.#output.columns ?? 80;
    return line.length < columns ? line : line.slice(0, Math.max(0, columns - 1));
  }
}

function bar(part: number): string {
  const width = 16;
  const filled = Math.max(0, Math.min(width, Math.round(part * width)));
  return "━".repeat(filled) + "─".repeat(width - filled);
}

/** `950`, `5.21k`, `1.3M`: three significant digits. */
export function shortCount(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const units = ["", "k", "M", "G", "T"];
  let scaled = value;
  let unit = 0;
  while (Math.abs(scaled) >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit++;
  }
  const digits = unit === 0 ? Math.round(scaled) : Number(scaled.toPrecision(3));
  return `${digits}${units[unit]}`;
}

/** `0:42`, `12:05`, `3:20:00` from milliseconds; `-:--` when unknown. */
export function duration(milliseconds: number): string {
  if (!Number.isFinite(milliseconds)) return "-:--";
  const seconds = Math.round(milliseconds / 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}:${two(seconds % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}
