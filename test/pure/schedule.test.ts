import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../lib/config/errors.ts";
import { schedule, type ScheduleInput } from "../../lib/optim/schedule.ts";
import reference from "../fixtures/schedules.json";

const common = {
  lr: 1e-3,
  decaySteps: 100,
  warmupSteps: 10,
  cooldownSteps: 15,
  endLrFactor: 0.1,
  cooldownLr: 1e-5,
};

function near(got: number, expected: number, bar = 1e-6): void {
  expect(Math.abs(got - expected)).toBeLessThanOrEqual(bar * Math.max(expected, 1e-9));
}

// training.md §6, the reference table.
const counts = [0, 1, 9, 10, 11, 84, 85, 86, 99, 100, 1000];
const table: [ScheduleInput["name"], number[]][] = [
  ["constant", [0, 1e-4, 9e-4, 1e-3, 1e-3, 1e-3, 1e-3, 9.34e-4, 7.6e-5, 1e-5, 1e-5]],
  ["wsd", [0, 1e-4, 9e-4, 1e-3, 1e-3, 1e-3, 1e-3, 9.34e-4, 7.6e-5, 1e-5, 1e-5]],
  ["linear", [0, 1e-4, 9e-4, 1e-3, 9.88e-4, 1.12e-4, 1e-4, 9.4e-5, 1.6e-5, 1e-5, 1e-5]],
  [
    "cosineDecay",
    [0, 1e-4, 9e-4, 1e-3, 9.996053e-4, 1.003947e-4, 1e-4, 9.4e-5, 1.6e-5, 1e-5, 1e-5],
  ],
  [
    "exponentialDecay",
    [0, 1e-4, 9e-4, 1e-3, 9.697654e-4, 1.031177e-4, 1e-4, 9.4e-5, 1.6e-5, 1e-5, 1e-5],
  ],
];

describe("the reference table", () => {
  test.each(table)("%s", (name, expected) => {
    const lr = schedule({ ...common, name });
    counts.forEach((count, index) => near(lr(count), expected[index]!));
  });
});

describe("the curves of the public system", () => {
  const names: Record<string, ScheduleInput["name"]> = {
    constant: "constant",
    linear: "linear",
    cosine_decay: "cosineDecay",
    exponential_decay: "exponentialDecay",
  };
  test.each(Object.entries(reference.curves))("%s", (name, curve) => {
    const lr = schedule({ ...common, name: names[name]! });
    expect(curve.length).toBe(105);
    curve.forEach((expected, count) => near(lr(count), expected));
  });
});

test("borders are exact", () => {
  for (const name of ["linear", "cosineDecay", "exponentialDecay"] as const) {
    const lr = schedule({ ...common, name, lr: 3e-4, endLrFactor: null, endLr: 7e-5 });
    expect([lr(10), lr(85), lr(100)]).toEqual([3e-4, 7e-5, 1e-5]);
  }
});

test("without a cool-down the end rate is held, exponential too", () => {
  for (const name of ["linear", "cosineDecay", "exponentialDecay"] as const) {
    const lr = schedule({ name, lr: 1, decaySteps: 50, endLr: 0.25 });
    expect([lr(0), lr(50), lr(51), lr(5000)]).toEqual([1, 0.25, 0.25, 0.25]);
  }
});

test("no main phase: the rate is lr, and a bare schedule is a constant", () => {
  const bare = schedule({ lr: 0.5 });
  expect([bare(0), bare(1), bare(1e9)]).toEqual([0.5, 0.5, 0.5]);
  const warm = schedule({
    name: "cosineDecay",
    lr: 1,
    decaySteps: 10,
    warmupSteps: 10,
    endLr: 0.1,
  });
  expect([warm(0), warm(5), warm(10), warm(99)]).toEqual([0, 0.5, 1, 1]);
});

test("a longer exponential run keeps its curve with f' = f^(M'/M)", () => {
  const base = { name: "exponentialDecay", lr: 1e-3 } as const;
  const short = schedule({ ...base, decaySteps: 495, endLrFactor: 0.1 });
  const long = schedule({ ...base, decaySteps: 540, endLrFactor: 0.1 ** (540 / 495) });
  for (const count of [1, 100, 494]) near(long(count), short(count), 1e-12);
});

describe("wrong configurations say what is wrong", () => {
  const wrong: [string, ScheduleInput, RegExp][] = [
    ["no room", { lr: 1, decaySteps: 5, warmupSteps: 4, cooldownSteps: 2 }, /give at least 6/],
    [
      "two ends",
      { name: "linear", lr: 1, endLr: 0.2, endLrFactor: 0.1 },
      /contradicts endLrFactor 0.1/,
    ],
    ["exponential to 0", { name: "exponentialDecay", lr: 1, decaySteps: 9 }, /never reaches 0/],
    ["wsd without cool-down", { name: "wsd", lr: 1, decaySteps: 9 }, /wsd has a cool-down/],
    ["negative", { lr: -1 }, /lr: /],
    ["unknown key", { lr: 1, warmupStep: 3 } as ScheduleInput, /did you mean "warmupSteps"/],
    ["unknown name", { lr: 1, name: "cosine" as "linear" }, /"cosine" is not one of/],
  ];
  test.each(wrong)("%s", (_, config, message) => {
    expect(() => schedule(config)).toThrow(ConfigError);
    expect(() => schedule(config)).toThrow(message);
  });

  test("both ends may be given when they agree", () => {
    expect(schedule({ name: "linear", lr: 1e-3, endLr: 1e-4, endLrFactor: 0.1 })(0)).toBe(1e-3);
  });

  test("a count that is none", () => {
    expect(() => schedule({ lr: 1 })(-1)).toThrow(/after -1 updates/);
    expect(() => schedule({ lr: 1 })(NaN)).toThrow(/after NaN updates/);
  });
});
