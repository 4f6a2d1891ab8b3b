// A step that runs again and again with other numbers: on the GPU it is recorded once as a graph
// and replayed by one call; on the CPU it simply runs.
//
//   const step = capture((tokens, targets) => {
//     const loss = model.loss({ tokens, targets });
//     const { norm } = optimizer.update(loss.backward());
//     return { loss, norm };
//   }, { before: () => optimizer.advance() });
//   const { loss } = step(tokens, targets);       // the same tensors after every call
//
// The body sees device tensors only: it may not read a value (item, data) nor write one, and
// numbers of JavaScript are frozen at the recording. A call with other shapes records again.

import { check, native, scratch } from "../native/library.ts";
import { DTypeError } from "./errors.ts";
import { keep, scope } from "./scope.ts";
import { noGrad } from "./tape.ts";
import { Tensor } from "./tensor.ts";
import { clone, write } from "./ops/view.ts";

export interface CaptureOptions {
  /** Runs on the host before every run of the body: the place for numbers that change. */
  readonly before?: () => void;
}

/** Results of a captured step: tensors by name. */
export type Results = Readonly<Record<string, Tensor>>;

export interface Captured<I extends readonly Tensor[], R extends Results> {
  (...inputs: I): R;
  /** Kernels in the newest recording; 0 before there is one, and on the CPU. */
  readonly launches: number;
  dispose(): void;
}

interface Recording<R> {
  readonly graph: number;
  readonly launches: number;
  readonly inputs: readonly Tensor[];
  readonly results: R;
}

let capturing = false;

/** Whether launches are being recorded instead of run. */
export function isCapturing(): boolean {
  return capturing;
}

/**
 * Wraps a step. The first call of every shape runs as it is written, which loads kernels and
 * chooses algorithms; the second one records; later ones replay. Results equal those of the body
 * bit for bit; they are overwritten by the next call.
 */
export function capture<I extends readonly Tensor[], R extends Results>(
  body: (...inputs: I) => R,
  options: CaptureOptions = {},
): Captured<I, R> {
  const recordings = new Map<string, Recording<R>>();
  const warmed = new Map<string, R>();
  let launches = 0;
  const drop = () => {
    for (const recording of recordings.values()) release(recording);
    for (const results of warmed.values()) disposeAll(results);
    recordings.clear();
    warmed.clear();
  };
  const step = (...inputs: I): R => {
    const key = signature(inputs);
    const onGpu = inputs.some(({ device }) => device === "cuda");
    options.before?.();
    const recording = recordings.get(key);
    if (recording) return replay(recording, inputs);
    const earlier = warmed.get(key);
    if (earlier) disposeAll(earlier);
    if (!onGpu || !earlier) {
      const results = scope(() => kept(body(...inputs)));
      warmed.set(key, results);
      return results;
    }
    warmed.delete(key);
    const made = record(body, inputs);
    recordings.set(key, made);
    launches = made.launches;
    return replay(made, inputs);
  };
  Object.defineProperty(step, "launches", { get: () => launches });
  return Object.assign(step, { dispose: drop }) as unknown as Captured<I, R>;
}

/** Static copies of the inputs, then the body while the stream records. */
function record<I extends readonly Tensor[], R extends Results>(
  body: (...inputs: I) => R,
  inputs: I,
): Recording<R> {
  const copies = noGrad(() => inputs.map((input) => keep(clone(input)))) as unknown as I;
  check(native().xl_capture_begin(), "capture");
  capturing = true;
  try {
    const results = scope(() => kept(body(...copies)));
    check(native().xl_capture_end(1), "capture");
    const [graph, launches] = scratch().numbers;
    return { graph: graph!, launches: launches!, inputs: copies, results };
  } catch (error) {
    native().xl_capture_end(0);
    for (const copy of copies) copy.dispose();
    throw error;
  } finally {
    capturing = false;
  }
}

function replay<R>({ graph, inputs, results }: Recording<R>, given: readonly Tensor[]): R {
  noGrad(() => inputs.forEach((input, i) => write(input, given[i]!)));
  check(native().xl_replay(graph), "replay");
  return results;
}

function release<R extends Results>({ graph, inputs, results }: Recording<R>): void {
  check(native().xl_destroy_graph(graph), "capture");
  for (const input of inputs) input.dispose();
  disposeAll(results);
}

function kept<R extends Results>(results: R): R {
  for (const [name, result] of Object.entries(results)) {
    if (result instanceof Tensor) keep(result);
    else throw new DTypeError(`capture: the result ${name} is no tensor: return tensors by name`);
  }
  return results;
}

function disposeAll(results: Results): void {
  for (const result of Object.values(results)) result.dispose();
}

function signature(inputs: readonly Tensor[]): string {
  return inputs.map(({ dtype, device, shape }) => `${device} ${dtype} ${shape}`).join("; ");
}
