// Errors of starting and joining ranks. Recipes print the message and leave with `exitCode`
// (reliability.md §3).

/** Exit codes that launching gives. */
export const exitCodes = { usage: 64, peer: 69, internal: 70, permission: 77 } as const;

/** With which a process ends itself when its main thread does not react. */
export const ownEndSignal = "SIGALRM";

/** A wrong environment, address or number of ranks: the user's to solve. */
export class LaunchError extends Error {
  override readonly name = "LaunchError";
  readonly exitCode: number;

  constructor(message: string, exitCode: number = exitCodes.usage) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Other ranks are missing, lost, stuck, or do not fit. `message` names the ranks. */
export class PeerError extends Error {
  override readonly name = "PeerError";
  readonly exitCode: number;

  constructor(message: string, exitCode: number = exitCodes.peer, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** `0-2, 5` of ranks 5, 0, 1, 2. */
export function rankList(ranks: Iterable<number>): string {
  const sorted = [...new Set(ranks)].sort((a, b) => a - b);
  const runs: [number, number][] = [];
  for (const rank of sorted) {
    const last = runs.at(-1);
    if (last && last[1] === rank - 1) last[1] = rank;
    else runs.push([rank, rank]);
  }
  return runs
    .map(([from, to]) =>
      from === to ? `${from}` : to === from + 1 ? `${from}, ${to}` : `${from}-${to}`,
    )
    .join(", ");
}

/** `rank 3` or `ranks 0-2, 5`. */
export function ranksNamed(ranks: Iterable<number>): string {
  const all = [...ranks];
  return `${new Set(all).size === 1 ? "rank" : "ranks"} ${rankList(all)}`;
}
