// A loss curve as an SVG file that needs nothing but itself: no scripts, no fonts, light and dark.

import { writeFileSync } from "node:fs";
import { type Axis, axisOf, type Curve, type Plot, scale, smoothed, thin, tight } from "./axes.ts";
import { shortCount } from "./progress.ts";

const width = 880;
const height = 500;
const frame = { left: 72, right: 32, top: 96, bottom: 60 };
const mostPoints = 1600;

const style = `
  .paper { fill: #ffffff } .title { font: 600 20px system-ui, sans-serif; fill: #111827 }
  .subtitle, .axis, .legend { font: 13px system-ui, sans-serif; fill: #6b7280 }
  .tick { font: 12px system-ui, sans-serif; fill: #6b7280; font-variant-numeric: tabular-nums }
  .legend { fill: #374151 } .grid { stroke: #e5e7eb } .base { stroke: #9ca3af }
  .curve { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round }
  .raw { stroke-width: 1; opacity: 0.28 } .reference { stroke-width: 1.75; stroke-dasharray: 6 5 }
  .c0 { stroke: #2563eb } .c1 { stroke: #ea580c } .c2 { stroke: #059669 } .c3 { stroke: #9333ea }
  .dot.c0 { fill: #2563eb } .dot.c1 { fill: #ea580c } .dot.c2 { fill: #059669 }
  .dot.c3 { fill: #9333ea } .r0 { stroke: #6b7280 } .r1 { stroke: #b45309 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0f172a } .title { fill: #f1f5f9 } .legend { fill: #cbd5e1 }
    .subtitle, .axis, .tick { fill: #94a3b8 } .grid { stroke: #1e293b } .base { stroke: #475569 }
  }`;

/** Writes `renderSvg(plot)` to a file. */
export function writeSvg(path: string, plot: Plot): void {
  writeFileSync(path, renderSvg(plot));
}

/** The plot as the text of an SVG image, 880 x 500, with axes, ticks, a legend and all curves. */
export function renderSvg(plot: Plot): string {
  const references = plot.references ?? [];
  const points = plot.curves.flatMap((curve) => curve.points);
  const steps = points.map(([at]) => at);
  const values = [...shownValues(plot), ...references.map((line) => line.value)];
  const xAxis = tight(axisOf(steps, 8), steps, 0);
  const yAxis = tight(axisOf(values, 8), values, 0.05);
  const x = scale(xAxis, frame.left, width - frame.right);
  const y = scale(yAxis, height - frame.bottom, frame.top);
  const right = width - frame.right;
  const lines = references.map(({ value }, index) => {
    return horizontal(`reference r${index % 2}`, y(value));
  });
  const body = [
    `<rect class="paper" width="${width}" height="${height}" rx="10"/>`,
    text("title", frame.left, 36, plot.title),
    plot.subtitle ? text("subtitle", frame.left, 57, plot.subtitle) : "",
    legend(plot),
    ...grid(xAxis, yAxis, x, y),
    text("axis", (frame.left + right) / 2, height - 16, plot.xLabel ?? "step", "middle"),
    text("axis", frame.left - 48, frame.top - 14, plot.yLabel ?? "loss"),
    ...lines,
    ...plot.curves.map((curve, index) => drawn(curve, index % 4, x, y)),
  ];
  const box = `viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"`;
  const label = `role="img" aria-label="${escaped(plot.title)}"`;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" ${box} ${label}>\n` +
    `<style>${style}\n</style>\n${body.filter((part) => part !== "").join("\n")}\n</svg>\n`
  );
}

/** Noise counts with its bulk: one early spike must not flatten the whole curve. */
function shownValues({ curves }: Plot): number[] {
  return curves.flatMap(({ points, smooth }) =>
    (smooth ? smoothed(points) : points).map(([, y]) => y),
  );
}

function grid(
  xAxis: Axis,
  yAxis: Axis,
  x: (value: number) => number,
  y: (value: number) => number,
): string[] {
  const bottom = height - frame.bottom;
  const base = horizontal("base", bottom);
  const rows = yAxis.ticks.map((tick) => {
    const number = text("tick", frame.left - 10, y(tick) + 4, tick.toFixed(yAxis.digits), "end");
    return horizontal("grid", y(tick)) + number;
  });
  const columns = xAxis.ticks.map((tick) => {
    const at = x(tick).toFixed(1);
    const mark = `<line class="base" x1="${at}" x2="${at}" y1="${bottom}" y2="${bottom + 5}"/>`;
    return mark + text("tick", x(tick), bottom + 21, shortCount(tick), "middle");
  });
  return [...rows, base, ...columns];
}

function drawn(
  curve: Curve,
  color: number,
  x: (value: number) => number,
  y: (value: number) => number,
): string {
  const path = (kind: string, points: Curve["points"]) =>
    `<path class="curve ${kind} c${color}" d="${pathOf(thin(points, mostPoints), x, y)}"/>`;
  const finite = curve.points.filter(([, value]) => Number.isFinite(value));
  const dots = curve.smooth || finite.length > 40 ? [] : finite;
  const marks = dots.map(
    ([a, b]) =>
      `<circle class="dot c${color}" cx="${x(a).toFixed(1)}" cy="${y(b).toFixed(1)}" r="3"/>`,
  );
  if (!curve.smooth) return path("line", curve.points) + marks.join("");
  return path("raw", curve.points) + path("line", smoothed(curve.points));
}

function pathOf(
  points: Curve["points"],
  x: (value: number) => number,
  y: (value: number) => number,
): string {
  let pen = "M";
  const parts: string[] = [];
  for (const [a, b] of points) {
    if (!Number.isFinite(b)) {
      pen = "M";
      continue;
    }
    const at = Math.max(frame.top - 6, Math.min(height - frame.bottom, y(b)));
    parts.push(`${pen}${x(a).toFixed(1)} ${at.toFixed(1)}`);
    pen = "L";
  }
  return parts.join("");
}

function legend(plot: Plot): string {
  const entries = [
    ...plot.curves.map(({ name }, index) => ({ name, kind: `curve c${index % 4}` })),
    ...(plot.references ?? []).map(({ name }, index) => ({
      name,
      kind: `reference r${index % 2}`,
    })),
  ];
  let right = width - frame.right;
  const parts = entries.toReversed().map(({ name, kind }) => {
    right -= Bun.stringWidth(name) * 7 + 8;
    const label = text("legend", right, frame.top - 14, name);
    right -= 32;
    const at = frame.top - 18;
    const line = `<line class="${kind}" x1="${right}" x2="${right + 24}" y1="${at}" y2="${at}"/>`;
    right -= 14;
    return line + label;
  });
  return parts.reverse().join("\n");
}

/** A line across the whole frame. */
function horizontal(kind: string, y: number): string {
  const at = y.toFixed(1);
  const across = `x1="${frame.left}" x2="${width - frame.right}"`;
  return `<line class="${kind}" ${across} y1="${at}" y2="${at}"/>`;
}

function text(kind: string, x: number, y: number, content: string, anchor = "start"): string {
  const at = `x="${x.toFixed(1)}" y="${y.toFixed(1)}"`;
  return `<text class="${kind}" ${at} text-anchor="${anchor}">${escaped(content)}</text>`;
}

function escaped(content: string): string {
  return Bun.escapeHTML(content);
}
