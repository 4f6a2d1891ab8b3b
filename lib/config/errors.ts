// Turns a failed zod parse into sentences: every wrong key with its path, the value that came, what
// was expected, and the nearest known name.

import type { z } from "zod";
import { suggestion } from "./suggest.ts";

/** One wrong setting. */
export interface ConfigIssue {
  /** Dotted path from the root of the configuration; empty for the root itself. */
  readonly path: string;
  readonly message: string;
}

/** A configuration is wrong; `issues` lists everything that is, not only the first finding. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly issues: readonly ConfigIssue[];

  constructor(what: string, issues: readonly ConfigIssue[]) {
    const lines = issues.map((issue) => `  ${issue.path ? `${issue.path}: ` : ""}${issue.message}`);
    super([`${what}:`, ...lines].join("\n"));
    this.issues = issues;
  }
}

/** Key -> sentence for keys that are known not to exist (moved, removed, or foreign names). */
export type KeyHints = Readonly<Record<string, string>>;

/** Parses `input`; throws a ConfigError that lists every issue. `hints` explain wrong keys. */
export function parseConfig<S extends z.ZodType>(
  schema: S,
  input: unknown,
  what: string,
  hints: KeyHints = {},
): z.output<S> {
  const result = schema.safeParse(input, { reportInput: true });
  if (result.success) return result.data;
  throw new ConfigError(
    what,
    result.error.issues.flatMap((issue) => describe(issue, schema, input, hints)),
  );
}

/** A short, bounded rendering of a value for error messages. */
export function show(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "number") return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

type Issue = z.core.$ZodIssue;

function describe(issue: Issue, schema: z.ZodType, input: unknown, hints: KeyHints): ConfigIssue[] {
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    const known = keysAt(schema, path);
    return issue.keys.map((key) => ({
      path: [...path, key].join("."),
      message: `unknown key${hints[key] ? `; ${hints[key]}` : suggestion(key, known)}`,
    }));
  }
  return [{ path: path.join("."), message: sentence(issue, valueAt(input, path)) }];
}

function sentence(issue: Issue, value: unknown): string {
  if (issue.code === "custom") return issue.message;
  if (issue.code === "invalid_value") {
    if (!issue.message.startsWith("Invalid ")) return issue.message;
    const names = issue.values.map(String);
    const near = typeof value === "string" ? suggestion(value, names).split("; known")[0] : "";
    return `${show(value)} is not one of ${issue.values.map(show).join(", ")}${near}`;
  }
  if (issue.code === "invalid_union") {
    const wanted = new Set(issue.errors.flat().map((inner) => sentence(inner, value)));
    return [...wanted].join(", or ");
  }
  if (issue.code === "invalid_type") {
    return value === undefined
      ? `is required (${issue.expected})`
      : `expected ${issue.expected}, got ${show(value)}`;
  }
  const plain = issue.message.replace(/^(Too small|Too big|Invalid input): /, "");
  return `${plain}, got ${show(value)}`;
}

function valueAt(input: unknown, path: readonly string[]): unknown {
  let value = input;
  for (const key of path) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[key];
  }
  return value;
}

/** Names of the fields an object schema has at `path`. */
function keysAt(schema: z.ZodType, path: readonly string[]): string[] {
  let node: z.ZodType | undefined = schema;
  for (const key of path) node = shapeOf(node)?.[key];
  return Object.keys(shapeOf(node) ?? {});
}

function shapeOf(schema: z.ZodType | undefined): Record<string, z.ZodType> | undefined {
  let node: unknown = schema;
  while (node !== null && typeof node === "object") {
    const { shape, def } = node as { shape?: Record<string, z.ZodType>; def?: Definition };
    if (shape) return shape;
    node = def?.innerType ?? def?.in;
  }
  return undefined;
}

interface Definition {
  readonly innerType?: unknown;
  readonly in?: unknown;
}
