// What a manifest takes from its caller: values that JSON holds without loss.

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/**
 * A copy of `value` without the members that are undefined. Throws a TypeError that names the
 * place,
 * e.g. `recipe.model.size`, of anything that would not come back from JSON as it went in.
 */
export function plainJson(place: string, value: unknown): Json {
  if (value === null || typeof value === "boolean" || typeof value === "string") return value;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  if (Array.isArray(value)) return value.map((item, i) => plainJson(`${place}[${i}]`, item));
  if (isPlainObject(value)) {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    return Object.fromEntries(
      members.map(([name, member]) => [name, plainJson(`${place}.${name}`, member)]),
    );
  }
  const found = Bun.inspect(value, { depth: 0 });
  throw new TypeError(`${place} is ${found}; a checkpoint takes values that JSON holds, no others`);
}

function isPlainObject(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
