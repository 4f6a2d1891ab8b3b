// The border to native code and the way tensors meet the rest of JavaScript (bun.md §15).

import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type * as Library from "../../lib/native/library.ts";
import { libraryPaths } from "../../lib/native/library.ts";
import { abiHash } from "../../lib/native/symbols.ts";
import * as t from "../../lib/tensor/index.ts";

const root = join(import.meta.dir, "../..");
const library = libraryPaths()[0]!;
const scratch = mkdtempSync(join(tmpdir(), "xlstm-border-"));

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function child(args: readonly string[], environment: Record<string, string> = {}) {
  const { stdout, stderr, exitCode, signalCode } = Bun.spawnSync([process.execPath, ...args], {
    cwd: root,
    env: { ...process.env, ...environment },
  });
  return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode, signalCode };
}

const helper = (name: string) => join(root, "test/helpers", name);

describe("loading", () => {
  test("without the library every module imports, and the first call says what to do", () => {
    const missing = join(scratch, "nowhere.so");
    const { stdout, stderr, exitCode } = child([helper("import_everything.ts")], {
      XL_LIBRARY: missing,
    });
    expect(exitCode, stderr).toBe(0);
    const { modules, name, text } = JSON.parse(stdout);
    expect(modules).toBeGreaterThan(80);
    expect(name).toBe("LibraryError");
    expect(text).toContain(`not built; looked for ${missing}. Run \`bun run build:native\``);
  });

  test("without the library recipes explain themselves", () => {
    const environment = { XL_LIBRARY: join(scratch, "nowhere.so") };
    const { stdout, exitCode } = child(["recipes/train.ts", "--help"], environment);
    expect([exitCode, stdout.includes("train")]).toEqual([0, true]);
  });

  test("a file that is no library is named, with the way out", () => {
    const wrong = join(scratch, "wrong.so");
    writeFileSync(wrong, "not a library");
    const { stdout } = child([helper("import_everything.ts")], { XL_LIBRARY: wrong });
    expect(JSON.parse(stdout).text).toMatch(
      /cannot load .*wrong\.so: .*Run `bun run build:native`/,
    );
  });

  test("sources of another version name both versions", () => {
    cpSync(join(root, "lib"), join(scratch, "lib"), { recursive: true });
    const table = join(scratch, "lib/native/symbols.ts");
    const old = `abiHash = ${abiHash};`;
    const text = readFileSync(table, "utf8");
    expect(text).toContain(old);
    writeFileSync(table, text.replace(old, "abiHash = 12345;"));
    const script = join(scratch, "first_call.ts");
    writeFileSync(script, 'import { zeros } from "./lib/tensor/index.ts";\nzeros([1]);\n');
    const { stderr, exitCode } = child([script], { XL_LIBRARY: library });
    expect(exitCode).toBe(1);
    expect(stderr).toContain(`has ABI ${abiHash}, these sources expect 12345`);
    expect(stderr).toContain("Run `bun run build:native`");
  });

  test("a native panic says whose bug it is, and the parent sees the signal", () => {
    const { stderr, exitCode, signalCode } = child([helper("native_panic.ts")]);
    expect(stderr).toContain("xl native panic: asked for by a test (not a Bun bug)");
    expect([exitCode === 0, signalCode]).toEqual([false, "SIGABRT"]);
  });

  test("evaluating the door three times starts one library; handles stay valid", async () => {
    using x = t.tensor([1, 2, 3]);
    const before = t.memory();
    for (const copy of [1, 2, 3]) {
      const path = `../../lib/native/library.ts?copy=${copy}`;
      const again = (await import(path)) as typeof Library;
      expect(again.native).not.toBe((await import("../../lib/native/library.ts")).native);
      again.check(again.native().xl_reduce(x.handle, 0, 0, 0), "sum");
      const sum = again.scratch().outputs[0]!;
      const value = new Float32Array(1);
      again.check(again.native().xl_to_bytes(sum, value, 0, 4), "data");
      expect(value[0]).toBe(6);
      again.check(again.native().xl_dispose(sum), "dispose");
    }
    expect(t.memory().tensors).toBe(before.tensors);
    expect(x.tolist()).toEqual([1, 2, 3]);
  });
});

describe("tensors beside other values", () => {
  const inspectable: Record<string, () => t.Tensor> = {
    scalar: () => t.tensor(3),
    vector: () => t.arange(5),
    matrix: () => t.randn([20, 30]),
    deep: () => t.zeros([7, 7, 7, 7, 7]),
    "larger than what is copied": () => t.full([2000, 2100], 0.5, "bf16"),
    "eight dims": () => t.zeros([1, 2, 1, 2, 1, 2, 1, 2]),
    large: () => t.zeros([3000, 3000], "u8"),
    empty: () => t.zeros([3, 0]),
    bf16: () => t.ones([3], "bf16"),
    f16: () => t.ones([3], "f16"),
    integers: () => t.tensor(Int32Array.from([1, 2])),
    "not finite": () => t.tensor([Number.NaN, Infinity, 1]),
    view: () => t.randn([4, 6]).transpose().slice(0, 1, 4, 2),
    leaf: () => t.tensor([1]).requireGrad(),
    result: () => t.tensor([1]).requireGrad().exp(),
    disposed: () => {
      const x = t.zeros([2, 3]);
      x.dispose();
      return x;
    },
  };

  test.each(Object.keys(inspectable))("%s prints, bounded, within other values", (name) => {
    using _ = t.scope();
    const x = inspectable[name]!();
    const head = `Tensor<${x.dtype}>[${x.shape.join(", ")}]`;
    for (const text of [
      Bun.inspect(x),
      Bun.inspect({ list: [x] }),
      Bun.inspect(new Map([[1, x]])),
    ]) {
      expect(text).toContain(head);
      expect(text.length).toBeLessThan(5000);
    }
    expect(x.toString()).toStartWith(head);
    expect(Bun.inspect(x, { colors: true }).length).toBeLessThan(5000);
    expect(JSON.parse(JSON.stringify({ x }))).toEqual({
      x: { shape: x.shape, dtype: x.dtype, device: "cpu" },
    });
    expect(structuredClone(x)).toMatchObject({ id: x.id, shape: [...x.shape] });
  });

  test("text in templates, no arithmetic, operands of other kinds named", () => {
    using _ = t.scope();
    const x = t.tensor([1, 2]);
    expect(`${x}`).toStartWith("Tensor<f32>[2] cpu");
    expect(String(x)).toBe(x.toString());
    expect(() => Number(x)).toThrow("is not a number; use .item()");
    const wrong = (value: unknown) => () => x.add(value as t.Tensor);
    expect(wrong(undefined)).toThrow("add: the second operand is undefined; expected a Tensor");
    expect(wrong(null)).toThrow("add: the second operand is null");
    expect(wrong([1, 2])).toThrow("is an array; expected a Tensor or a number; make one with");
  });

  test("a tensor too large to be copied whole shows its corner", () => {
    using _ = t.scope();
    for (const dtype of ["f32", "bf16", "f16", "i32", "u8"] as const) {
      const x = t.full([2100, 2100], 3, dtype);
      expect(Bun.inspect(x)).toContain("[[3, 3, 3, …, 3, 3, 3],");
    }
  });

  test("what a print says", () => {
    using _ = t.scope();
    expect(String(Bun.inspect(t.tensor(2.5)))).toBe("Tensor<f32>[] cpu 2.5000");
    expect(t.tensor([1, 3]).toString()).toBe("Tensor<f32>[2] cpu mean=2 std=1 [1, 3]");
    expect(t.tensor([Number.NaN, 1]).toString()).toContain("1 not finite");
    const x = t.zeros([2]);
    x.dispose();
    expect(x.toString()).toBe("Tensor<f32>[2](disposed)");
  });

  test("equality is identity, not contents", () => {
    using _ = t.scope();
    const x = t.ones([2]);
    const y = t.ones([2]);
    expect(x).toEqual(x);
    expect(x).not.toEqual(y);
    expect(x).not.toEqual(x.detach());
    y.dispose();
    expect(x).not.toEqual(y);
  });

  test("a tensor is not taken for a number", () => {
    using _ = t.scope();
    const x = t.ones([2, 3]) as unknown as number;
    expect(() => x + 1).toThrow(/Tensor<f32>\[2, 3\] is not a number; use \.item\(\)/);
    expect(() => Math.max(x, 1)).toThrow(/is not a number/);
    expect(() => t.ones([2, 3]).item()).toThrow(/shape \[2, 3\], not one element/);
  });
});

const floats = (shape: number[]) => t.ones(shape);
const ids = (...list: number[]) => t.tensor(Int32Array.from(list));
const odd = undefined as unknown as number;

/** Wrong arguments, and what the error must say. */
const mistakes: Record<string, readonly [() => unknown, RegExp]> = {
  add: [() => floats([2, 3]).add(floats([4, 5])), /^add: shapes \[2, 3\] and \[4, 5\] do not/],
  matmul: [() => floats([2, 3]).matmul(floats([4, 5])), /^matmul: shapes \[2, 3\] and \[4, 5\]/],
  "matmul of vectors": [
    () => floats([3]).matmul(floats([3])),
    /\[3\] and \[3\]: both need at least/,
  ],
  linear: [() => floats([2, 3]).linear(floats([4, 5])), /^linear: x \[2, 3\] and weight \[4, 5\]/],
  reshape: [() => floats([2, 3]).reshape([7]), /^reshape: .*\[2, 3\] \(6 elements\) into \[7\]/],
  "reshape -1": [() => floats([2, 3]).reshape([4, -1]), /^reshape: .*\[2, 3\] .* \[4, -1\]/],
  expand: [
    () => floats([2, 3]).expand([5, 5]),
    /^expand: cannot expand shape \[2, 3\] to \[5, 5\]/,
  ],
  concat: [() => t.concat([floats([2, 3]), floats([4, 5])]), /^concat: .*\[2, 3\] and \[4, 5\]/],
  where: [() => t.where(floats([4, 5]), floats([2]), floats([2])), /^where: shapes .*\[4, 5\]/],
  gather: [() => floats([2, 3]).gather(ids(0, 1)), /^gather: indices of shape \[2\] .*\[2, 3\]/],
  rmsNorm: [() => floats([2, 3]).rmsNorm(floats([4])), /^rmsNorm: scale has shape \[4\].*\[2, 3\]/],
  write: [() => floats([2, 3]).write_(floats([4, 5])), /^write: .*\[4, 5\] into shape \[2, 3\]/],
  gated: [
    () => t.gatedActivation(floats([2, 3]), floats([4, 5]), "relu"),
    /^gatedActivation: up has shape \[4, 5\], expected \[2, 3\]/,
  ],
  "loss targets": [() => t.crossEntropy(floats([2, 3]), ids(0)), /^crossEntropy: .*\[1\]/],
  "loss class": [() => t.crossEntropy(floats([1, 3]), ids(3)), /contains 3, expected 0 to 2/],
  embedding: [() => t.embedding(floats([4, 2]), ids(1, 4)), /contains 4, expected 0 to 3/],
  "embedding ids": [() => t.embedding(floats([4, 2]), floats([1])), /ids is f32, expected i32/],
  scatterAdd: [() => floats([1]).scatterAdd(ids(-1), 3), /^scatterAdd: .*-1, expected 0 to 2/],
  mlstm: [
    () => {
      const x = floats([2, 3]);
      return t.mlstm({ q: x, k: x, v: x, i: x, f: x });
    },
    /^mlstm: q has shape \[2, 3\], expected 4 dims/,
  ],
  slstm: [() => t.slstm(floats([2]), floats([2]), floats([2])), /^slstm: wx has shape \[2\]/],
  conv: [() => t.causalConv(floats([2]), floats([2, 4])), /^causalConv: x has shape \[2\]/],
  dtypes: [() => floats([2]).add(t.ones([2], "f64")), /^add: a is f32 and b is f64; cast one/],
  "integers in exp": [() => ids(1).exp(), /^exp: x is i32, expected f32, bf16 or f64/],
  "f16 arithmetic": [() => t.ones([2], "f16").exp(), /^exp: x is f16/],
  "unknown dtype": [() => t.zeros([1], "f8" as "f32"), /^f8 is not a dtype; there are f32, bf16/],
  "cast to nothing": [() => floats([1]).cast("half" as "f16"), /^half is not a dtype/],
  "size NaN": [() => t.zeros([Number.NaN]), /NaN in shape \[NaN\] is not a size/],
  "size -1": [() => t.zeros([2, -1]), /-1 in shape \[2, -1\] is not a size/],
  "size 1.5": [() => t.randn([1.5]), /1.5 in shape/],
  "size 2^31": [() => t.zeros([2 ** 31]), /2147483648 in shape/],
  "size 2^53": [() => t.empty([2 ** 53]), /9007199254740992 in shape/],
  "size undefined": [() => t.zeros([odd]), /undefined in shape/],
  "too many elements": [() => t.zeros([2 ** 30, 2 ** 30]), /\[1073741824, 1073741824\] has more/],
  "too many of a view": [() => floats([1]).expand([2 ** 30, 2 ** 30]), /^expand: .* has more than/],
  "too many dims": [() => t.zeros([1, 1, 1, 1, 1, 1, 1, 1, 1]), /9 dims, at most 8/],
  "dim out of range": [() => floats([2, 3]).sum(2), /^sum: dim 2 is out of range .*\[2, 3\]/],
  "dim NaN": [() => floats([2, 3]).sum(Number.NaN), /^sum: dim NaN is out of range/],
  "slice NaN": [() => floats([2]).slice(0, Number.NaN), /^NaN is not a position of a slice/],
  "slice 2^40": [() => floats([2]).slice(0, 0, 2 ** 40), /^1099511627776 is not a position/],
  "slice beyond": [() => floats([2]).slice(0, 1, 9), /^slice: \[1, 9\).* dim 0 of shape \[2\]/],
  "slice step 0": [() => floats([2]).slice(0, 0, 2, 0), /^slice: .*step 0/],
  "permute twice": [() => floats([2, 3]).permute([0, 0]), /^permute: dim 0 appears twice/],
  "topK of too many": [() => floats([3]).topK(4), /^topK: k is 4, expected 1 to 3/],
  "topK of a half": [() => floats([3]).topK(1.5), /^1.5 is not a number of elements/],
  "soft cap 0": [() => floats([3]).softCap(0), /^softCap: 0 is not positive; use null for off/],
  "dropout 1": [() => t.dropout(floats([3]), 1, t.keyOf("x", 0)), /rate 1 is not in \[0, 1\)/],
  "seed -1": [() => t.randn([1], { seed: -1 }), /seed -1 is not an integer/],
  "arange without end": [() => t.arange(0, Infinity), /never ends/],
  ragged: [() => t.tensor([[1, 2], [3]]), /ragged data: expected 2 elements, got 1/],
  text: [() => t.tensor("abc" as unknown as number), /expected a number at depth 0, got string/],
  "data and shape": [
    () => t.tensor(new Float32Array(3), { shape: [2, 2] }),
    /3 elements do not fill shape \[2, 2\]/,
  ],
  "bytes before the start": [() => floats([2]).bytesSync(-1, 2), /2 bytes from -1 do not lie in 8/],
  "bytes behind the end": [() => floats([2]).bytesSync(4, 8), /8 bytes from 4 do not lie in 8/],
};

describe("mistakes are named", () => {
  const types = ["ShapeError", "DTypeError", "NativeError", "RangeError"];

  test.each(Object.keys(mistakes))("%s", (name) => {
    using _ = t.scope();
    const [make, text] = mistakes[name]!;
    let error: unknown;
    try {
      make();
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(Error);
    expect((error as Error).message).toMatch(text);
    expect(types).toContain((error as Error).name);
  });

  test("empty and detached arrays are empty tensors", () => {
    using _ = t.scope();
    const detached = new Float32Array(4);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    expect(t.tensor(detached).shape).toEqual([0]);
    expect(t.tensor([]).shape).toEqual([0]);
    expect(t.tensor([[], []]).shape).toEqual([2, 0]);
    expect(t.zeros([3, 0]).sum(1).tolist()).toEqual([0, 0, 0]);
  });

  test("typed arrays keep their dtype or take the one asked for", () => {
    using _ = t.scope();
    expect(t.tensor(Float64Array.of(1 / 3)).dtype).toBe("f64");
    const narrow = t.tensor(Float64Array.of(1 / 3), { dtype: "f32" });
    expect([narrow.dtype, narrow.item()]).toEqual(["f32", Math.fround(1 / 3)]);
    expect(t.tensor(Int32Array.of(3), { dtype: "f32" }).tolist()).toEqual([3]);
    expect(t.tensor([1.5, 2], { dtype: "bf16" }).dataSync()).toEqual(Float32Array.of(1.5, 2));
    expect(t.tensor(Uint16Array.of(0x3fc0)).cast("f32").item()).toBe(1.5);
  });
});
