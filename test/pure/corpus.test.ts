import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { corpus, Corpus, corpusFromFile } from "../../lib/data/corpus.ts";
import { DataError } from "../../lib/data/errors.ts";
import { checkText } from "../../lib/data/text_check.ts";

const folder = mkdtempSync(join(tmpdir(), "xlstm-corpus-"));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

describe("the embedded corpus", () => {
  test("Moby-Dick is the text its provenance names", () => {
    const text = corpus("moby-dick");
    const hash = new Bun.CryptoHasher("sha256").update(text.train).update(text.validation);
    expect(hash.digest("hex")).toBe(
      "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240",
    );
    expect([text.train.length, text.validation.length]).toEqual([1_084_497, 120_500]);
    expect(text.name).toBe("moby-dick");
  });

  test("another name is refused with a suggestion", () => {
    const name = "mobydick" as "moby-dick";
    expect(() => corpus(name)).toThrow(/no embedded corpus "mobydick"; did you mean "moby-dick"/);
  });
});

describe("a corpus from a file", () => {
  test("holds out the last tenth, or what is asked for", () => {
    const path = file("a.txt", "0123456789".repeat(10));
    expect(corpusFromFile(path).validation.length).toBe(10);
    const quarter = corpusFromFile(path, { validationFraction: 0.25 });
    expect(new TextDecoder().decode(quarter.validation)).toBe("5678901234567890123456789");
    expect(() => corpusFromFile(path, { validationFraction: 1 })).toThrow(
      /validationFraction is 1/,
    );
  });

  test("unpacks .zst and .gz", () => {
    const bytes = new TextEncoder().encode("call me ishmael ".repeat(20));
    const packed = file("b.txt.zst", Bun.zstdCompressSync(bytes));
    const zipped = file("b.txt.gz", Bun.gzipSync(bytes));
    const plain = corpusFromFile(file("b.txt", bytes));
    expect(corpusFromFile(packed).fingerprint).toBe(plain.fingerprint);
    expect(corpusFromFile(zipped).fingerprint).toBe(plain.fingerprint);
    const torn = file("torn.zst", Bun.zstdCompressSync(bytes).subarray(0, 20));
    expect(() => corpusFromFile(torn)).toThrow(/torn.zst is damaged/);
  });

  test("missing, empty, folder: one sentence with the way out", () => {
    expect(() => corpusFromFile(join(folder, "no.txt"))).toThrow(/no.txt: there is no such file/);
    expect(() => corpusFromFile(folder)).toThrow(/is not a file: give the path of one text file/);
    expect(() => corpusFromFile(file("empty.txt", ""))).toThrow(/empty.txt is empty: give/);
    expect(() => corpusFromFile(join(folder, "no.txt"))).toThrow(DataError);
  });

  test("binary files are named with the first bad offset", () => {
    const noise = new Uint8Array(1000).map((_, k) => (k < 7 ? 65 : ((k * 97) % 256) | 0x80));
    expect(() => corpusFromFile(file("noise.bin", noise))).toThrow(
      /noise.bin is not text: \d+ % .* first is 0x[0-9a-f]{2} at offset 7\).*allowBinary/,
    );
    const zeros = new Uint8Array(1000).fill(65, 0, 800);
    expect(() => corpusFromFile(file("zeros.bin", zeros))).toThrow(/20 % .* 0x00 at offset 800/);
    expect(corpusFromFile(join(folder, "zeros.bin"), { allowBinary: true }).train.length).toBe(900);
    const wide = new Uint8Array(Buffer.from("\uFEFFcall me", "utf16le"));
    expect(() => corpusFromFile(file("wide.txt", wide))).toThrow(/UTF-16: convert it first, iconv/);
  });

  test("a little damage is kept as it is", () => {
    const text = new TextEncoder().encode("x".repeat(1000)).fill(0, 10, 50).fill(0xff, 60, 110);
    const kept = corpusFromFile(file("damaged.txt", text));
    expect(kept.train.subarray(0, 120)).toEqual(text.subarray(0, 120));
  });
});

test("UTF-8 is checked by the standard, not by eye", () => {
  const bad = (...bytes: number[]) => checkText(Uint8Array.from(bytes));
  expect(checkText(new TextEncoder().encode("aé€😀"))).toEqual({
    invalidBytes: 0,
    nulBytes: 0,
    firstBad: -1,
  });
  // Overlong forms, surrogates, above U+10FFFF, a lone continuation, an end in the middle.
  for (const bytes of [
    [0xc0, 0x80],
    [0xe0, 0x80, 0x80],
    [0xed, 0xa0, 0x80],
    [0xf4, 0x90, 0x80, 0x80],
  ]) {
    expect(bad(65, ...bytes).invalidBytes).toBe(bytes.length);
    expect(bad(65, ...bytes).firstBad).toBe(1);
  }
  expect(bad(0x80).invalidBytes).toBe(1);
  expect(bad(65, 0xe2, 0x82).invalidBytes).toBe(2);
  expect(bad(0xc3, 0x41)).toEqual({ invalidBytes: 1, nulBytes: 0, firstBad: 0 });
});

test("a corpus prints its sizes, not its bytes", () => {
  expect(String(new Corpus("tiny", new Uint8Array(50)))).toBe("Corpus(tiny: 45 + 5 bytes)");
});
