// A loss curve in the terminal, drawn with braille: two by four dots in every character.

import { axisOf, type Curve, type Plot, scale, smoothed, tight } from "./axes.ts";
import { shortCount } from "./progress.ts";

export interface TerminalPlotOptions {
  /** Characters of the whole plot. Defaults 76 x 16. */
  width?: number;
  height?: number;
  /** Colour escape codes. Default: on a terminal without NO_COLOR. */
  colors?: boolean;
}

const curveColors = [34, 33, 32, 35];
const plain = { curve: 0, reference: 90 };
/** Braille dot bits by row and column of the dot inside its character. */
const dots = [
  [0x01, 0x08],
  [0x02, 0x10],
  [0x04, 0x20],
  [0x40, 0x80],
] as const;

/** The plot as lines of text: title, y ticks, curves, x range and a legend with the last values. */
export function renderTerminal(plot: Plot, options: TerminalPlotOptions = {}): string {
  const width = Math.max(20, options.width ?? 76);
  const height = Math.max(4, options.height ?? 16);
  const colors = options.colors ?? (Boolean(process.stdout.isTTY) && !process.env["NO_COLOR"]);
  const paint = (text: string, code: number) =>
    colors && code !== 0 ? `\x1b[${code}m${text}\x1b[39m` : text;
  const curves = plot.curves.map((curve) => (curve.smooth ? smoothed(curve.points) : curve.points));
  const references = plot.references ?? [];
  const values = [...curves.flat().map(([, value]) => value), ...references.map((r) => r.value)];
  const yAxis = tight(axisOf(values, 5), values, 0.02);
  const labels = yAxis.ticks.map((tick) => tick.toFixed(yAxis.digits));
  const margin = Math.max(...labels.map((label) => label.length));
  const canvas = new Canvas(width - margin - 2, height);
  const steps = curves.flat().map(([x]) => x);
  const first = steps.reduce((least, x) => Math.min(least, x), Infinity);
  const last = steps.reduce((most, x) => Math.max(most, x), -Infinity);
  const x = scale(
    { low: first, high: Math.max(last, first + 1), ticks: [], digits: 0 },
    0,
    canvas.right,
  );
  const y = scale(yAxis, canvas.bottom, 0);
  for (const { value } of references) canvas.dashes(y(value), plain.reference);
  curves.forEach((points, index) => canvas.curve(points, x, y, curveColors[index % 4]!));
  const rows = canvas.rows(paint);
  const named = new Map(yAxis.ticks.map((tick, k) => [Math.floor(y(tick) / 4), labels[k]!]));
  const body = rows.map((row, index) => {
    const label = named.get(index);
    return `${(label ?? "").padStart(margin)} ${label === undefined ? "│" : "┤"}${row}`;
  });
  const axis = `${" ".repeat(margin)} └${"─".repeat(width - margin - 2)}`;
  const [from, to] = steps.length > 0 ? [shortCount(first), shortCount(last)] : ["", ""];
  const gap = " ".repeat(Math.max(1, width - margin - 2 - from.length - to.length));
  const range = `${" ".repeat(margin + 2)}${from}${gap}${to}`;
  return [plot.title, ...body, axis, range, legend(plot, paint)].join("\n");
}

function legend(plot: Plot, paint: (text: string, code: number) => string): string {
  const curves = plot.curves.map((curve, index) => {
    const value = lastValue(curve);
    return `${paint("━━", curveColors[index % 4]!)} ${curve.name} ${value}`;
  });
  const references = (plot.references ?? []).map(
    ({ name, value }) => `${paint("╌╌", plain.reference)} ${name} ${value.toFixed(3)}`,
  );
  return `  ${[...curves, ...references].join("   ")}`;
}

function lastValue({ points, smooth }: Curve): string {
  return (smooth ? smoothed(points) : points).at(-1)?.[1].toFixed(3) ?? "";
}

/** A grid of braille characters; a later curve colours the characters it passes. */
class Canvas {
  readonly right: number;
  readonly bottom: number;
  readonly #columns: number;
  readonly #bits: Uint8Array;
  readonly #colors: Uint8Array;

  constructor(columns: number, rows: number) {
    this.#columns = columns;
    this.right = columns * 2 - 1;
    this.bottom = rows * 4 - 1;
    this.#bits = new Uint8Array(columns * rows);
    this.#colors = new Uint8Array(columns * rows);
  }

  #dot(x: number, y: number, color: number): void {
    const column = Math.max(0, Math.min(this.right, Math.round(x)));
    const row = Math.max(0, Math.min(this.bottom, Math.round(y)));
    const cell = (row >> 2) * this.#columns + (column >> 1);
    this.#bits[cell]! |= dots[row & 3]![column & 1]!;
    this.#colors[cell] = color;
  }

  dashes(y: number, color: number): void {
    for (let x = 0; x <= this.right; x++) if (x % 6 < 3) this.#dot(x, y, color);
  }

  curve(
    points: Curve["points"],
    x: (value: number) => number,
    y: (value: number) => number,
    color: number,
  ): void {
    let before: readonly [number, number] | undefined;
    for (const [a, b] of points) {
      if (!Number.isFinite(b)) {
        before = undefined;
        continue;
      }
      const here = [x(a), y(b)] as const;
      const [fromX, fromY] = before ?? here;
      const count = Math.max(1, Math.ceil(Math.max(here[0] - fromX, Math.abs(here[1] - fromY))));
      for (let k = 0; k <= count; k++) {
        const part = k / count;
        this.#dot(fromX + (here[0] - fromX) * part, fromY + (here[1] - fromY) * part, color);
      }
      before = here;
    }
  }

  rows(paint: (text: string, code: number) => string): string[] {
    const count = this.#bits.length / this.#columns;
    return Array.from({ length: count }, (_, row) => {
      const cells = [...this.#bits.subarray(row * this.#columns, (row + 1) * this.#columns)];
      return cells
        .map((bits, column) => {
          if (bits === 0) return " ";
          const color = this.#colors[row * this.#columns + column]!;
          return paint(String.fromCodePoint(0x2800 + bits), color);
        })
        .join("");
    });
  }
}
