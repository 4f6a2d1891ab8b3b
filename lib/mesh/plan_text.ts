// A plan as text: sharding of every parameter, bytes of a rank by cause, calls of one step.

import { callCauses, memoryCauses, type MemoryCause, type StepPlan } from "./plan.ts";
import type { PlannedCalls, PlannedParameter, PlannedStage } from "./plan.ts";
import { axes } from "./topology.ts";

const wording: Record<MemoryCause, string> = {
  states: "weights and two moments",
  gradients: "gradients",
  accumulation: "sums over microbatches",
  gathered: "gathered weights",
  activations: "activations",
  working: "working set of a unit",
  head: "logits and head",
  transfers: "between stages",
};

/** Tables for a terminal. Equal blocks share a line, equal stages a column. */
export function renderPlan(plan: StepPlan): string {
  return [
    headline(plan),
    section("where parameters lie", parameterTable(plan)),
    section("bytes of a rank at the peak of a step (estimate)", memoryTable(plan)),
    section("what a rank sends in one step", callTable(plan)),
  ].join("\n\n");
}

function headline({ model, topology, step, rows, stages }: StepPlan): string {
  const sizes = topology.order.filter((axis) => topology.size(axis) > 1);
  const mesh = sizes.map((axis) => `${axis} ${topology.size(axis)}`).join(" × ") || "one rank";
  const seen = new Map(stages.flatMap((s) => s.parameters.map((p) => [p.name, sizeOf(p.shape)])));
  const count = [...seen.values()].reduce((sum, size) => sum + size, 0);
  const { batch, length, microbatches, recompute, residual } = step;
  const passes = `${counted(microbatches, "microbatch", "es")} of ${counted(rows, "row", "s")}`;
  const tp = topology.size("tp") > 1 ? `, residual stream ${residual}` : "";
  const split = stages.map(({ from, to }) => to - from);
  return [
    `${model.name}, ${grouped(count)} parameters, on ${topology.world} ranks: ${mesh}`,
    `a step: ${batch} rows of ${length} tokens; on each rank ${passes}`,
    `activations ${step.activation}, weights ${step.parameter}, recompute ${recompute}${tp}`,
    ...(stages.length > 1 ? [`blocks per stage: ${split.join(" ")}`] : []),
    "checked: all ranks come to the end of the step, and every gradient is complete",
  ].join("\n");
}

function section(title: string, rows: readonly (readonly string[])[]): string {
  return `${title}\n${table(rows)}`;
}

/** Columns of numbers are aligned right. */
function table(rows: readonly (readonly string[])[]): string {
  const [head] = rows;
  const widths = head!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const isNumber = head!.map((_, i) =>
    rows.slice(1).every((row) => /^\d[\d .]*\w*$/.test(row[i]!)),
  );
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (isNumber[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)));
  return rows.map((row) => `  ${line(row).join("  ").trimEnd()}`).join("\n");
}

function parameterTable({ topology, stages }: StepPlan): string[][] {
  const rows = new Map<string, { cells: string[]; blocks: number[]; pattern: string }>();
  stages.forEach((stage, number) => {
    for (const parameter of stage.parameters) {
      const [, block, rest] = /^blocks\.(\d+)\.(.+)$/.exec(parameter.name) ?? [];
      const cells = cellsOf(parameter, topology.size("tp"));
      const pattern = rest ?? parameter.name;
      const place = rest === undefined && stages.length > 1 ? `stage ${number}` : "";
      const key = [pattern, ...cells, place].join("|");
      const row = rows.get(key) ?? { cells, blocks: [], pattern };
      if (block !== undefined) row.blocks.push(Number(block));
      rows.set(key, row);
    }
  });
  const lines = [...rows.values()].map(({ cells, blocks, pattern }) => {
    const name = blocks.length > 0 ? `blocks.${runs(blocks)}.${pattern}` : pattern;
    return [name, ...cells];
  });
  return [["parameter", "shape", "tp", "fsdp", "per rank", "updated"], ...lines];
}

function cellsOf(parameter: PlannedParameter, ranks: number): string[] {
  const { shape, tp, isCut, elements, owned } = parameter;
  const state = typeof tp === "number" ? `S(${tp})` : tp;
  return [
    shape.join(" × "),
    ranks === 1 ? "-" : state,
    isCut ? "cut" : "whole",
    grouped(elements),
    grouped(owned),
  ];
}

/** `{0-2,4}`, or the number itself. */
function runs(numbers: readonly number[]): string {
  const sorted = numbers.toSorted((a, b) => a - b);
  const parts: [number, number][] = [];
  for (const number of sorted) {
    const last = parts.at(-1);
    if (last && last[1] + 1 === number) last[1] = number;
    else parts.push([number, number]);
  }
  const text = parts.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(",");
  return numbers.length === 1 ? text : `{${text}}`;
}

function memoryTable({ stages }: StepPlan): string[][] {
  const most = stages.reduce((a, b) => (b.totalBytes > a.totalBytes ? b : a));
  const shown = columnsOf(stages);
  const used = memoryCauses.filter((cause) => stages.some(({ bytes }) => bytes[cause] > 0));
  const row = (name: string, value: (stage: PlannedStage) => number) => [
    name,
    ...shown.map(({ stage }) => size(value(stage))),
    ...(stages.length > 1 ? [size(value(most))] : []),
  ];
  const names = stages.length > 1 ? shown.map(({ name }) => name) : ["bytes"];
  return [
    ["cause", ...names, ...(stages.length > 1 ? ["largest"] : [])],
    ...used.map((cause) => row(wording[cause], ({ bytes }) => bytes[cause])),
    row("total", ({ totalBytes }) => totalBytes),
  ];
}

interface Column {
  readonly name: string;
  readonly stage: PlannedStage;
}

/** All stages where they are few; else those at the ends and one in between. */
function columnsOf(stages: readonly PlannedStage[]): Column[] {
  const last = stages.length - 1;
  const numbers = last < 6 ? [...stages.keys()] : [0, 1, Math.floor(last / 2), last - 1, last];
  return numbers.map((number) => ({ name: `stage ${number}`, stage: stages[number]! }));
}

function callTable({ stages }: StepPlan): string[][] {
  const shown = columnsOf(stages);
  const keyOf = ({ cause, kind, over }: PlannedCalls) => [cause, kind, over.join("+")].join("|");
  const kinds = new Map(stages.flatMap(({ calls }) => calls.map((one) => [keyOf(one), one])));
  const order = [...kinds.values()].toSorted(
    (a, b) =>
      callCauses.indexOf(a.cause) - callCauses.indexOf(b.cause) ||
      axes.indexOf(a.over[0]!) - axes.indexOf(b.over[0]!),
  );
  const find = (stage: PlannedStage, one: PlannedCalls) =>
    stage.calls.find((other) => keyOf(other) === keyOf(one));
  const cells = (stage: PlannedStage, one: PlannedCalls) => {
    const found = find(stage, one);
    return found ? [`${found.calls}`, size(found.wireBytes)] : ["0", "0 B"];
  };
  const total = ({ calls }: PlannedStage) => [
    `${calls.reduce((sum, one) => sum + one.calls, 0)}`,
    size(calls.reduce((sum, one) => sum + one.wireBytes, 0)),
  ];
  const heads = shown.flatMap(({ name }) =>
    stages.length > 1 ? [name, "sent"] : ["calls", "sent"],
  );
  if (order.length === 0) return [["one rank sends nothing"]];
  return [
    ["cause", "call", "group", ...heads],
    ...order.map((one) => [
      one.cause,
      one.kind,
      one.over.join("+"),
      ...shown.flatMap(({ stage }) => cells(stage, one)),
    ]),
    ["total", "", "", ...shown.flatMap(({ stage }) => total(stage))],
  ];
}

/** `1 row`, `2 rows`. */
function counted(count: number, noun: string, plural: string): string {
  return `${count} ${noun}${count === 1 ? "" : plural}`;
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** 6 865 424 896 */
function grouped(value: number): string {
  return String(value).replaceAll(/\B(?=(\d{3})+$)/g, " ");
}

/** Decimal: 10.3 GB. */
function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}
