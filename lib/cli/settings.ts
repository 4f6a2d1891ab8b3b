// Puts the settings of a run together: schema defaults, then the configuration file and what it
// extends, then the command line; and remembers where each value came from.

import type { z } from "zod";
import { ConfigError, parseConfig } from "../config/errors.ts";
import { type Assignment, readArguments } from "./arguments.ts";
import { type LoadedConfig, loadConfigFile } from "./config_file.ts";
import { fieldAt, isGroup, settingsOf } from "./fields.ts";

/** Where a value came from: `default`, a file name, or `command line`. */
export type Source = string;

/** Checked settings of one run. */
export interface Composed<T> {
  readonly settings: T;
  /** Dotted name -> source, for every value that is set. */
  readonly provenance: ReadonlyMap<string, Source>;
}

export interface ComposeOptions {
  /** Path of a configuration file, and which of its `$env` variants to use. */
  config?: string | undefined;
  variant?: string | undefined;
}

/**
 * Merges and checks all sources. Maps merge, lists replace. ConfigError lists everything that is
 * wrong with its source; the keys of a file are checked as strictly as those of the command line.
 */
export async function composeSettings<S extends z.ZodType>(
  schema: S,
  assignments: readonly Assignment[],
  options: ComposeOptions = {},
): Promise<Composed<z.output<S>>> {
  const file: LoadedConfig = options.config
    ? await loadConfigFile(options.config, options.variant)
    : { settings: {}, layers: [] };
  const input = structuredClone(file.settings);
  const given = new Map<string, Source>();
  for (const layer of file.layers.toReversed()) markSources(layer.settings, "", layer.file, given);
  for (const { name, value } of assignments) {
    assign(input, name.split("."), value);
    markSources(value, name, "command line", given);
  }
  const settings = parseWithSources(schema, withGroupDefaults(schema, input, []), given);
  const provenance = new Map<string, Source>();
  const leaves = new Map<string, Source>();
  markSources(settings, "", "default", leaves);
  for (const name of leaves.keys()) provenance.set(name, sourceOf(name, given) ?? "default");
  return { settings, provenance };
}

/** Reads a command line with the composed settings in one go. */
export function settingsFrom<S extends z.ZodType>(
  schema: S,
  argv: readonly string[],
  options: ComposeOptions & { positionals?: readonly string[] } = {},
): Promise<Composed<z.output<S>>> {
  return composeSettings(schema, readArguments(argv, schema, options.positionals), options);
}

/** One line per value: `lr = 0.001  (command line)`. */
export function renderSettings(composed: Composed<unknown>, schema: z.ZodType): string {
  const order = new Map(settingsOf(schema).map((field, index) => [field.name, index]));
  const rank = (name: string) => order.get(name) ?? order.size;
  const names = [...composed.provenance.keys()].sort((a, b) => rank(a) - rank(b));
  return names
    .map((name) => {
      const value = JSON.stringify(valueAt(composed.settings, name.split(".")));
      return `${name} = ${value}  (${composed.provenance.get(name)})`;
    })
    .join("\n");
}

function parseWithSources<S extends z.ZodType>(
  schema: S,
  input: unknown,
  given: ReadonlyMap<string, Source>,
): z.output<S> {
  try {
    return parseConfig(schema, input, "wrong settings");
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const issues = error.issues.map(({ path, message }) => {
      const value = valueAt(input, path.split("."));
      const source = sourceOf(path, given);
      const sweep =
        typeof value === "string" && value.includes(",") && message.includes("expected number")
          ? "; several values at once are a sweep, give one"
          : "";
      return { path, message: `${message}${sweep}${source ? `  (from ${source})` : ""}` };
    });
    throw new ConfigError("wrong settings", issues);
  }
}

/** A group that is set in part keeps its other defaults, as --help shows them: maps merge. */
function withGroupDefaults(
  schema: z.ZodType,
  input: Record<string, unknown>,
  path: readonly string[],
): Record<string, unknown> {
  const entries = Object.entries(input).map(([key, value]) => {
    const here = [...path, key];
    const field = fieldAt(schema, here);
    if (!field || !isGroup(field) || !isMap(value)) return [key, value] as const;
    const whole = structuredClone(isMap(field.fallback) ? field.fallback : {});
    for (const [name, member] of Object.entries(value)) assign(whole, [name], member);
    return [key, withGroupDefaults(schema, whole, here)] as const;
  });
  return Object.fromEntries(entries);
}

/** The source of a name, or of the whole value it is part of. */
function sourceOf(name: string, given: ReadonlyMap<string, Source>): Source | undefined {
  for (let path = name; path !== ""; path = path.slice(0, Math.max(0, path.lastIndexOf(".")))) {
    const source = given.get(path);
    if (source !== undefined) return source;
  }
  for (const [path, source] of given) if (path.startsWith(`${name}.`)) return source;
  return undefined;
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function markSources(
  value: unknown,
  name: string,
  source: Source,
  into: Map<string, Source>,
): void {
  if (isMap(value)) {
    for (const [key, member] of Object.entries(value)) {
      markSources(member, name ? `${name}.${key}` : key, source, into);
    }
  } else if (value !== undefined) {
    into.set(name, source);
  }
}

function assign(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  const [key, ...rest] = path as [string, ...string[]];
  if (rest.length === 0) {
    const before = target[key];
    if (!isMap(value) || !isMap(before)) target[key] = value;
    else for (const [inner, member] of Object.entries(value)) assign(before, [inner], member);
    return;
  }
  if (!isMap(target[key])) target[key] = {};
  assign(target[key] as Record<string, unknown>, rest, value);
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>((inner, key) => (isMap(inner) ? inner[key] : undefined), value);
}
