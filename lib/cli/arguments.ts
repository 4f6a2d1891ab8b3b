// Reads a command line: `key=value` overrides, --flags and bare words. citty splits the words; what
// it lets through (unknown flags, flags without a value, any text for a boolean) is rejected here.

import { parseArgs, type ArgsDef } from "citty";
import type { z } from "zod";
import { closest, suggestion } from "../config/suggest.ts";
import { UsageError } from "./exit.ts";
import { type Field, fieldAt, isGroup, settingsOf } from "./fields.ts";
import { readBoolean, readValue } from "./values.ts";

/** One setting that the command line gives a value. */
export interface Assignment {
  /** Dotted name. */
  readonly name: string;
  readonly value: unknown;
}

/**
 * The assignments of a command line. `positionals` names the settings that bare words fill; words
 * after `--` are always bare. A key given twice in one form takes its last value, so that overrides
 * can be appended to a stored command. UsageError for everything that is no known setting.
 */
export function readArguments(
  argv: readonly string[],
  schema: z.ZodType,
  positionals: readonly string[] = [],
): Assignment[] {
  const fields = settingsOf(schema);
  const end = argv.indexOf("--");
  const words = end < 0 ? [...argv] : argv.slice(0, end);
  const parsed: Record<string, unknown> & { _: string[] } = parseArgs(words, argsOf(fields));
  const flags = flagAssignments(parsed, words, fields, schema);
  const bare: string[] = [];
  const overrides = new Map<string, Assignment>();
  for (const word of parsed._) {
    const [, key, text] = /^([A-Za-z][\w-]*(?:\.[\w-]+)*)=(.*)$/s.exec(word) ?? [];
    if (key === undefined) bare.push(word);
    else overrides.set(key, override(key, text!, schema, fields));
  }
  const filled = fillPositionals(
    [...bare, ...(end < 0 ? [] : argv.slice(end + 1))],
    positionals,
    schema,
  );
  return withoutConflicts([...filled, ...overrides.values(), ...flags]);
}

/** citty's argument table of the settings; its camelCase and kebab-case aliases come for free. */
export function argsOf(fields: readonly Field[]): ArgsDef {
  return Object.fromEntries(
    fields.map((field) => [field.name, { type: field.kind === "boolean" ? "boolean" : "string" }]),
  );
}

/** Throws when two settings would share a flag, `a.b` and `aB`: citty would set both. */
export function rejectAmbiguous(fields: readonly Field[]): void {
  const seen = new Map<string, string>();
  for (const { name } of fields) {
    const other = seen.get(plain(name));
    if (other !== undefined) {
      throw new Error(`settings "${other}" and "${name}" have the same flag: rename one of them`);
    }
    seen.set(plain(name), name);
  }
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[-_.]/g, "");
}

function flagAssignments(
  parsed: Record<string, unknown>,
  words: readonly string[],
  fields: readonly Field[],
  schema: z.ZodType,
): Assignment[] {
  const byPlainName = new Map(fields.map((field) => [plain(field.name), field]));
  const found = new Map<string, Assignment>();
  for (const [key, value] of Object.entries(parsed)) {
    if (key === "_") continue;
    const field = byPlainName.get(plain(key));
    if (field) found.set(field.name, flag(field, value, words));
    else if (typeof value === "string") found.set(key, override(key, value, schema, fields, "--"));
    else throw unknownFlag(key, value, schema, fields);
  }
  return [...found.values()];
}

function flag(field: Field, value: unknown, words: readonly string[]): Assignment {
  const { name } = field;
  if (field.kind === "boolean") {
    // citty takes every text but "false" as true, so the text itself is looked at again.
    const text = words.findLast((word) => isFlag(word, name))?.split("=")[1];
    if (text === undefined) return { name, value };
    const read = readBoolean(text);
    if (read === undefined)
      throw new UsageError(`--${name}: expected true or false, got "${text}"`);
    return { name, value: read };
  }
  if (value === false)
    throw new UsageError(`--no-${name}: "${name}" takes a value, write ${name}=...`);
  if (value === "" || (typeof value === "string" && value.startsWith("--"))) {
    const next = value === "" ? "" : `, "${value}" is the next flag`;
    throw new UsageError(`--${name} has no value${next}; write --${name}=VALUE or ${name}=VALUE`);
  }
  return { name, value: readValue(String(value), field.declared) };
}

/** Whether a word is the flag `name`, with a value, without one, or negated. */
function isFlag(word: string, name: string): boolean {
  const flagName = word.startsWith("--") ? plain(word.split("=")[0]!) : undefined;
  return flagName === plain(name) || flagName === plain(`no${name}`);
}

function override(
  key: string,
  text: string,
  schema: z.ZodType,
  fields: readonly Field[],
  dashes = "",
): Assignment {
  const field =
    fieldAt(schema, key.split(".")) ?? fields.find(({ name }) => plain(name) === plain(key));
  if (!field) {
    throw new UsageError(`unknown setting "${dashes}${key}"${near(key, fields)}`);
  }
  const { name } = field;
  if (isGroup(field) && !text.startsWith("{")) {
    const members = fields.filter((other) => other.name.startsWith(`${name}.`)).slice(0, 3);
    const names = members.map((member) => `${member.name}=...`).join(", ");
    throw new UsageError(`"${name}" is a group of settings: set its members, ${names}`);
  }
  if (text === "" && field.kind !== "string" && field.kind !== "array") {
    throw new UsageError(`${name}= has no value: write ${name}=VALUE`);
  }
  return { name, value: readValue(text, field.declared) };
}

function unknownFlag(
  key: string,
  value: unknown,
  schema: z.ZodType,
  fields: readonly Field[],
): UsageError {
  const field = fieldAt(schema, key.split("."));
  if (field && value === true) {
    return new UsageError(`--${key} needs its value with an equals sign: ${key}=VALUE`);
  }
  const negated = value === false ? "no-" : "";
  const dash = key.length === 1 ? "-" : "--";
  return new UsageError(`unknown flag "${dash}${negated}${key}"${near(key, fields)}`);
}

function near(key: string, fields: readonly Field[]): string {
  const names = fields.map((field) => field.name);
  const last = key.split(".").at(-1)!;
  const byLastPart = () => names.find((name) => closest(last, [name.split(".").at(-1)!]));
  const name = closest(key, names) ?? byLastPart();
  return name === undefined ? suggestion(key, names) : `; did you mean "${name}"?`;
}

function fillPositionals(
  words: readonly string[],
  positionals: readonly string[],
  schema: z.ZodType,
): Assignment[] {
  if (words.length > positionals.length) {
    const extra = words[positionals.length]!;
    const room =
      positionals.length === 0
        ? "settings are written key=value or --key value"
        : `only ${positionals.map((name) => name.toUpperCase()).join(" ")} may stand bare`;
    throw new UsageError(`unexpected argument "${extra}": ${room}`);
  }
  return words.map((word, index) => {
    const name = positionals[index]!;
    return { name, value: readValue(word, fieldAt(schema, name.split("."))!.declared) };
  });
}

function withoutConflicts(assignments: Assignment[]): Assignment[] {
  const seen = new Set<string>();
  for (const { name } of assignments) {
    if (seen.has(name)) {
      throw new UsageError(`"${name}" is given twice, as a flag and as key=value: keep one`);
    }
    seen.add(name);
  }
  return assignments;
}
