// Hashes of stored bytes, XXH3-64. Tensors that lie in one file have one hash, chained over pieces
// because Bun hashes whole buffers only; for data of at most one piece it is the plain XXH3-64 with
// seed 0. Those that lie in several have one for every block: a part of them can be verified.

/** Largest part of a tensor that is in JavaScript memory at once; part of the hash's definition. */
export const pieceBytes = 64 * 2 ** 20;

/** Bytes that one hash of a list covers; part of the format. A divisor of `pieceBytes`. */
export const blockBytes = 2 ** 20;

/** Feeds pieces of `pieceBytes` bytes each (the last may be shorter). */
export class PieceHash {
  #state = 0n;

  update(piece: Uint8Array): void {
    this.#state = Bun.hash.xxHash3(piece, this.#state);
  }

  /** 16 hexadecimal digits; of no data at all: the hash of an empty piece. */
  digest(): string {
    return this.#state.toString(16).padStart(16, "0");
  }
}

/** Hashes of the blocks of a piece that begins at a multiple of `blockBytes`. */
export function blockHashes(piece: Uint8Array): string[] {
  const count = Math.ceil(piece.length / blockBytes);
  return Array.from({ length: count }, (_, k) =>
    hashOf(piece.subarray(k * blockBytes, (k + 1) * blockBytes)),
  );
}

/** XXH3-64 with seed 0, as 16 hexadecimal digits. */
export function hashOf(bytes: Uint8Array): string {
  return Bun.hash.xxHash3(bytes).toString(16).padStart(16, "0");
}

/** Hash of `length` bytes that come from `read(offset, length)`. */
export function hashPieces(
  length: number,
  read: (offset: number, length: number) => Uint8Array,
): string {
  const hash = new PieceHash();
  for (const piece of pieces(length, read)) hash.update(piece);
  return hash.digest();
}

/** The pieces of `length` bytes in order; one empty piece when there are none. */
export function* pieces(
  length: number,
  read: (offset: number, length: number) => Uint8Array,
): Generator<Uint8Array> {
  let offset = 0;
  do {
    const count = Math.min(pieceBytes, length - offset);
    yield read(offset, count);
    offset += count;
  } while (offset < length);
}
