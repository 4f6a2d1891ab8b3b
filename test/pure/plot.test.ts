import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { axisOf, type Plot, smoothed, thin, tight } from "../../lib/train/axes.ts";
import { renderSvg } from "../../lib/train/plot.ts";
import { renderTerminal } from "../../lib/train/terminal_plot.ts";

const falling: [number, number][] = Array.from({ length: 900 }, (_, k) => [
  k + 1,
  1.5 + 4 * Math.exp(-k / 100) + 0.1 * Math.sin(k * 12.9),
]);
const plot: Plot = {
  title: "Loss <of> a & b",
  subtitle: "900 steps",
  yLabel: "nats",
  curves: [
    { name: "train", points: falling, smooth: true },
    { name: "validation", points: falling.filter((_, k) => k % 100 === 0) },
  ],
  references: [{ name: "5-gram", value: 1.51 }],
};

test("axes enclose their values with round ticks", () => {
  const number = fc.double({ min: -1e9, max: 1e9, noNaN: true });
  fc.assert(
    fc.property(fc.array(number, { minLength: 1, maxLength: 20 }), (values) => {
      const axis = axisOf(values, 6);
      const span = axis.high - axis.low;
      expect(axis.low).toBeLessThanOrEqual(Math.min(...values) + 1e-6 * span);
      expect(axis.high).toBeGreaterThanOrEqual(Math.max(...values) - 1e-6 * span);
      expect(axis.ticks.length).toBeGreaterThanOrEqual(2);
      expect(axis.ticks.length).toBeLessThanOrEqual(9);
      expect(new Set(axis.ticks.map((tick) => tick.toFixed(axis.digits))).size).toBe(
        axis.ticks.length,
      );
    }),
    { verbose: 1 },
  );
  expect(axisOf([0.13, 0.87], 5).ticks).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
  expect(axisOf([], 5).ticks.length).toBe(6);
  expect(axisOf([NaN, 2, 2], 4).low).toBeLessThan(2);
  expect(tight(axisOf([3, 97], 5), [3, 97], 0).ticks).toEqual([20, 40, 60, 80]);
});

test("thinning keeps order, extremes and breaks", () => {
  const spiky: [number, number][] = Array.from({ length: 10_000 }, (_, k) => [
    k,
    k === 4321 ? 99 : 1,
  ]);
  spiky[7000] = [7000, NaN];
  const kept = thin(spiky, 500);
  expect(kept.length).toBeLessThanOrEqual(502);
  expect(kept.some(([, y]) => y === 99)).toBe(true);
  expect(kept.some(([x, y]) => x === 7000 && Number.isNaN(y))).toBe(true);
  expect(kept.map(([x]) => x)).toEqual(kept.map(([x]) => x).toSorted((a, b) => a - b));
});

test("smoothing follows the start, calms the noise and breaks at NaN", () => {
  const noisy: [number, number][] = Array.from({ length: 1000 }, (_, k) => [
    k,
    k % 2 === 0 ? 1 : 3,
  ]);
  const mean = smoothed(noisy);
  expect(mean[0]).toEqual([0, 1]);
  for (const [, y] of mean.slice(200)) expect(Math.abs(y - 2)).toBeLessThan(0.1);
  noisy[500] = [500, NaN];
  const broken = smoothed(noisy);
  expect(broken[500]![1]).toBeNaN();
  expect(broken[501]).toEqual([501, 3]);
});

describe("SVG", () => {
  const image = renderSvg(plot);

  test("is well-formed, with escaped texts, ticks, legend and every curve", () => {
    const opened: string[] = [];
    for (const [, close, name, empty] of image.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)) {
      if (close) expect(opened.pop()).toBe(name!);
      else if (!empty) opened.push(name!);
    }
    expect(opened).toEqual([]);
    expect(image).toInclude("Loss &lt;of&gt; a &amp; b");
    for (const word of ["train", "validation", "5-gram", "900 steps", "nats", ">step<", ">400<"]) {
      expect(image).toInclude(word);
    }
    expect(image.match(/<path/g)!.length).toBe(3);
    expect(image.match(/<circle/g)!.length).toBe(9);
    expect(image).not.toMatch(/NaN|Infinity|undefined/);
  });

  test("every point lies inside of the picture", () => {
    for (const [, x, y] of image.matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)) {
      expect(Number(x)).toBeGreaterThanOrEqual(72);
      expect(Number(x)).toBeLessThanOrEqual(848);
      expect(Number(y)).toBeGreaterThanOrEqual(90);
      expect(Number(y)).toBeLessThanOrEqual(440);
    }
  });

  test("empty, single and broken series are drawn without NaN", () => {
    const odd: Plot["curves"] = [
      { name: "empty", points: [] },
      { name: "one", points: [[1, 2]] },
      {
        name: "broken",
        points: [
          [1, 1],
          [2, NaN],
          [3, Infinity],
          [4, 2],
        ],
        smooth: true,
      },
    ];
    for (const curves of [...odd.map((curve) => [curve]), odd]) {
      const drawn = renderSvg({ title: "odd", curves });
      expect(drawn).not.toMatch(/NaN|Infinity/);
    }
    expect(renderSvg({ title: "odd", curves: [odd[2]!] })).toMatch(/d="M[\d. ]+M[\d. ]+"/);
  });

  test("ten thousand steps stay a small file", () => {
    const points = Array.from({ length: 100_000 }, (_, k) => [k, Math.sin(k)] as const);
    expect(renderSvg({ title: "long", curves: [{ name: "a", points }] }).length).toBeLessThan(
      60_000,
    );
  });
});

describe("terminal", () => {
  test("has the size that was asked for and falls from left to right", () => {
    const text = renderTerminal(plot, { width: 60, height: 10, colors: false });
    const lines = text.split("\n");
    expect(lines.length).toBe(14);
    for (const line of lines.slice(1, 13)) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(60);
    expect(lines[1]!.trimEnd().length).toBeLessThan(12);
    expect(lines[10]!.trimEnd().length).toBeGreaterThan(50);
    expect(lines.at(-1)).toMatch(/train 1\.\d+   ━━ validation 1\.\d+   ╌╌ 5-gram 1\.510/);
    expect(text).not.toInclude("\x1b");
  });

  test("colours only when asked", () => {
    expect(renderTerminal(plot, { colors: true })).toInclude("\x1b[34m");
  });

  test("nothing to draw is no crash", () => {
    const empty = renderTerminal({ title: "none", curves: [{ name: "a", points: [] }] });
    expect(empty).not.toMatch(/NaN|Infinity|undefined/);
    const flat = renderTerminal({
      title: "flat",
      curves: [
        {
          name: "a",
          points: [
            [3, 1],
            [4, NaN],
          ],
        },
      ],
    });
    expect(flat).toMatch(/[⠁-⣿]/);
  });
});
