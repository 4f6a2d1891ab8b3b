import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CheckpointError } from "../../lib/checkpoint/errors.ts";
import { type Files, systemFiles } from "../../lib/checkpoint/files.ts";
import { pieceBytes } from "../../lib/checkpoint/hash.ts";
import { saveSafetensors, type TensorBytes } from "../../lib/checkpoint/writer.ts";
import { bytesTensor } from "./checkpoint_fixture.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-writer-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function split(path: string) {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const text = bytes.toString("utf8", 8, 8 + length);
  return { length, text, header: JSON.parse(text), data: bytes.subarray(8 + length) };
}

test("wide elements first, then names; header padded to a multiple of 8; metadata kept", () => {
  const path = join(folder, "a.safetensors");
  const stored = saveSafetensors(
    path,
    [
      ["z", bytesTensor("u8", [3], 1)],
      ["b", bytesTensor("bf16", [2], 2)],
      ["10", bytesTensor("f32", [1, 2], 3)],
      ["9", bytesTensor("f32", [], 4)],
      ["d", bytesTensor("f64", [0, 5], 5)],
    ],
    { format: "pt", note: "ä\u0000\n" },
  );
  const { length, text, header, data } = split(path);
  expect(length % 8).toBe(0);
  expect(text).toMatch(/^\{"__metadata__":.*\} *$/);
  expect([...text.matchAll(/"(\w+)":\{"dtype"/g)].map(([, name]) => name)).toEqual([
    "d",
    "10",
    "9",
    "b",
    "z",
  ]);
  expect(header.__metadata__).toEqual({ format: "pt", note: "ä\u0000\n" });
  expect(header.d).toEqual({ dtype: "F64", shape: [0, 5], data_offsets: [0, 0] });
  expect(header["9"]).toEqual({ dtype: "F32", shape: [], data_offsets: [8, 12] });
  expect(header.z).toEqual({ dtype: "U8", shape: [3], data_offsets: [16, 19] });
  expect(data.length).toBe(19);
  expect([...data.subarray(16)]).toEqual([...bytesTensor("u8", [3], 1).bytesSync(0, 3)]);
  const z = stored.tensors.get("z")!;
  expect(z.offset).toBe(8 + length + 16);
  expect(z.hash).toBe(Bun.hash.xxHash3(data.subarray(16)).toString(16).padStart(16, "0"));
  expect(stored.bytes).toBe(8 + length + 19);
  expect(readdirSync(folder)).toEqual(["a.safetensors"]);
});

test("large tensors are asked for in pieces of at most 64 MiB", () => {
  const asked: number[][] = [];
  const size = 2 * pieceBytes + 12;
  const big: TensorBytes = {
    dtype: "f32",
    shape: [size / 4],
    byteLength: size,
    bytesSync(offset, length) {
      asked.push([offset, length]);
      return new Uint8Array(length).fill(offset / pieceBytes);
    },
  };
  let written = 0;
  const counting: Files = { ...systemFiles, write: (_, bytes) => void (written += bytes.length) };
  const stored = saveSafetensors(join(folder, "big"), [["w", big]], {}, counting);
  expect(asked).toEqual([
    [0, pieceBytes],
    [pieceBytes, pieceBytes],
    [2 * pieceBytes, 12],
  ]);
  expect(written).toBe(stored.bytes);
});

const broken: [string, string, RegExp][] = [
  ["empty", "", /0 bytes/],
  ["too long", "x".repeat(1025), /1025 bytes/],
  ["NUL", "a\u0000b", /control/],
  ["C1 control", "a\u0085b", /control/],
  ["lone surrogate", "\ud800", /surrogate/],
  ["prototype", "__proto__", /reserved/],
  ["metadata", "__metadata__", /reserved/],
];
for (const [what, name, reason] of broken) {
  test(`a name that readers would refuse is refused: ${what}`, () => {
    const save = () => saveSafetensors(join(folder, "x"), [[name, bytesTensor("u8", [1], 0)]]);
    expect(save).toThrow(CheckpointError);
    expect(save).toThrow(reason);
    expect(readdirSync(folder)).toEqual([]);
  });
}

test("a name twice, and bytes that do not fit the shape", () => {
  const one = bytesTensor("u8", [1], 0);
  expect(() =>
    saveSafetensors(join(folder, "x"), [
      ["a", one],
      ["a", one],
    ]),
  ).toThrow(/twice/);
  const wrong = { ...one, shape: [2] };
  expect(() => saveSafetensors(join(folder, "x"), [["a", wrong]])).toThrow(/expected 2/);
});

for (const operation of ["create", "write", "sync", "close", "rename"] as const) {
  test(`a failing ${operation} leaves the old file and nothing else`, () => {
    const path = join(folder, "model.safetensors");
    writeFileSync(path, "old");
    const failing: Files = {
      ...systemFiles,
      [operation]: () => {
        throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
      },
    };
    const save = () => saveSafetensors(path, [["a", bytesTensor("f32", [4], 1)]], {}, failing);
    expect(save).toThrow(/model\.safetensors: could not be written: ENOSPC/);
    expect(readFileSync(path, "utf8")).toBe("old");
    expect(readdirSync(folder)).toEqual(["model.safetensors"]);
  });
}
