// Text to token ids and back.

/** What a model needs to read and write text. */
export interface Tokenizer {
  readonly name: string;
  readonly vocabSize: number;
  encode(text: string): Int32Array;
  /** Text of the ids; bytes that are no UTF-8 become U+FFFD. Throws RangeError for unknown ids. */
  decode(ids: Iterable<number>): string;
  /** A decoder for ids that arrive one by one. */
  decoder(): StreamingDecoder;
}

/** Turns a stream of ids into text without ever splitting a UTF-8 character. */
export interface StreamingDecoder {
  /** The text that became complete with `id`; empty while a character is unfinished. */
  push(id: number): string;
  /** What is left at the end: U+FFFD for an unfinished character, else nothing. */
  end(): string;
}

/** One token per byte of UTF-8: ids 0..255, no special tokens, every file can be encoded. */
export const byteTokenizer: Tokenizer = {
  name: "bytes",
  vocabSize: 256,
  encode: (text) => Int32Array.from(new TextEncoder().encode(text)),
  decode(ids) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(ids, byteOf));
  },
  decoder() {
    const text = new TextDecoder("utf-8", { ignoreBOM: true });
    const one = new Uint8Array(1);
    return {
      push(id) {
        one[0] = byteOf(id);
        return text.decode(one, { stream: true });
      },
      end: () => text.decode(),
    };
  },
};

function byteOf(id: number): number {
  if (Number.isInteger(id) && id >= 0 && id < 256) return id;
  throw new RangeError(`token id ${id} is not a byte: the byte tokenizer knows ids 0 to 255`);
}
