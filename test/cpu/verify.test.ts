// The verify recipe's judge: reference cases pass in f64 and f32, and nothing else does.

import { afterAll, describe, expect, test } from "bun:test";
import {
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { memory } from "../../lib/tensor/index.ts";
import { passed, relativeError } from "../../lib/verify/report.ts";
import { casesOf, runCase, runFolder } from "../../lib/verify/run.ts";

const fixtures = join(import.meta.dir, "../fixtures/reference");
const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "xlstm-verify-"));
const cases = casesOf(fixtures);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Header {
  __metadata__: Record<string, string>;
  [tensor: string]: { data_offsets?: [number, number] } & Record<string, unknown>;
}

/** A copy of a case after `change` has had its header and its data. */
function changed(name: string, change: (header: Header, data: Buffer) => void): string {
  const bytes = readFileSync(join(fixtures, name));
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Header;
  const data = Buffer.from(bytes.subarray(8 + length));
  change(header, data);
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  const path = join(folder, name);
  writeFileSync(path, Buffer.concat([size, text, data]));
  return path;
}

/** Where a tensor's values lie. */
function placeOf(header: Header, tensor: string): [number, number] {
  return header[tensor]!.data_offsets!;
}

describe("reference cases", () => {
  test("there are cells and optimisers among them, and none has changed", () => {
    expect(cases.length).toBe(6);
    const operations = cases.map((name) => runCase(join(fixtures, name), "f64").operation);
    expect(new Set(operations)).toEqual(new Set(["mlstm", "optim", "slstm"]));
    const provenance = readFileSync(join(fixtures, "PROVENANCE.md"), "utf8");
    for (const name of cases) {
      const hash = new Bun.CryptoHasher("sha256").update(readFileSync(join(fixtures, name)));
      expect(provenance).toContain(`\`${name}\``);
      expect(provenance).toContain(hash.digest("hex"));
    }
  });

  test.each(cases)("%s passes", (name) => {
    for (const precision of ["f64", "f32"] as const) {
      const { outcome, rows, reason } = runCase(join(fixtures, name), precision);
      const bad = rows.filter(({ error, bar }) => !(error <= bar));
      expect({ precision, outcome, reason, bad }).toEqual({
        precision,
        outcome: "passed",
        reason: undefined,
        bad: [],
      });
      expect(rows.length).toBeGreaterThan(3);
    }
  });

  test.each(cases)("%s in bf16", (name) => {
    const { outcome, operation } = runCase(join(fixtures, name), "bf16");
    expect(outcome).toBe(operation === "optim" ? "skipped" : "passed");
  });

  test("a case leaves no tensor behind", () => {
    const before = memory();
    for (const name of cases) runCase(join(fixtures, name), "f32");
    expect(memory().tensors).toBe(before.tensors);
    expect(memory().bytes).toBe(before.bytes);
  });
});

describe("what does not pass", () => {
  const wrong: readonly (readonly [file: string, tensor: string])[] = [
    ["mlstm_exp_small.safetensors", "h"],
    ["mlstm_exp_small.safetensors", "df"],
    ["mlstm_exp_small.safetensors", "c_last"],
    ["slstm_small.safetensors", "dr"],
    ["optim.safetensors", "adam.w"],
  ];

  test.each(wrong)("%s with %s wrong by a thousandth", (file, tensor) => {
    const path = changed(file, (header, data) => {
      const [from, to] = placeOf(header, tensor);
      for (let at = from; at < to; at += 4) data.writeFloatLE(data.readFloatLE(at) * 1.001, at);
    });
    const { outcome, rows } = runCase(path, "f64");
    expect(outcome).toBe("failed");
    const bad = rows.filter(({ error, bar }) => !(error <= bar));
    expect(bad.length).toBeGreaterThan(0);
    expect(bad.every(({ error }) => error > 5e-4 && error < 2e-3)).toBe(true);
  });

  test("one value that is not a number", () => {
    const path = changed("slstm_small.safetensors", (header, data) => {
      data.writeFloatLE(Number.NaN, placeOf(header, "dwx")[0] + 40);
    });
    const { outcome, rows } = runCase(path, "f32");
    expect(outcome).toBe("failed");
    expect(rows.find(({ tensor }) => tensor === "dwx")!.error).toBe(Infinity);
  });

  test("an unknown operation is skipped by name, and no operation too", () => {
    const path = changed("slstm_small.safetensors", (header) => {
      header.__metadata__.op = '"transformer"';
    });
    expect(runCase(path, "f64")).toMatchObject({
      outcome: "skipped",
      reason: "no such op is known: transformer",
    });
    const silent = changed("slstm_small.safetensors", (header) => {
      delete header.__metadata__.op;
    });
    expect(runCase(silent, "f64")).toMatchObject({ outcome: "skipped" });
  });

  test("a missing tensor, a cut file and a folder fail with a reason", () => {
    const missing = changed("slstm_small.safetensors", (header) => {
      header.renamed = header.r!;
      delete header.r;
    });
    const cut = join(folder, "cut.safetensors");
    copyFileSync(join(fixtures, "slstm_small.safetensors"), cut);
    truncateSync(cut, 20_000);
    for (const path of [missing, cut, folder, join(folder, "nothing.safetensors")]) {
      const { outcome, reason, rows } = runCase(path, "f64");
      expect([path, outcome, rows.length]).toEqual([path, "failed", 0]);
      expect(reason!.length).toBeGreaterThan(20);
    }
    expect(runCase(missing, "f64").reason).toContain("r");
  });

  test("no rows, other lengths and values that are not finite", () => {
    expect(passed([])).toBe(false);
    expect(passed([{ tensor: "x", error: Number.NaN, bar: 1 }])).toBe(false);
    expect(relativeError([1, 2], [1, 2, 3])).toBe(Infinity);
    expect(relativeError([Number.NaN], [Number.NaN])).toBe(Infinity);
    expect(relativeError([Infinity], [Infinity])).toBe(Infinity);
    expect(relativeError([0], [0])).toBe(0);
    expect(relativeError([1e-9], [0])).toBe(Infinity);
    expect(relativeError([3, 4], [0, 5])).toBeCloseTo(Math.sqrt(10) / 5, 12);
  });
});

describe("the recipe", () => {
  function verify(...args: string[]) {
    const { stdout, stderr, exitCode } = Bun.spawnSync(
      [process.execPath, "recipes/verify.ts", ...args],
      { cwd: root },
    );
    return { lines: stdout.toString().trim().split("\n"), stderr: stderr.toString(), exitCode };
  }

  test("a folder of good cases ends with the counts and exit code 0", () => {
    const { lines, exitCode } = verify(fixtures);
    expect(lines.at(-1)).toBe("12 passed, 0 failed");
    expect(exitCode).toBe(0);
  });

  test("one bad case among them gives exit code 1 and its name", () => {
    const fresh = mkdtempSync(join(tmpdir(), "xlstm-verify-"));
    try {
      copyFileSync(join(fixtures, "slstm_small.safetensors"), join(fresh, "good.safetensors"));
      copyFileSync(join(fixtures, "slstm_small.safetensors"), join(fresh, "short.safetensors"));
      truncateSync(join(fresh, "short.safetensors"), 20_000);
      const outcomes = [...runFolder(fresh, "f64")].map(({ outcome }) => outcome);
      expect(outcomes).toEqual(["passed", "failed"]);
      const { lines, exitCode } = verify(fresh, "dtype=f64", "--json");
      expect(lines.at(-1)).toBe("1 passed, 1 failed");
      expect(JSON.parse(lines[1]!)).toMatchObject({ name: "short", outcome: "failed" });
      expect(exitCode).toBe(1);
    } finally {
      rmSync(fresh, { recursive: true, force: true });
    }
  });

  test("a folder without cases, and no folder, are mistakes", () => {
    const nothing = verify(join(root, "recipes"));
    expect(nothing.exitCode).not.toBe(0);
    expect(nothing.stderr).toContain("holds no *.safetensors files");
    const none = verify(join(root, "no-such-folder"));
    expect(none.exitCode).not.toBe(0);
    expect(none.stderr).toContain("is not a folder");
  });
});
