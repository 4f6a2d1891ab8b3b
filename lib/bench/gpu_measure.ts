// Timing on the GPU: events around a captured graph of n calls, quantiles, and the work that a call
// cannot avoid. What cannot be captured is called n times: such a row says "eager", and a small
// operation is then as slow as the host is at asking for it.

import { NativeError } from "../native/errors.ts";
import { gpuFacts } from "../native/gpu.ts";
import {
  abs,
  capture,
  matmul,
  randn,
  scope,
  sum,
  type Tensor,
  timeOnDevice,
  zeros,
} from "../tensor/index.ts";

/** Milliseconds of one call. */
export interface GpuTiming {
  readonly milliseconds: number;
  readonly p20: number;
  readonly p80: number;
  readonly min: number;
  /** What the host spends on asking for an eager call, the GPU's work not waited for. */
  readonly hostMilliseconds: number;
  readonly repeats: number;
  readonly callsPerRepeat: number;
  /** Kernels of ours in one call; products of cuBLASLt are not counted. */
  readonly launches: number;
  /** "graph", or why the calls were eager. */
  readonly mode: string;
}

/** How long to measure. */
export interface Pace {
  /** Least milliseconds of one sample: event times are good to about a microsecond. */
  readonly sample: number;
  readonly repeats: number;
  /** Milliseconds after which a row has enough samples, given at least three. */
  readonly budget: number;
  /**
   * Milliseconds without work before the samples: behind a row that draws all the power that a GPU
   * may, its clocks stay low for a while, and rows would depend on their order.
   */
  readonly rest: number;
}

export const fullPace: Pace = { sample: 5, repeats: 20, budget: 3000, rest: 300 };
/** Shows that it runs. */
export const quickPace: Pace = { sample: 0, repeats: 3, budget: 0, rest: 0 };
/** Calls of one graph: some graphs hold a thousand kernels per call. */
const mostCalls = 200;

/** One kind of call, numbered so that it may go round several sets of buffers. */
export interface Measured {
  readonly run: (call: number) => unknown;
  /** On the host before a run or a replay: numbers that change. */
  readonly before?: (() => void) | undefined;
}

/** Times a call after some that fill the caches of memory and plans. */
export function measureOnDevice({ run, before }: Measured, pace: Pace): GpuTiming {
  let calls = 0;
  const call = () =>
    scope(() => {
      run(calls++);
    });
  const once = () => {
    before?.();
    call();
  };
  once();
  const earlier = gpuFacts().launches;
  const first = timeOnDevice(once);
  const launches = gpuFacts().launches - earlier;
  const host = [0, 1, 2].map(() => hostTime(once));
  const needed = Math.ceil(pace.sample / Math.max(first, 1e-3));
  const callsPerRepeat = Math.max(1, Math.min(mostCalls, needed));
  const graph = graphOf(call, callsPerRepeat, before);
  try {
    const device: number[] = [];
    timeOnDevice(() => {}); // nothing left to do
    Bun.sleepSync(pace.rest);
    const end = performance.now() + pace.budget;
    while (device.length < 3 || (device.length < pace.repeats && performance.now() < end)) {
      device.push(timeOnDevice(graph.replay) / callsPerRepeat);
    }
    return {
      milliseconds: quantile(device, 0.5),
      p20: quantile(device, 0.2),
      p80: quantile(device, 0.8),
      min: Math.min(...device),
      hostMilliseconds: quantile(host, 0.5),
      repeats: device.length,
      callsPerRepeat,
      launches,
      mode: graph.mode,
    };
  } finally {
    graph.end();
  }
}

/** Waits, so that the host's queue is empty, and times the asking alone. */
function hostTime(once: () => void): number {
  let time = 0;
  timeOnDevice(() => {
    const start = performance.now();
    once();
    time = performance.now() - start;
  });
  return time;
}

/** `count` calls as one replay. */
function graphOf(call: () => void, count: number, before: (() => void) | undefined) {
  const all = () => {
    for (let i = 0; i < count; i++) call();
  };
  const body = (_tick: Tensor) => {
    all();
    return {};
  };
  const step = capture(body, before ? { before } : {});
  const tick = zeros([1]);
  const end = () => {
    step.dispose();
    tick.dispose();
  };
  const replay = () => void step(tick);
  try {
    // The first call runs, the second one records and replays.
    replay();
    replay();
    return { mode: "graph", replay, end };
  } catch (error) {
    const eager = () => {
      before?.();
      all();
    };
    return { mode: `eager: ${messageOf(error)}`, replay: eager, end };
  }
}

/** The value that a part of the samples lies below, between neighbours where it falls so. */
export function quantile(samples: readonly number[], part: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = part * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return low + (high - low) * (at - Math.floor(at));
}

/** Throws when a value is not finite: a fast wrong answer is no result. */
export function expectFinite(tensors: readonly Tensor[]): void {
  for (const [at, tensor] of tensors.entries()) {
    // The GPU does no arithmetic in f64: norms and sums of squares are looked at here.
    const total = () => scope(() => sum(abs(tensor)).item());
    const values = tensor.dtype === "f64" ? [...tensor.dataSync()] : [total()];
    if (!values.every(Number.isFinite))
      throw new Error(`output ${at} has values that are not finite`);
  }
}

/** What this GPU reaches at best, measured in the same run. */
export interface GpuCeilings {
  readonly matmul: GpuTiming;
  readonly copy: GpuTiming;
  /** bf16 products of 8192 x 8192 matrices, TFLOP/s. */
  readonly tflops: number;
  /** Read plus written bytes of a copy of 2 GB, GB/s. */
  readonly gbps: number;
}

export function gpuCeilings(pace: Pace, quick: boolean): GpuCeilings {
  const size = quick ? 64 : 8192;
  const matmulTiming = scope(() => {
    const [a, b] = [bf16([size, size]), bf16([size, size])];
    return measureOnDevice({ run: () => matmul(a, b) }, pace);
  });
  const bytes = quick ? 1 << 14 : 2e9;
  const copyTiming = scope(() => {
    const x = bf16([bytes / 2]);
    return measureOnDevice({ run: () => x.clone() }, pace);
  });
  return {
    matmul: matmulTiming,
    copy: copyTiming,
    tflops: (2 * size ** 3) / matmulTiming.milliseconds / 1e9,
    gbps: (2 * bytes) / copyTiming.milliseconds / 1e6,
  };
}

/** Standard normal bf16 values. */
export function bf16(shape: readonly number[]): Tensor {
  return randn(shape, { dtype: "bf16" });
}

/** The least a call must move and compute. */
export interface Work {
  readonly bytes: number;
  readonly flops: number;
}

/** One line of the table. */
export interface GpuRow extends GpuTiming, Work {
  readonly name: string;
  /** Milliseconds: the longer of bytes at the copy ceiling and FLOPs at the product ceiling. */
  readonly floor: number;
  readonly overFloor: number;
  readonly gbps: number;
  readonly tflops: number;
  /** p80/p20 above 1.05: something disturbed the run; do not quote it. */
  readonly unsteady: boolean;
  readonly extra: Readonly<Record<string, number | string>>;
  /** Milliseconds by native call, for a training step. */
  readonly breakdown?: Readonly<Record<string, number>>;
}

/** A measurement that could not be made, and why. */
export interface FailedRow {
  readonly name: string;
  readonly error: string;
}

/** Something to measure. `make` prepares the inputs; what a call returns is checked once. */
export interface Case extends Work {
  readonly name: string;
  readonly make: () => (call: number) => Tensor | readonly Tensor[];
  readonly before?: () => void;
  /** Frees what no scope does. */
  readonly end?: () => void;
}

/** Checks a case, then times it. */
export function timeCase(one: Case, ceilings: GpuCeilings, pace: Pace): GpuRow | FailedRow {
  const row = guarded(one.name, () =>
    scope(() => {
      const run = one.make();
      one.before?.();
      scope(() => expectFinite([run(0)].flat()));
      const timing = measureOnDevice({ run, before: one.before }, pace);
      return rowOf(one.name, one, timing, ceilings);
    }),
  );
  one.end?.();
  return row;
}

/** A row of a timing. */
export function rowOf(
  name: string,
  { bytes, flops }: Work,
  timing: GpuTiming,
  ceilings: GpuCeilings,
  extra: GpuRow["extra"] = {},
): GpuRow {
  const floor = Math.max(bytes / ceilings.gbps / 1e6, flops / ceilings.tflops / 1e9);
  return {
    name,
    ...timing,
    bytes,
    flops,
    floor,
    overFloor: timing.milliseconds / floor,
    gbps: bytes / timing.milliseconds / 1e6,
    tflops: flops / timing.milliseconds / 1e9,
    unsteady: timing.p80 / timing.p20 > 1.05,
    extra,
  };
}

/** One failed measurement (a card that is too small, say) must not cost the others. */
export function guarded<T>(name: string, body: () => T): T | FailedRow {
  try {
    return body();
  } catch (error) {
    return { name, error: messageOf(error) };
  }
}

function messageOf(error: unknown): string {
  const kind = error instanceof NativeError ? `${error.code}: ` : "";
  return `${kind}${error instanceof Error ? error.message : String(error)}`;
}
