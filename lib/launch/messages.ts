// What the frames carry, between server and client.

import { z } from "zod";
import { nonceBytes, proofBytes } from "./auth.ts";
import { encodeFrame, FrameType, PayloadReader, PayloadWriter, ProtocolError } from "./frames.ts";
import { type Beat, phases } from "./phases.ts";
import { type Facts, factsSchema } from "./roster.ts";

const protocolName = "xlstm-store";
const protocolVersion = 1;
/** Largest frame of a peer that has not proved itself. */
export const mostHelloBytes = 4096;

/** Why all ranks must end, and with which code. */
export interface Ending {
  readonly reason: string;
  readonly exitCode: number;
  /** Whether it is this rank that others wait for. */
  readonly isLate?: boolean | undefined;
}

/** A rank's own failure; `isOwn`: not because of its peers. */
export interface Failure {
  readonly reason: string;
  readonly isOwn: boolean;
}

export interface Hello {
  readonly proof: Uint8Array;
  readonly rank: number;
  readonly world: number;
  readonly facts: Facts;
}

const endingSchema = z.strictObject({
  reason: z.string(),
  exitCode: z.int().min(1).max(255),
  isLate: z.boolean(),
});
const failureSchema = z.strictObject({ reason: z.string(), isOwn: z.boolean() });

export function encodeChallenge(nonce: Uint8Array): Uint8Array {
  const payload = new PayloadWriter().key(protocolName).u8(protocolVersion).bytes(nonce);
  return encodeFrame(FrameType.challenge, payload.done());
}

/** The nonce. ProtocolError when this is no store, or one of another version. */
export function decodeChallenge(payload: Uint8Array): Uint8Array {
  const reader = new PayloadReader(payload);
  if (reader.key() !== protocolName) throw new ProtocolError("another program listens there");
  const version = reader.u8();
  if (version !== protocolVersion) {
    throw new ProtocolError(`the store speaks version ${version}, this rank ${protocolVersion}`);
  }
  return reader.bytes(nonceBytes);
}

export function encodeHello({ proof, rank, world, facts }: Hello): Uint8Array {
  const payload = new PayloadWriter().bytes(proof).u32(rank).u32(world).text(JSON.stringify(facts));
  return encodeFrame(FrameType.hello, payload.done());
}

export function decodeHello(payload: Uint8Array): Hello {
  const reader = new PayloadReader(payload);
  const proof = reader.bytes(proofBytes);
  const rank = reader.u32();
  const world = reader.u32();
  return { proof, rank, world, facts: parse(factsSchema, reader.restText()) };
}

export function encodeWelcome(facts: readonly Facts[]): Uint8Array {
  // Hosts and processes are all that others need to know of each other.
  const ranks = facts.map(({ host, pid }) => [host, pid]);
  return encodeFrame(FrameType.welcome, new PayloadWriter().text(JSON.stringify(ranks)).done());
}

const welcomeSchema = z.array(z.tuple([z.string(), z.int()]));

/** Host and process of every rank. */
export function decodeWelcome(payload: Uint8Array): readonly (readonly [string, number])[] {
  return parse(welcomeSchema, new PayloadReader(payload).restText());
}

export function encodeBeat({ step, phase, ticks }: Beat): Uint8Array {
  const payload = new PayloadWriter().u32(step).u8(phases.indexOf(phase)).u32(ticks).done();
  return encodeFrame(FrameType.heartbeat, payload);
}

export function decodeBeat(payload: Uint8Array): Beat {
  const reader = new PayloadReader(payload);
  const step = reader.u32();
  const phase = phases[reader.u8()];
  if (!phase) throw new ProtocolError("a heartbeat tells no known phase");
  return { step, phase, ticks: reader.u32() };
}

export function encodeEnding(ending: Ending): Uint8Array {
  const { exitCode, isLate = false } = ending;
  return encodeFrame(FrameType.abort, json({ reason: cut(ending.reason), exitCode, isLate }));
}

export function decodeEnding(payload: Uint8Array): Ending {
  return parse(endingSchema, new PayloadReader(payload).restText());
}

export function encodeFailure({ reason, isOwn }: Failure): Uint8Array {
  return encodeFrame(FrameType.abort, json({ reason: cut(reason), isOwn }));
}

export function decodeFailure(payload: Uint8Array): Failure {
  return parse(failureSchema, new PayloadReader(payload).restText());
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** One line, of bounded length. */
function cut(reason: string): string {
  const line = reason.replaceAll(/\s*\n\s*/g, "; ");
  return line.length > 4000 ? `${line.slice(0, 3997)}...` : line;
}

function parse<S extends z.ZodType>(schema: S, text: string): z.output<S> {
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    throw new ProtocolError("a message is not well formed", { cause: error });
  }
}
