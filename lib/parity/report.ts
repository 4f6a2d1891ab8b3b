// The parity table as text.

import type { MeshRow } from "./session.ts";

const columns = [
  ["pp dp fsdp tp", 13],
  ["dtype", 5],
  ["blocks", 6],
  ["cases", 5],
  ["gradient error", 14],
  ["gradient norm", 18],
  ["hash", 12],
  ["seconds", 7],
  ["", 0],
] as const;

/** The line above the rows. */
export function headOf(): string {
  return columns.map(([title, width]) => title.padEnd(width)).join("  ");
}

/** One line, and under it what is wrong: the mesh's cases, and the parameter. */
export function lineOf(row: MeshRow, { colors }: { colors: boolean }): string {
  const cells = [
    ` ${[...row.mesh].join("  ")}`,
    row.precision,
    String(row.blocks).padStart(6),
    String(row.cases).padStart(5),
    row.gradientError === 0 ? "the same bits" : row.gradientError.toExponential(1),
    row.norm.toPrecision(16),
    row.hash,
    row.seconds.toFixed(1).padStart(7),
  ];
  const line = cells.map((cell, i) => cell.padEnd(columns[i]![1])).join("  ");
  const paint = (text: string) => (colors ? `\u001B[31m${text}\u001B[39m` : text);
  if (row.misses.length === 0) return `${line}  ok`;
  const shown = row.misses.slice(0, mostMisses).map(({ what, error, bar, case: name }) => {
    const size = bar === 0 ? "differs" : `${error.toExponential(1)} of ${bar}`;
    return `     ${what}: ${size} (${name})`;
  });
  const rest = row.misses.length - shown.length;
  const more = rest > 0 ? [`     and ${rest} more`] : [];
  return [`${line}  MISSED`, ...shown, ...more].map(paint).join("\n");
}

const mostMisses = 6;
