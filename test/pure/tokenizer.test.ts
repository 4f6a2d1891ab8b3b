import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { byteTokenizer } from "../../lib/data/tokenizer.ts";

test("bytes: ids are the UTF-8 of the text", () => {
  expect(byteTokenizer.vocabSize).toBe(256);
  expect([...byteTokenizer.encode("é€")]).toEqual([0xc3, 0xa9, 0xe2, 0x82, 0xac]);
});

test("decode undoes encode, byte order marks included", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (text) => {
      expect(byteTokenizer.decode(byteTokenizer.encode(text))).toBe(text);
    }),
    { verbose: 1 },
  );
  expect(byteTokenizer.decode(byteTokenizer.encode("\uFEFFx"))).toBe("\uFEFFx");
});

test("the streaming decoder gives whole characters only", () => {
  const decoder = byteTokenizer.decoder();
  const pieces = [...byteTokenizer.encode("\uFEFFa€😀")].map((id) => decoder.push(id));
  expect(pieces).toEqual(["", "", "\uFEFF", "a", "", "", "€", "", "", "", "😀"]);
  expect(decoder.end()).toBe("");
});

test("an unfinished or broken character becomes U+FFFD", () => {
  const decoder = byteTokenizer.decoder();
  expect(decoder.push(0xe2) + decoder.push(0x41)).toBe("\uFFFDA");
  expect(decoder.push(0xe2)).toBe("");
  expect(decoder.end()).toBe("\uFFFD");
});

test("ids that are no bytes are named", () => {
  expect(() => byteTokenizer.decode([65, 256])).toThrow(/token id 256 is not a byte/);
  expect(() => byteTokenizer.decoder().push(-1)).toThrow(/token id -1/);
  expect(() => byteTokenizer.decode([1.5])).toThrow(RangeError);
});
