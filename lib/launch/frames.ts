// The store's frames: u32 length of what follows (little endian), u8 type, payload. Both sides
// treat what arrives as hostile: lengths are bounded before anything is kept.

/** Largest length a frame may announce. */
export const mostFrameBytes = 2 ** 20;
/** Largest key and value. */
export const mostKeyBytes = 256;
export const mostValueBytes = mostFrameBytes - 1024;

export const FrameType = {
  /** Server: protocol name, version and a 16-byte nonce. */
  challenge: 1,
  /** Client: HMAC, rank, world, facts. */
  hello: 2,
  /** Server: everyone is here; the ranks' facts. */
  welcome: 3,
  set: 4,
  get: 5,
  add: 6,
  barrier: 7,
  /** Server: the answer to a request, or why there is none. */
  reply: 8,
  failure: 9,
  heartbeat: 10,
  /** Client: a rank's own failure. Server: all ranks must end, and why. */
  abort: 11,
  /** Client: this rank is done. Server: all ranks are. */
  leave: 12,
} as const;

export type FrameType = (typeof FrameType)[keyof typeof FrameType];
const types = new Set<number>(Object.values(FrameType));

export interface Frame {
  readonly type: FrameType;
  readonly payload: Uint8Array;
}

/** A peer broke the protocol; its connection is closed. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** One frame as bytes. */
export function encodeFrame(type: FrameType, payload: Uint8Array = new Uint8Array()): Uint8Array {
  if (payload.length >= mostFrameBytes) {
    throw new ProtocolError(`a frame of ${payload.length} bytes; at most ${mostFrameBytes - 1}`);
  }
  const bytes = new Uint8Array(5 + payload.length);
  new DataView(bytes.buffer).setUint32(0, payload.length + 1, true);
  bytes[4] = type;
  bytes.set(payload, 5);
  return bytes;
}

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  #pending = new Uint8Array();
  readonly #most: number;

  /** `most`: largest length that is accepted, for peers that are not known yet. */
  constructor(most = mostFrameBytes) {
    this.#most = most;
  }

  /** Frames that are complete now. ProtocolError for a length or type that cannot be. */
  read(bytes: Uint8Array): Frame[] {
    let rest = this.#pending.length === 0 ? bytes : joined(this.#pending, bytes);
    const frames: Frame[] = [];
    while (rest.length >= 4) {
      const length = new DataView(rest.buffer, rest.byteOffset).getUint32(0, true);
      if (length < 1 || length > this.#most) {
        throw new ProtocolError(`a frame announces ${length} bytes; at most ${this.#most}`);
      }
      if (rest.length < 4 + length) break;
      const type = rest[4]!;
      if (!types.has(type)) throw new ProtocolError(`frame type ${type} does not exist`);
      frames.push({ type: type as FrameType, payload: rest.slice(5, 4 + length) });
      rest = rest.subarray(4 + length);
    }
    this.#pending = rest.slice();
    return frames;
  }
}

/** Puts a payload together. */
export class PayloadWriter {
  #parts: Uint8Array[] = [];

  u8(value: number): this {
    return this.#add(Uint8Array.of(value));
  }

  u16(value: number): this {
    return this.#view(2, (view) => view.setUint16(0, value, true));
  }

  u32(value: number): this {
    return this.#view(4, (view) => view.setUint32(0, value, true));
  }

  f64(value: number): this {
    return this.#view(8, (view) => view.setFloat64(0, value, true));
  }

  key(value: string): this {
    const bytes = new TextEncoder().encode(value);
    if (bytes.length === 0 || bytes.length > mostKeyBytes) {
      throw new ProtocolError(`a key of ${bytes.length} bytes; expected 1 to ${mostKeyBytes}`);
    }
    return this.u16(bytes.length).#add(bytes);
  }

  text(value: string): this {
    return this.#add(new TextEncoder().encode(value));
  }

  bytes(value: Uint8Array): this {
    return this.#add(value);
  }

  done(): Uint8Array {
    return this.#parts.reduce(joined, new Uint8Array());
  }

  #view(size: number, fill: (view: DataView) => void): this {
    const bytes = new Uint8Array(size);
    fill(new DataView(bytes.buffer));
    return this.#add(bytes);
  }

  #add(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    return this;
  }
}

/** Takes a payload apart. ProtocolError when it is shorter than what it should hold. */
export class PayloadReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  u8(): number {
    return this.#take(1)[0]!;
  }

  u16(): number {
    return this.#view(2).getUint16(0, true);
  }

  u32(): number {
    return this.#view(4).getUint32(0, true);
  }

  f64(): number {
    return this.#view(8).getFloat64(0, true);
  }

  key(): string {
    const length = this.u16();
    if (length === 0 || length > mostKeyBytes) {
      throw new ProtocolError(`a key of ${length} bytes; expected 1 to ${mostKeyBytes}`);
    }
    return new TextDecoder().decode(this.#take(length));
  }

  bytes(length: number): Uint8Array {
    return this.#take(length);
  }

  /** All that is left. */
  rest(): Uint8Array {
    return this.#take(this.#bytes.length - this.#at);
  }

  restText(): string {
    return new TextDecoder().decode(this.rest());
  }

  #view(size: number): DataView {
    const bytes = this.#take(size);
    return new DataView(bytes.buffer, bytes.byteOffset, size);
  }

  #take(length: number): Uint8Array {
    const end = this.#at + length;
    if (end > this.#bytes.length) {
      throw new ProtocolError(`a payload of ${this.#bytes.length} bytes ends before byte ${end}`);
    }
    const part = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return part;
  }
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}
