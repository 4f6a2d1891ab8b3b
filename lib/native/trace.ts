// Switches for looking at the border: XL_FFI_LOG=1 prints every call, XL_FFI_TRACE=1 prints counts
// and times per function at exit. Without them the symbol table is used as it is.

import { writeSync } from "node:fs";
import type { Symbols } from "./library.ts";

type Timing = { calls: number; total: number; times: number[] };
/** Calls and nanoseconds per function. */
export type Timings = Map<string, { calls: number; total: number }>;

/** The same functions, adding up their time in `timings`. */
export function timed(table: Symbols, timings: Timings): Symbols {
  const wrapped: Record<string, unknown> = {};
  for (const [name, call] of Object.entries(table)) {
    wrapped[name] = (...args: never[]) => {
      const before = Bun.nanoseconds();
      const result = call(...args);
      const timing = timings.get(name) ?? { calls: 0, total: 0 };
      timing.calls++;
      timing.total += Bun.nanoseconds() - before;
      timings.set(name, timing);
      return result;
    };
  }
  return wrapped as unknown as Symbols;
}

/** The same functions, wrapped when a switch is on. */
export function traced(table: Symbols): Symbols {
  const log = process.env.XL_FFI_LOG === "1";
  const trace = process.env.XL_FFI_TRACE === "1";
  if (!log && !trace) return table;
  const timings = new Map<string, Timing>();
  const wrapped: Record<string, unknown> = {};
  for (const [name, call] of Object.entries(table)) {
    const timing: Timing = { calls: 0, total: 0, times: [] };
    timings.set(name, timing);
    wrapped[name] = (...args: never[]) => {
      const before = Bun.nanoseconds();
      const result = call(...args);
      const spent = Bun.nanoseconds() - before;
      timing.calls++;
      timing.total += spent;
      if (timing.times.length < 100_000) timing.times.push(spent);
      if (log) writeSync(2, `${name}(${args.map(shown).join(", ")}) = ${String(result)}\n`);
      return result;
    };
  }
  if (trace) process.on("exit", () => report(timings));
  return wrapped as unknown as Symbols;
}

function shown(value: unknown): string {
  return ArrayBuffer.isView(value) ? `<${value.byteLength} bytes>` : String(value);
}

function report(timings: Map<string, Timing>): void {
  const used = [...timings].filter(([, timing]) => timing.calls > 0);
  used.sort((a, b) => b[1].total - a[1].total);
  writeSync(2, "function                          calls   total ms    mean us     p99 us\n");
  for (const [name, { calls, total, times }] of used) {
    times.sort((a, b) => a - b);
    const p99 = times[Math.floor(times.length * 0.99)] ?? 0;
    const row = [
      name.padEnd(28),
      String(calls).padStart(10),
      (total / 1e6).toFixed(2).padStart(10),
      (total / calls / 1e3).toFixed(2).padStart(10),
      (p99 / 1e3).toFixed(2).padStart(10),
    ];
    writeSync(2, `${row.join(" ")}\n`);
  }
}
