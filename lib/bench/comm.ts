// What moves between ranks: every collective against host arithmetic, then bus bandwidth. Runs on
// all ranks alike; the caller prints on rank 0.

import type { Group } from "../mesh/group.ts";
import { scope, synchronize, zeros } from "../tensor/index.ts";
import { checkCases } from "./comm_checks.ts";

export const commParts = ["check", "bandwidth"] as const;
export type CommPart = (typeof commParts)[number];

/** One checked operation; `error` says what was wrong. */
export interface CheckRow {
  readonly part: "check";
  readonly name: string;
  readonly error?: string;
}

export interface BandwidthRow {
  readonly part: "bandwidth";
  readonly name: string;
  /** Of the full tensor. */
  readonly bytes: number;
  /** Mean of the calls of the fastest repeat, on the slowest rank. */
  readonly milliseconds: number;
  /** Bytes per second that each rank must move over the wire, whatever the algorithm. */
  readonly busGBps: number;
}

export type CommRow = CheckRow | BandwidthRow;

export interface CommOptions {
  readonly only: CommPart | "all";
  /** Largest full tensor, in MiB. Default: 1024 on GPUs, 64 on the CPU. */
  readonly most?: number | undefined;
  readonly quick: boolean;
}

/** Measures as it is walked. A failed check is a row; the others go on. */
export function* commBench(group: Group, { only, most, quick }: CommOptions): Generator<CommRow> {
  if (only !== "bandwidth") {
    for (const { name, run } of checkCases(group, quick)) yield { part: "check", name, ...run() };
  }
  if (only === "check") return;
  const limit = quick ? 1 : (most ?? (group.device === "cuda" ? 1024 : 64));
  for (let mib = 1; mib <= limit; mib *= 4) {
    for (const [name, call] of Object.entries(calls)) {
      yield scope(() => bandwidthOf(group, name, call, mib * 2 ** 20, quick));
    }
  }
}

interface Call {
  /** Rows of [rows, width] that this rank puts in; the full tensor has one row per rank. */
  readonly rows: (n: number) => number;
  readonly run: (group: Group, x: ReturnType<typeof zeros>) => unknown;
  /** Bytes on the wire per rank, as a part of the full tensor. */
  readonly share: (n: number) => number;
}

const calls: Record<string, Call> = {
  allReduce: {
    rows: (n) => n,
    run: (group, x) => group.allReduce(x),
    share: (n) => (2 * (n - 1)) / n,
  },
  allGather: {
    rows: () => 1,
    run: (group, x) => group.allGather(x, 0),
    share: (n) => (n - 1) / n,
  },
  reduceScatter: {
    rows: (n) => n,
    run: (group, x) => group.reduceScatter(x, 0),
    share: (n) => (n - 1) / n,
  },
};

function bandwidthOf(
  group: Group,
  name: string,
  { rows, run, share }: Call,
  wanted: number,
  quick: boolean,
): BandwidthRow {
  const width = Math.ceil(wanted / 4 / group.size);
  const bytes = width * 4 * group.size;
  const x = zeros([rows(group.size), width]);
  const seconds = (count: number) => {
    group.barrier();
    synchronize();
    const start = Bun.nanoseconds();
    for (let i = 0; i < count; i++) scope(() => void run(group, x));
    synchronize();
    return slowest(group, (Bun.nanoseconds() - start) / 1e9 / count);
  };
  const first = Math.max(seconds(1), seconds(1));
  // About a fifth of a second each, on all ranks the same number.
  const count = quick ? 1 : Math.max(2, Math.min(200, Math.ceil(0.2 / first)));
  let best = Number.POSITIVE_INFINITY;
  for (let repeat = 0; repeat < (quick ? 1 : 5); repeat++) best = Math.min(best, seconds(count));
  const busGBps = (bytes * share(group.size)) / best / 1e9;
  return { part: "bandwidth", name, bytes, milliseconds: best * 1e3, busGBps };
}

/** The same number on every rank: the largest of all. */
function slowest(group: Group, seconds: number): number {
  return scope(() => {
    const mine = zeros([1]).add(seconds);
    return group.allReduce(mine, { op: "max" }).item();
  });
}
