// Who may join: the server sends a nonce, a rank answers with an HMAC of it under the run's token.
// The token itself never travels, and stands in no argument list and no log.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

export const nonceBytes = 16;
export const proofBytes = 32;
/** Failures after which an address is not talked to any more. */
const mostFailures = 3;

/** A token for one run, 128 bits. */
export function makeToken(): string {
  return randomBytes(16).toString("hex");
}

export function makeNonce(): Uint8Array {
  return new Uint8Array(randomBytes(nonceBytes));
}

/** HMAC-SHA256(token, nonce, rank, world); ranks without a token use the empty one. */
export function prove(token: string, nonce: Uint8Array, rank: number, world: number): Uint8Array {
  const numbers = new DataView(new ArrayBuffer(8));
  numbers.setUint32(0, rank, true);
  numbers.setUint32(4, world, true);
  const hash = createHmac("sha256", token).update(nonce).update(new Uint8Array(numbers.buffer));
  return new Uint8Array(hash.digest());
}

/** Compares in constant time. */
export function isProof(
  given: Uint8Array,
  token: string,
  nonce: Uint8Array,
  rank: number,
  world: number,
): boolean {
  if (given.length !== proofBytes) return false;
  return timingSafeEqual(given, prove(token, nonce, rank, world));
}

/** Counts wrong proofs by address. */
export class Failures {
  readonly #counts = new Map<string, number>();

  add(address: string): void {
    this.#counts.set(address, (this.#counts.get(address) ?? 0) + 1);
  }

  isBlocked(address: string): boolean {
    return (this.#counts.get(address) ?? 0) >= mostFailures;
  }
}
