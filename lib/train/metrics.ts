// Metrics of a run as JSON lines, one per log, flushed as they come.
//
//   {"step":10,"time":"2026-01-01T00:00:00.000Z","train/loss":2.31,"train/lr":0.001}

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { warnUser } from "../log/index.ts";

/** One line: the step, when it was written, and values keyed `mode/key`. */
export interface MetricsRecord {
  readonly step: number;
  readonly time: string;
  readonly [key: string]: number | string | null;
}

export interface MetricsOptions {
  /** Name of the file. Default `metrics.jsonl`. */
  file?: string;
  /**
   * The run goes on after this step: what was logged for later steps, by the run that was stopped,
   * is cut off. Default: an existing file is started afresh.
   */
  resumeAfter?: number;
  /** Told once when the file cannot be written. Default: `warnUser`. */
  warn?: (message: string) => void;
}

/**
 * Appends metrics to a file in a run directory, which is created. Every record is one write, so a
 * killed run leaves whole lines. A full disk warns once and never stops training (training.md §10).
 */
export class MetricsLog implements Disposable {
  readonly path: string;
  readonly #warn: (message: string) => void;
  #file: number | undefined;
  #failed = false;

  constructor(directory: string, options: MetricsOptions = {}) {
    this.path = join(directory, options.file ?? "metrics.jsonl");
    this.#warn = options.warn ?? warnUser;
    this.#try(() => {
      mkdirSync(directory, { recursive: true });
      if (existsSync(this.path)) truncateSync(this.path, keptBytes(this.path, options.resumeAfter));
      this.#file = openSync(this.path, "a");
    });
  }

  /** Appends one record; keys become `mode/key`. Non-finite numbers are written as text. */
  log(mode: string, step: number, values: Readonly<Record<string, number | string>>): void {
    const record: Record<string, number | string> = { step, time: new Date().toISOString() };
    for (const [key, value] of Object.entries(values)) {
      const plain = typeof value === "string" || Number.isFinite(value);
      record[`${mode}/${key}`] = plain ? value : String(value);
    }
    this.#try(() => {
      if (this.#file !== undefined) writeSync(this.#file, `${JSON.stringify(record)}\n`);
    });
  }

  /** Every record of the file so far. */
  read(): MetricsRecord[] {
    return readMetrics(this.path);
  }

  [Symbol.dispose](): void {
    const file = this.#file;
    this.#file = undefined;
    if (file !== undefined) this.#try(() => closeSync(file));
  }

  #try(write: () => void): void {
    try {
      write();
    } catch (error) {
      if (this.#failed) return;
      this.#failed = true;
      const reason = (error as Error).message;
      this.#warn(`metrics are not written to ${this.path}: ${reason}; training goes on`);
    }
  }
}

/** The records of a metrics file; a torn last line is left out. No file is no records. */
export function readMetrics(path: string): MetricsRecord[] {
  if (!existsSync(path)) return [];
  return lines(readFileSync(path)).map((line) => line.record);
}

/** Points [step, value] of one key, e.g. `train/loss`; "NaN" and "Infinity" are numbers again. */
export function series(records: readonly MetricsRecord[], key: string): [number, number][] {
  return records.flatMap((record) => {
    const value = record[key];
    return value === undefined || value === null ? [] : [[record.step, Number(value)]];
  });
}

function keptBytes(path: string, resumeAfter: number | undefined): number {
  if (resumeAfter === undefined) return 0;
  const kept = lines(readFileSync(path)).findLast((line) => line.record.step <= resumeAfter);
  return kept?.end ?? 0;
}

/** Whole lines with the byte offset behind each; reading stops at the first that is no record. */
function lines(bytes: Uint8Array): { record: MetricsRecord; end: number }[] {
  const found: { record: MetricsRecord; end: number }[] = [];
  for (let start = 0; ;) {
    const end = bytes.indexOf(10, start) + 1;
    if (end === 0) return found;
    try {
      const text = new TextDecoder().decode(bytes.subarray(start, end));
      found.push({ record: JSON.parse(text) as MetricsRecord, end });
    } catch {
      return found;
    }
    start = end;
  }
}
