// The settings of a zod schema as a list: names, types, defaults and descriptions for the command
// line and for --help. The schema stays the only place where a setting is described.

import type { z } from "zod";

/** One setting, or a group of them. */
export interface Field {
  /** Dotted name, e.g. `model.numHeads`. */
  readonly name: string;
  /** The schema as it was declared, and the bare one under defaults, null and transforms. */
  readonly declared: z.ZodType;
  readonly schema: z.ZodType;
  readonly kind: string;
  readonly nullable: boolean;
  readonly required: boolean;
  /** undefined when there is none. */
  readonly fallback: unknown;
  readonly description: string;
}

interface Definition {
  readonly type: string;
  readonly innerType?: z.ZodType;
  readonly in?: z.ZodType;
  readonly out?: z.ZodType;
  readonly getter?: () => z.ZodType;
  readonly defaultValue?: unknown;
  readonly valueType?: z.ZodType;
  readonly element?: z.ZodType;
  readonly items?: readonly z.ZodType[];
  readonly options?: readonly z.ZodType[];
  readonly values?: readonly unknown[];
}

/** The definition of a schema; zod types it per class, this is the union we walk over. */
export function definition(schema: z.ZodType): Definition {
  return schema.def as unknown as Definition;
}

/** Every setting below an object schema, groups left out, in the order of the schema. */
export function settingsOf(schema: z.ZodType): Field[] {
  return below(describe("", schema), []);
}

/** The setting or group at a path, entries of records included; undefined for none. */
export function fieldAt(schema: z.ZodType, path: readonly string[]): Field | undefined {
  let field = describe("", schema);
  for (const key of path) {
    const children = shapeOf(field.schema);
    const child = children
      ? Object.hasOwn(children, key) && children[key]
      : field.kind === "record" && definition(field.schema).valueType;
    if (!child) return undefined;
    field = describe(field.name ? `${field.name}.${key}` : key, child);
  }
  return field;
}

/** Whether a field is a group of settings of its own. */
export function isGroup(field: Field): boolean {
  return shapeOf(field.schema) !== undefined;
}

function below(field: Field, into: Field[]): Field[] {
  const defaults = field.fallback as Record<string, unknown> | undefined;
  for (const [key, schema] of Object.entries(shapeOf(field.schema) ?? {})) {
    const own = describe(field.name ? `${field.name}.${key}` : key, schema);
    const given = defaults?.[key];
    const child = given === undefined ? own : { ...own, fallback: given, required: false };
    if (isGroup(child)) below(child, into);
    else into.push(child);
  }
  return into;
}

function shapeOf(schema: z.ZodType): Record<string, z.ZodType> | undefined {
  return (schema as { shape?: Record<string, z.ZodType> }).shape;
}

function describe(name: string, outer: z.ZodType): Field {
  let schema = outer;
  let nullable = false;
  let required = true;
  let fallback: unknown;
  let description = outer.description ?? "";
  for (;;) {
    const def = definition(schema);
    let inner = def.innerType;
    if (def.type === "nullable") nullable = true;
    if (def.type === "optional") required = false;
    if (def.type === "default" || def.type === "prefault") {
      required = false;
      if (fallback === undefined) fallback = def.defaultValue;
    }
    if (def.type === "lazy") inner = def.getter?.();
    if (def.type === "pipe") {
      inner = def.in && definition(def.in).type === "transform" ? def.out : def.in;
    }
    if (!inner) break;
    schema = inner;
    description ||= schema.description ?? "";
  }
  const kind = definition(schema).type;
  return { name, declared: outer, schema, kind, nullable, required, fallback, description };
}

/** A type in words: `integer`, `f32 | bf16`, `list of number`. */
export function typeName(schema: z.ZodType): string {
  const { schema: bare, kind, nullable } = describe("", schema);
  const name = bareName(bare, kind);
  return nullable ? `${name} | null` : name;
}

function bareName(schema: z.ZodType, kind: string): string {
  const def = definition(schema);
  switch (kind) {
    case "number":
      return (schema as unknown as { format?: string | null }).format?.includes("int")
        ? "integer"
        : "number";
    case "enum":
      return (schema as unknown as { options: unknown[] }).options.map(String).join(" | ");
    case "literal":
      return (def.values ?? []).map(String).join(" | ");
    case "array":
      return `list of ${def.element ? typeName(def.element) : "values"}`;
    case "tuple":
      return `[${(def.items ?? []).map(typeName).join(", ")}]`;
    case "union":
      return (def.options ?? []).map(typeName).join(" | ");
    case "record":
      return "map";
    default:
      return kind;
  }
}
