import { describe, expect, test } from "bun:test";
import { duration, Progress, shortCount } from "../../lib/train/progress.ts";

class Screen {
  text = "";
  isTTY: boolean;
  columns: number;
  time = 0;
  constructor(isTTY: boolean, columns = 100) {
    this.isTTY = isTTY;
    this.columns = columns;
  }
  write(text: string): void {
    this.text += text;
  }
  progress(total: number, options: { start?: number; interactive?: boolean } = {}): Progress {
    const interactive = options.interactive ?? this.isTTY;
    return new Progress({ total, output: this, now: () => this.time, ...options, interactive });
  }
}

describe("without a terminal", () => {
  test("plain lines, the first, then one per interval, and the last", () => {
    const screen = new Screen(false);
    const progress = screen.progress(60);
    for (let step = 1; step <= 60; step++) {
      screen.time = step * 1000;
      progress.report({ step, loss: 1.5, tokens: 4096, bytes: true, lr: 2e-3 });
    }
    progress.finish();
    const lines = screen.text.trimEnd().split("\n");
    expect(lines.map((line) => line.match(/step +(\d+)/)![1])).toEqual([
      "1",
      "11",
      "21",
      "31",
      "41",
      "51",
      "60",
    ]);
    expect(lines[1]).toBe(
      "step 11/60  loss 1.5000  2.164 bits/byte  lr 2.00e-3  4.1k tokens/s  ETA 0:49",
    );
    expect(lines.at(-1)).toEndWith("4.1k tokens/s  done");
    expect(screen.text).not.toInclude("\x1b");
  });

  test("CI and dumb terminals count as none", () => {
    const before = process.env["CI"];
    process.env["CI"] = "true";
    try {
      const screen = new Screen(true);
      const progress = new Progress({ total: 2, output: screen, now: () => 0 });
      progress.report({ step: 1, loss: 1, tokens: 1 });
      expect(screen.text).not.toInclude("\x1b");
      expect(screen.text).toEndWith("\n");
    } finally {
      if (before === undefined) delete process.env["CI"];
      else process.env["CI"] = before;
    }
  });
});

describe("on a terminal", () => {
  test("redraws one line, ten times a second, never wider than the window", () => {
    const screen = new Screen(true, 40);
    const progress = screen.progress(100);
    for (let step = 1; step <= 50; step++) {
      screen.time = step * 20;
      progress.report({ step, loss: 1, tokens: 10 });
    }
    const draws = screen.text.split("\r\x1b[2K").slice(1);
    expect(draws.length).toBe(10);
    for (const line of draws) expect(Bun.stringWidth(line)).toBeLessThan(40);
    progress.finish();
    expect(screen.text).toEndWith("\n");
  });

  test("a note stands above the line, which comes back", () => {
    const screen = new Screen(true);
    const progress = screen.progress(10);
    progress.report({ step: 5, loss: 1, tokens: 10 });
    const line = screen.text.split("\r\x1b[2K").at(-1)!;
    progress.note("validation 2.1");
    expect(screen.text).toEndWith(`\r\x1b[2Kvalidation 2.1\n${line}`);
    expect(line).toInclude("━━━━━━━━────────");
  });
});

test("speed and ETA leave pauses out", () => {
  const screen = new Screen(false);
  const progress = screen.progress(100);
  for (let step = 1; step <= 10; step++) {
    screen.time += 100;
    progress.report({ step, loss: 1, tokens: 500 });
    progress.pause();
    screen.time += 3000;
    progress.resume();
  }
  expect(progress.tokensPerSecond).toBeCloseTo(5000, 6);
});

test("after a resume, speed and ETA count the steps of this process", () => {
  const screen = new Screen(false);
  const progress = screen.progress(1000, { start: 900 });
  screen.time = 2000;
  progress.report({ step: 901, loss: 1, tokens: 100 });
  expect(screen.text).toInclude("50 tokens/s  ETA 3:18");
});

test("a loss that is no number is shown as such", () => {
  const screen = new Screen(false);
  screen.progress(2).report({ step: 1, loss: NaN, tokens: 1 });
  expect(screen.text).toInclude("loss NaN");
});

test("numbers for people", () => {
  expect([0, 7, 999, 1000, 5214, 123_456, 999_600, 2.5e6].map(shortCount)).toEqual([
    "0",
    "7",
    "999",
    "1k",
    "5.21k",
    "123k",
    "1M",
    "2.5M",
  ]);
  expect(shortCount(NaN)).toBe("-");
  expect([0, 42_400, 725_000, 12_000_000, NaN].map(duration)).toEqual([
    "0:00",
    "0:42",
    "12:05",
    "3:20:00",
    "-:--",
  ]);
});
