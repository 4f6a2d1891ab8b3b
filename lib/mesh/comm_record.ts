// The flight record: the last 2048 operations of this rank's groups, for what happened before
// something went wrong.

import { check, native, scratch } from "../native/library.ts";

/** One operation. Times are milliseconds since 1970; missing where it has not come that far. */
export interface RecordedOperation {
  /** Counts all operations of this rank. */
  readonly number: number;
  readonly group: string;
  readonly op: string;
  readonly reduction: string;
  /** Counts the collectives of the group, or the messages of the pair: equal on all sides. */
  readonly seq: number;
  readonly dtype: string;
  readonly count: number;
  /** Hash of what all sides must agree on. */
  readonly hash: string;
  readonly site: string;
  readonly step: number;
  readonly enqueued: number;
  /** When all ranks had come. */
  readonly started?: number;
  readonly finished?: number;
  readonly failed?: boolean;
}

/** JSON lines of the operations from number `first` on, oldest first. */
export function flightRecord(first = 0): string[] {
  const lines: string[] = [];
  for (let next = first; ;) {
    check(native().xl_comm_record(next), "flightRecord");
    const { numbers, text } = scratch();
    const [bytes, after, count] = numbers;
    if (bytes! > 0) {
      const piece = new TextDecoder().decode(text.slice(0, bytes));
      lines.push(...piece.trimEnd().split("\n"));
    }
    next = after!;
    if (next >= count!) return lines;
  }
}

/** The step of the training run that later entries carry. */
export function setRecordedStep(step: number): void {
  check(native().xl_comm_set_step(step), "setRecordedStep");
}
