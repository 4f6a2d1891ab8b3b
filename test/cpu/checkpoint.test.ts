import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CheckpointError,
  latestCheckpoint,
  loadCheckpoint,
  openCheckpointFiles,
  openSafetensors,
  saveCheckpoint,
  saveSafetensors,
} from "../../lib/checkpoint/index.ts";
import { NativeError } from "../../lib/native/errors.ts";
import { empty, tensor } from "../../lib/tensor/create.ts";
import { scope } from "../../lib/tensor/scope.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-safetensors-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

function writeRaw(name: string, header: object, data: Uint8Array): string {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(at(name), Buffer.concat([length, text, data]));
  return at(name);
}

test("what is saved is loaded bit by bit, in every type, and converted when asked", () => {
  using _ = scope();
  const values = [1.5, -2, Number.NaN, 0, 3e38, -0];
  const made = (["f32", "f64", "bf16"] as const).map(
    (dtype) => [`x.${dtype}`, tensor(values, { dtype })] as const,
  );
  const all = [
    ...made,
    ["ids", tensor([1, -7, 2 ** 31 - 1], { dtype: "i32" })] as const,
    ["bytes", tensor([0, 255], { dtype: "u8" })] as const,
    ["none", empty([0, 4])] as const,
  ];
  const metadata = { format: "pt", __proto__x: "ä", long: "é\n".repeat(5000) };
  saveSafetensors(at("a.safetensors"), all, metadata);
  using file = openSafetensors(at("a.safetensors"));
  expect(file.names).toEqual(["x.f64", "ids", "none", "x.f32", "x.bf16", "bytes"]);
  expect(file.metadata).toEqual(metadata);
  for (const [name, original] of all) {
    const { dtype, shape, byteLength: bytes } = original;
    expect(file.entry(name)).toMatchObject({ dtype, shape, bytes });
    const loaded = file.load(name);
    expect(loaded).toMatchObject({ dtype, shape });
    expect(loaded.bytesSync()).toEqual(original.bytesSync());
  }
  expect(file.load("x.bf16", "f64").tolist()).toEqual(tensor(values, { dtype: "bf16" }).tolist());
  expect(file.load("none", "bf16").shape).toEqual([0, 4]);
  expect(() => file.load("y")).toThrow(/tensor "y": is not in the file/);
  file.close();
  expect(() => file.load("ids")).toThrow(/was closed/);
});

test("types without a tensor of their own: listed, and refused or converted when loaded", () => {
  using _ = scope();
  const header = {
    ids: { dtype: "I64", shape: [2], data_offsets: [0, 16] },
    good: { dtype: "BOOL", shape: [2], data_offsets: [16, 18] },
    bad: { dtype: "BOOL", shape: [2], data_offsets: [18, 20] },
    scale: { dtype: "F8_E4M3", shape: [1], data_offsets: [20, 21] },
    huge: { dtype: "I64", shape: [1], data_offsets: [21, 29] },
  };
  const data = new Uint8Array(29);
  new DataView(data.buffer).setBigInt64(0, 5n, true);
  new DataView(data.buffer).setBigInt64(8, -3n, true);
  data.set([0, 1, 1, 2], 16);
  data[28] = 1;
  using file = openSafetensors(writeRaw("b.safetensors", header, data));
  expect(file.entry("ids")).toMatchObject({ type: "I64", dtype: "i32" });
  expect(file.load("ids").tolist()).toEqual([5, -3]);
  expect(() => file.load("huge")).toThrow(/no 32-bit integer/);
  expect(file.entry("scale")).toMatchObject({ type: "F8_E4M3", dtype: undefined, shape: [1] });
  expect(() => file.load("scale")).toThrow(/b\.safetensors: tensor "scale" is of type F8_E4M3/);
  expect(file.load("good").tolist()).toEqual([0, 1]);
  expect(() => file.load("bad")).toThrow(/tensor "bad": BadBool at byte \d+/);
});

test("bad files: the error has the path, the kind, the tensor and the byte", () => {
  const entry = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const cut = writeRaw("cut.safetensors", { w: entry }, new Uint8Array(7));
  expect(() => openSafetensors(cut)).toThrow(NativeError);
  expect(() => openSafetensors(cut)).toThrow(/cut\.safetensors: .*"w": LengthMismatch at byte/);
  expect(() => openSafetensors(at("missing"))).toThrow(/missing: cannot open the file: ENOENT/);
  expect(() => openSafetensors(folder)).toThrow(/not a regular file/);
});

test("a file that becomes shorter while it is open fails to load, and the process lives", () => {
  using _ = scope();
  saveSafetensors(at("c.safetensors"), [["w", tensor([1, 2, 3, 4])]]);
  using file = openSafetensors(at("c.safetensors"));
  truncateSync(at("c.safetensors"), 72);
  expect(() => file.load("w")).toThrow(/became shorter/);
});

test("sharded sets: loaded by name; index and headers must agree", () => {
  using _ = scope();
  saveSafetensors(at("one.safetensors"), [["a", tensor([1])]]);
  saveSafetensors(at("two.safetensors"), [
    ["b", tensor([2])],
    ["c", tensor([3])],
  ]);
  const index = at("model.safetensors.index.json");
  const write = (map: object) => writeFileSync(index, JSON.stringify({ weight_map: map }));
  const good = { a: "one.safetensors", b: "two.safetensors", c: "two.safetensors" };
  write(good);
  using set = openCheckpointFiles(folder);
  expect(set.names.toSorted()).toEqual(["a", "b", "c"]);
  expect(set.load("c").item()).toBe(3);
  const wrong: [object, RegExp][] = [
    [{ ...good, d: "one.safetensors" }, /tensor "d": the index puts it into one/],
    [{ a: "one.safetensors", b: "two.safetensors" }, /tensor "c": two.safetensors has it/],
    [{ ...good, a: "../one.safetensors" }, /plain file name/],
    [{ ...good, a: ".." }, /plain file name/],
    [{ ...good, a: 7 }, /plain file name/],
  ];
  for (const [map, reason] of wrong) {
    write(map);
    expect(() => openCheckpointFiles(folder)).toThrow(reason);
  }
  rmSync(index);
  expect(() => openCheckpointFiles(folder)).toThrow(/2 \.safetensors files/);
  renameSync(at("one.safetensors"), at("model.safetensors"));
  using single = openCheckpointFiles(folder);
  expect(single.names).toEqual(["a"]);
});

test("checkpoints: tensors come back, damage is named when a tensor is loaded", () => {
  using _ = scope();
  const rest = { recipe: { width: 2 }, data: { sample: 9 }, rng: { seed: "1" } };
  const tensors = [
    ["w", tensor([1, 2, 3])],
    ["z", tensor([4], { dtype: "bf16" })],
  ] as const;
  const path = saveCheckpoint(folder, { step: 3, tensors, ...rest });
  expect(latestCheckpoint(folder)).toBe(path);
  using checkpoint = loadCheckpoint(path);
  expect(checkpoint.step).toBe(3);
  expect(checkpoint.manifest).toMatchObject(rest);
  expect([...checkpoint.tensors.keys()]).toEqual(["w", "z"]);
  expect(checkpoint.load("w").tolist()).toEqual([1, 2, 3]);
  expect(checkpoint.load("z", "f32").tolist()).toEqual([4]);
  const file = join(path, "rank-0.safetensors");
  const bytes = readFileSync(file);
  bytes[checkpoint.tensors.get("w")!.pieces[0]!.offset]! ^= 1;
  writeFileSync(file, bytes);
  expect(() => checkpoint.load("w")).toThrow(CheckpointError);
  expect(() => checkpoint.load("w")).toThrow(/rank-0\.safetensors: tensor "w": the data/);
});
