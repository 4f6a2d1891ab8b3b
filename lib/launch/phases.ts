// Where a rank is inside of a step, as heartbeats tell it, and how long it may stay there.

/** In the order in which a step goes through them. */
export const phases = ["init", "data", "forward", "backward", "optimizer", "save", "eval"] as const;

export type Phase = (typeof phases)[number];

/** Seconds without progress after which a rank counts as stuck. */
export interface Deadlines {
  /** From joining to the end of the first step. */
  readonly init: number;
  /** data, forward, backward, optimizer. */
  readonly step: number;
  readonly save: number;
  readonly eval: number;
  /** Without any heartbeat: the process is stopped, or its host is gone. */
  readonly heartbeat: number;
}

export const defaultDeadlines: Deadlines = {
  init: 300,
  step: 100,
  save: 1800,
  eval: 1800,
  heartbeat: 60,
};

/** One rank's report. */
export interface Beat {
  readonly step: number;
  readonly phase: Phase;
  /** Counts the rank's own reports: no change, no progress. */
  readonly ticks: number;
}

/** `step 12, data`. */
export function showBeat({ step, phase }: Beat): string {
  return `step ${step}, ${phase}`;
}

/** Seconds that a rank may stay at this place; `first` is the first step of its run. */
export function limitOf(
  { init, step: eachStep, save, eval: evaluation }: Deadlines,
  { step, phase }: Omit<Beat, "ticks">,
  first: number | undefined,
): number {
  if (phase === "save") return save;
  if (phase === "eval") return evaluation;
  return phase === "init" || step === first ? init : eachStep;
}
