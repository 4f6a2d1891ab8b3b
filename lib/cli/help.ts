// The text of --help, from nothing but the recipe's schema and examples.

import type { z } from "zod";
import { type Field, settingsOf, typeName } from "./fields.ts";

export interface HelpOptions {
  readonly name: string;
  readonly description: string;
  readonly schema: z.ZodType;
  readonly positionals?: readonly string[];
  readonly examples?: readonly { readonly command: string; readonly what: string }[];
  /** Columns of the terminal. Default 80. */
  readonly width?: number;
  /** Escape codes for bold and dim. Default false. */
  readonly colors?: boolean;
}

const general: readonly (readonly [string, string])[] = [
  ["config=FILE", "settings from a .ts, .json, .yaml or .toml file; the command line wins over it"],
  ["env=NAME", "use the variant $env.NAME of the configuration file"],
  ["--print-config", "print every setting with its value and where it came from, and stop"],
  ["--help, -h", "print this text"],
];

/** Every setting of a recipe with type, default and description, then its examples. */
export function renderHelp(options: HelpOptions): string {
  const { name, description, schema, positionals = [], examples = [] } = options;
  const bold = options.colors ? (text: string) => `\x1b[1m${text}\x1b[22m` : (text: string) => text;
  const fields = settingsOf(schema);
  const words = positionals.map((word) => {
    const required = fields.find((field) => field.name === word)?.required;
    return required ? `<${word}>` : `[${word}]`;
  });
  const usage = ["bun run", name, ...words, "[key=value ...] [--flag ...]"].join(" ");
  const rows = fields.map((field) => [term(field), explanation(field)] as const);
  const lines = [description, "", `${bold("Usage")}  ${usage}`, ""];
  if (rows.length > 0) {
    lines.push(bold("Settings"), ...table(rows, options.width ?? 80), "");
    lines.push('A setting is written key=value, --key value or --key=value; "null" unsets.', "");
  }
  lines.push(bold("General"), ...table(general, options.width ?? 80));
  if (examples.length > 0) lines.push("", bold("Examples"));
  for (const { command, what } of examples) lines.push(`  ${command}`, `      ${what}`);
  return lines.join("\n");
}

function term(field: Field): string {
  if (field.kind === "boolean" && !field.nullable) return `--${field.name}`;
  return `${field.name}=${placeholder(field)}`;
}

function placeholder(field: Field): string {
  const type = typeName(field.schema);
  return ["integer", "number", "string", "boolean"].includes(type) ? type.toUpperCase() : "VALUE";
}

function explanation(field: Field): string {
  const type = typeName(field.schema) + (field.nullable ? " | null" : "");
  const known = field.kind === "boolean" && !field.nullable ? "" : type;
  const fallback = field.required
    ? "required"
    : field.fallback === undefined
      ? "optional"
      : `default ${JSON.stringify(field.fallback)}`;
  const facts = [known, fallback].filter((part) => part !== "").join(", ");
  return field.description ? `${field.description} (${facts})` : `(${facts})`;
}

/** Two columns; long terms stand on a line of their own, long texts are wrapped. */
function table(rows: readonly (readonly [string, string])[], width: number): string[] {
  const longest = Math.max(...rows.map(([name]) => name.length));
  const column = Math.min(longest, 28);
  const room = Math.max(20, width - column - 4);
  return rows.flatMap(([name, text]) => {
    const [first = "", ...rest] = Bun.wrapAnsi(text, room, { trim: true }).split("\n");
    const indent = " ".repeat(column + 4);
    const tail = rest.map((line) => indent + line);
    if (name.length > column) return [`  ${name}`, indent + first, ...tail];
    return [`  ${name.padEnd(column)}  ${first}`, ...tail];
  });
}
