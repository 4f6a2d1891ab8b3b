// Text from the command line to the value a setting expects. Text that does not fit is passed on
// unchanged, so that the schema reports it together with everything else that is wrong.

import type { z } from "zod";
import { definition, fieldAt } from "./fields.ts";

/** `text` as a value for `schema`; `null` is the word for nothing where the schema allows it. */
export function readValue(text: string, schema: z.ZodType): unknown {
  const field = fieldAt(schema, [])!;
  if (field.nullable && text === "null") return null;
  const def = definition(field.schema);
  switch (field.kind) {
    case "number":
      return readNumber(text) ?? text;
    case "boolean":
      return readBoolean(text) ?? text;
    case "literal":
    case "enum":
      return (allowed(field.schema) ?? []).find((value) => String(value) === text) ?? text;
    case "array":
      return readList(text, () => def.element);
    case "tuple":
      return readList(text, (index) => def.items?.[index]);
    case "union":
      return readUnion(text, def.options ?? []);
    case "string":
      return text;
    default:
      return readJson(text) ?? readNumber(text) ?? text;
  }
}

/** Numbers as people write them: 3e-4, 95_000, -1. undefined for anything else, 0x10 and "" too. */
export function readNumber(text: string): number | undefined {
  const digits = String.raw`\d+(?:_\d+)*`;
  const decimal = new RegExp(
    `^[+-]?(?:${digits}\\.?(?:${digits})?|\\.${digits})(?:e[+-]?\\d+)?$`,
    "i",
  );
  if (!decimal.test(text)) return undefined;
  return Number(text.replaceAll("_", ""));
}

const words: Readonly<Record<string, boolean>> = {
  true: true,
  yes: true,
  on: true,
  1: true,
  false: false,
  no: false,
  off: false,
  0: false,
};

/** true, yes, on, 1 and their opposites; undefined for anything else. */
export function readBoolean(text: string): boolean | undefined {
  return Object.hasOwn(words, text) ? words[text] : undefined;
}

function allowed(schema: z.ZodType): readonly unknown[] | undefined {
  return (schema as unknown as { options?: unknown[] }).options ?? definition(schema).values;
}

/** `[0.9, 0.95]` or `0.9,0.95`; an empty text is the empty list. */
function readList(text: string, element: (index: number) => z.ZodType | undefined): unknown {
  if (text.startsWith("["))
    return readJson(text) ?? readItems(text.replace(/^\[|\]$/g, ""), element);
  return readItems(text, element);
}

function readItems(text: string, element: (index: number) => z.ZodType | undefined): unknown[] {
  if (text.trim() === "") return [];
  return text.split(",").map((item, index) => {
    const schema = element(index);
    return schema ? readValue(item.trim(), schema) : item.trim();
  });
}

/** The first option that takes the text, plain strings last because they take every text. */
function readUnion(text: string, options: readonly z.ZodType[]): unknown {
  for (const option of options.toSorted((a, b) => Number(isText(a)) - Number(isText(b)))) {
    const value = readValue(text, option);
    if (option.safeParse(value).success) return value;
  }
  return readNumber(text) ?? text;
}

function isText(schema: z.ZodType): boolean {
  return fieldAt(schema, [])!.kind === "string";
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
