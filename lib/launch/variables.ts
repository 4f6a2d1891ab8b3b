// Reading of environment variables: numbers, addresses, and what a wrong one is told.

import { LaunchError } from "./errors.ts";

export type Variables = Readonly<Record<string, string | undefined>>;

/** Where rank 0 listens. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** The value of a variable; an empty one counts as not set. */
export function text(variables: Variables, name: string): string | undefined {
  const value = variables[name]?.trim();
  return value ? value : undefined;
}

/** The first of `names` that is set, as an integer from 0. LaunchError for any other text. */
export function integer(variables: Variables, ...names: string[]): number | undefined {
  const name = names.find((candidate) => text(variables, candidate) !== undefined);
  if (name === undefined) return undefined;
  const value = text(variables, name)!;
  if (!/^\d{1,9}$/.test(value)) {
    throw new LaunchError(`${name}=${value}: expected an integer from 0`);
  }
  return Number(value);
}

/** As `integer`, for variables that a launcher always sets. */
export function required(variables: Variables, because: string, ...names: string[]): number {
  const value = integer(variables, ...names);
  if (value !== undefined) return value;
  throw new LaunchError(`${because}, but ${names.join(" and ")} is not set`);
}

/** `n01:29500` or `[::1]:29500`. */
export function address(value: string, name: string): Address {
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(value) ?? [];
  const number = Number(port);
  if (port === undefined || number < 1 || number > 65_535) {
    throw new LaunchError(`${name}=${value}: expected HOST:PORT, as in n01:29500`);
  }
  return { host: (bracketed ?? plain)!, port: number };
}

/** Whether a host is this machine and can be reached from this machine alone. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/** `n01:29500`, as errors name it. */
export function showAddress({ host, port }: Address): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
