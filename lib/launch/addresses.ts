// The address that rank 0 listens at: one interface, not all, unless told.

import { lookup } from "node:dns/promises";
import { networkInterfaces } from "node:os";
import { LaunchError } from "./errors.ts";
import { type Address, isLoopback } from "./variables.ts";

/** `localhost` may mean two addresses; ranks have to mean the same one. */
export function dialAddress({ host, port }: Address): Address {
  return { host: host === "localhost" ? "127.0.0.1" : host, port };
}

/**
 * Where to listen for ranks that dial `master`: the address of the interface `iface` ("all" for
 * every one), or what the host name stands for. LaunchError when others could not reach it.
 */
export async function bindAddress(master: Address, iface?: string): Promise<Address> {
  const { host, port } = dialAddress(master);
  // Ranks that dial this host alone come through no interface.
  if (isLoopback(host)) return { host, port };
  if (iface === "all") return { host: "0.0.0.0", port };
  if (iface !== undefined) return { host: addressOf(iface), port };
  const found = await resolved(host);
  if (!isLoopback(found)) return { host: found, port };
  throw new LaunchError(
    `rendezvous: ${host} is ${found} on this host, which other hosts cannot reach; name the ` +
      `interface with XL_IFACE (here: ${interfaces().join(", ")})`,
  );
}

async function resolved(host: string): Promise<string> {
  try {
    return (await lookup(host)).address;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new LaunchError(
      `rendezvous: rank 0 does not know its own address "${host}" (${reason}); set XL_MASTER to ` +
        "a name or number of this host",
    );
  }
}

function addressOf(iface: string): string {
  const addresses = networkInterfaces()[iface] ?? [];
  const chosen = addresses.find(({ family }) => family === "IPv4") ?? addresses[0];
  if (chosen) return chosen.address;
  const known = interfaces().join(", ");
  throw new LaunchError(`XL_IFACE=${iface}: no such interface; there are ${known}, and "all"`);
}

function interfaces(): string[] {
  return Object.keys(networkInterfaces());
}
