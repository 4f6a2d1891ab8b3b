// Scales, round tick values and thinning of long series, shared by the SVG and the terminal plot.

/** A curve: points [x, y] in order of x; points that are not finite break the line. */
export interface Curve {
  readonly name: string;
  readonly points: readonly (readonly [number, number])[];
  /** Draw a running mean over pale raw points: for noisy training losses. */
  readonly smooth?: boolean;
}

/** A constant to compare with: a baseline's loss. */
export interface ReferenceLine {
  readonly name: string;
  readonly value: number;
}

/** What both plots draw. */
export interface Plot {
  readonly title: string;
  readonly subtitle?: string;
  readonly xLabel?: string;
  readonly yLabel?: string;
  readonly curves: readonly Curve[];
  readonly references?: readonly ReferenceLine[];
}

/** Range of an axis that starts and ends on a tick, and its ticks. */
export interface Axis {
  readonly low: number;
  readonly high: number;
  readonly ticks: readonly number[];
  /** Digits after the point that tell the ticks apart. */
  readonly digits: number;
}

/** About `count` round ticks (1, 2 or 5 times a power of ten) that enclose the values. */
export function axisOf(values: readonly number[], count: number): Axis {
  const finite = values.filter(Number.isFinite);
  let low = finite.reduce((least, value) => Math.min(least, value), Infinity);
  let high = finite.reduce((most, value) => Math.max(most, value), -Infinity);
  if (low > high) [low, high] = [0, 1];
  // Values that a tick label could not tell apart get room around them.
  const largest = Math.max(Math.abs(low), Math.abs(high));
  if (high - low <= Math.max(1e-9 * largest, 1e-12)) {
    const room = largest > 1e-12 ? largest / 2 : 0.5;
    [low, high] = [low - room, high + room];
  }
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999)!;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = Array.from({ length: last - first + 1 }, (_, k) =>
    Number(((first + k) * step).toFixed(Math.min(20, digits))),
  );
  return { low: ticks[0]!, high: ticks.at(-1)!, ticks, digits };
}

/** Linear map of [low, high] to [from, to]. */
export function scale({ low, high }: Axis, from: number, to: number): (value: number) => number {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

/** At most about `limit` points: each bucket of x keeps its lowest and highest point, in order. */
export function thin(
  points: readonly (readonly [number, number])[],
  limit: number,
): (readonly [number, number])[] {
  if (points.length <= limit) return [...points];
  const perBucket = Math.ceil((2 * points.length) / limit);
  const kept: (readonly [number, number])[] = [];
  for (let start = 0; start < points.length; start += perBucket) {
    const bucket = points.slice(start, start + perBucket);
    const broken = bucket.find(([, y]) => !Number.isFinite(y));
    const least = bucket.reduce((a, b) => (b[1] < a[1] ? b : a));
    const most = bucket.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(
      ...[...new Set([least, most, ...(broken ? [broken] : [])])].sort((a, b) => a[0] - b[0]),
    );
  }
  return kept;
}

/** The axis cut to the values and `margin` of their range around them; other ticks are dropped. */
export function tight(axis: Axis, values: readonly number[], margin: number): Axis {
  const finite = values.filter(Number.isFinite);
  const least = finite.reduce((a, b) => Math.min(a, b), Infinity);
  const most = finite.reduce((a, b) => Math.max(a, b), -Infinity);
  if (least >= most) return axis;
  const low = least - margin * (most - least);
  const high = most + margin * (most - least);
  return { ...axis, low, high, ticks: axis.ticks.filter((tick) => tick >= low && tick <= high) };
}

/**
 * Running mean over about a fiftieth of the series, and over fewer points at its start, where
 * losses fall too fast for that. A point that is not finite stays and starts the mean anew.
 */
export function smoothed(
  points: readonly (readonly [number, number])[],
): (readonly [number, number])[] {
  const longest = Math.max(1, points.length / 50);
  let mean = 0;
  let seen = 0;
  return points.map(([x, y]) => {
    if (!Number.isFinite(y)) {
      seen = 0;
      return [x, y] as const;
    }
    mean += (y - mean) / Math.min(longest, 1 + seen / 6);
    seen++;
    return [x, mean] as const;
  });
}
