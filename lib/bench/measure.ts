// Timing: best and median of repeats, and the ceilings of the same run that rates are compared
// with.

import { check, native, scratch } from "../native/library.ts";
import { scope, zeros } from "../tensor/index.ts";

export interface Timing {
  readonly best: number;
  readonly median: number;
  readonly repeats: number;
}

/** Seconds of `body`, after one warm-up, until `budget` seconds are spent (at least 3 repeats). */
export function measure(body: () => void, budget = 0.5): Timing {
  scope(body);
  const times: number[] = [];
  const end = Bun.nanoseconds() + budget * 1e9;
  while (times.length < 3 || (Bun.nanoseconds() < end && times.length < 200)) {
    const start = Bun.nanoseconds();
    scope(body);
    times.push((Bun.nanoseconds() - start) / 1e9);
  }
  times.sort((a, b) => a - b);
  return { best: times[0]!, median: times[times.length >> 1]!, repeats: times.length };
}

export interface Ceilings {
  /** f32 multiply-adds of all threads, GFLOP/s. */
  readonly gflops: number;
  /** Read plus written bytes of a large copy, GB/s. */
  readonly copy: number;
}

/** Measured now, best of a few tries. */
export function ceilings(): Ceilings {
  const loops = 2_000_000;
  let gflops = 0;
  for (let i = 0; i < 5; i++) {
    const start = Bun.nanoseconds();
    check(native().xl_ceiling(loops), "ceiling");
    gflops = Math.max(gflops, scratch().numbers[0]! / (Bun.nanoseconds() - start));
  }
  const copy = scope(() => {
    const x = zeros([1 << 25]);
    const { best } = measure(() => void x.clone(), 0.5);
    return (2 * x.byteLength) / best / 1e9;
  });
  return { gflops, copy };
}

/** Makes a CBLAS library multiply, after its self-check; null goes back to the in-tree product. */
export function useBlas(path: string | null): void {
  const bytes = new TextEncoder().encode(path ?? "");
  scratch().text.set(bytes);
  check(native().xl_use_blas(bytes.length), "blas");
}

/** The first library that opens and passes, and why others did not. */
export function findBlas(paths: readonly string[]): { path: string | undefined; tried: string[] } {
  const tried: string[] = [];
  for (const path of paths) {
    try {
      useBlas(path);
      useBlas(null);
      return { path, tried };
    } catch (error) {
      tried.push((error as Error).message);
    }
  }
  return { path: undefined, tried };
}
