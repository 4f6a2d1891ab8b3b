// The tree keeps its own rules: short lines and files, no unfinished work, one door to native code,
// layers that only look down, nothing dead, and a README whose commands exist.

import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import manifest from "../package.json" with { type: "json" };

const root = join(import.meta.dir, "..");
const generated = new Set(["lib/native/symbols.ts"]);

interface SourceFile {
  readonly path: string;
  readonly lines: readonly string[];
}

function read(patterns: readonly string[]): SourceFile[] {
  const paths = patterns.flatMap((pattern) => [
    ...new Bun.Glob(pattern).scanSync({ cwd: root, dot: true }),
  ]);
  return paths
    .filter((path) => !/node_modules|zig-out|\.zig-cache|^\.tools|^runs/.test(path))
    .sort()
    .map((path) => ({ path, lines: readFileSync(join(root, path), "utf8").split("\n") }));
}

const code = read([
  "{lib,recipes,test,setup,examples}/**/*.{ts,mjs}",
  "native/src/**/*.{zig,cu,cuh}",
  "native/*.zig",
]);
const prose = read(["*.{md,json,toml}", "docs/**/*.md", ".ci/*", "test/fixtures/**/*.json"]);
const own = code.filter(({ path }) => !generated.has(path));

/** `path:line: text` of every line of the files that the test accepts. */
function findings(files: readonly SourceFile[], isWrong: (line: string, path: string) => boolean) {
  return files.flatMap(({ path, lines }) =>
    lines.flatMap((line, index) =>
      isWrong(line, path) ? [`${path}:${index + 1}: ${line.trim().slice(0, 100)}`] : [],
    ),
  );
}

test("the walk finds the sources", () => {
  const folders = new Set(own.map(({ path }) => path.split("/")[0]));
  for (const folder of ["lib", "recipes", "setup", "test", "native"]) {
    expect(folders).toContain(folder);
  }
});

test("lines of at most 100 characters", () => {
  const tooLong = (line: string) => [...line].length > 100 && !line.includes("https://");
  expect(findings(own, tooLong)).toEqual([]);
});

test("files of at most 450 lines", () => {
  const long = own.filter(({ lines }) => lines.length - 1 > 450);
  expect(long.map(({ path, lines }) => `${path} has ${lines.length - 1} lines`)).toEqual([]);
});

test("no unfinished work, no fast-math", () => {
  // Put together here, so that this file does not find itself.
  const words = ["TO DO", "FIX ME", "X XX"].join("|").replaceAll(" ", "");
  const banned = new RegExp(`\\b(${words})\\b|@set(FloatMode)`);
  expect(findings([...own, ...prose], (line) => banned.test(line))).toEqual([]);
});

test("no paths of one machine", () => {
  const folders = ["work", "tmp", "home", "root", "Users"].join("|");
  const machine = new RegExp(`["'\`( =](/(${folders})/[\\w.-])`);
  expect(findings([...own, ...prose], (line) => machine.test(line))).toEqual([]);
});

test("only lib/native talks to bun:ffi", () => {
  const imports = /(?:from|import|require)\s*\(?\s*["']bun[:]ffi["']/;
  const outside = (line: string, path: string) =>
    !path.startsWith("lib/native/") && imports.test(line);
  expect(findings(code, outside)).toEqual([]);
});

test("kernels are defined by macros, which make them follow the one before", () => {
  const macros = new Set(["native/src/kernels/common.cuh", "native/src/kernels/ptx.cuh"]);
  const elsewhere = (line: string, path: string) => /__globa[l]__/.test(line) && !macros.has(path);
  expect(findings(own, elsewhere)).toEqual([]);
});

/** Files that a file imports, as paths from the root. */
function importsOf({ path, lines }: SourceFile): string[] {
  const text = lines.join("\n");
  const found = text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']/g);
  return [...found].flatMap(([, target]) => {
    if (target!.startsWith(".")) return [normalize(join(dirname(path), target!))];
    if (target === manifest.name) return ["lib/index.ts"];
    const inside = `${manifest.name}/`;
    return target!.startsWith(inside) ? [`lib/${target!.slice(inside.length)}`] : [];
  });
}

/**
 * Height of every room of lib; imports point to lower ones. `config`, `native` and `log` are the
 * ground: error sentences, the door to native code, warnings. `cli` belongs to the recipes.
 */
const height: Record<string, number> = {
  config: 0,
  launch: 0,
  native: 0,
  log: 0,
  tensor: 1,
  mesh: 2,
  nn: 3,
  optim: 3,
  checkpoint: 3,
  data: 4,
  infer: 5,
  train: 6,
  verify: 6,
  bench: 7,
  parity: 7,
  cli: 8,
  "index.ts": 9,
};
const recipeHeight = 10;

/** Rooms beside each other that may still use each other, in this direction only. */
const neighbours = new Set(["native config"]);

function roomOf(path: string): string | undefined {
  return /^lib\/([^/]+)/.exec(path)?.[1];
}

test("imports of lib point down", () => {
  const wrong: string[] = [];
  for (const file of own.filter(({ path }) => /^(lib|recipes)\//.test(path))) {
    const room = roomOf(file.path);
    const from = room === undefined ? recipeHeight : height[room];
    if (from === undefined) {
      wrong.push(`${file.path}: the room lib/${room} has no place in the layers`);
      continue;
    }
    for (const target of importsOf(file)) {
      const other = roomOf(target);
      if (other === undefined || other === room) continue;
      const isBelow = (height[other] ?? recipeHeight) < from;
      if (isBelow || neighbours.has(`${room} ${other}`)) continue;
      wrong.push(`${file.path} imports ${target}, which is not below it`);
    }
  }
  expect(wrong).toEqual([]);
});

test("lib and recipes import files that exist, and no tests or set-up", () => {
  const wrong = own
    .filter(({ path }) => /^(lib|recipes)\//.test(path))
    .flatMap((file) =>
      importsOf(file)
        .filter((target) => !existsSync(join(root, target)) || /^(test|setup)\//.test(target))
        .map((target) => `${file.path} imports ${target}`),
    );
  expect(wrong).toEqual([]);
});

test("no dead file in lib", () => {
  const users = code.filter(({ path }) => /^(lib|recipes|setup|examples)\//.test(path));
  const used = new Set(users.flatMap(importsOf));
  const dead = own
    .map(({ path }) => path)
    .filter((path) => path.startsWith("lib/") && !path.endsWith(".d.ts"))
    .filter((path) => path !== "lib/index.ts" && !used.has(path));
  expect(dead).toEqual([]);
});

test("no dead file in native/src", () => {
  const zig = own.filter(({ path }) => path.startsWith("native/") && path.endsWith(".zig"));
  const used = new Set<string>(["native/src/root.zig"]);
  for (const { path, lines } of zig) {
    const text = lines.join("\n");
    for (const [, target] of text.matchAll(/@import\("([^"]+\.zig)"\)/g)) {
      used.add(normalize(join(dirname(path), target!)));
    }
    for (const [, target] of text.matchAll(/b\.path\("([^"]+\.zig)"\)/g)) {
      used.add(normalize(join("native", target!)));
    }
  }
  const isRoot = (path: string) => /^native\/src\/((test|bench)_|tools\/)\w+\.zig$/.test(path);
  const dead = zig
    .map(({ path }) => path)
    .filter((path) => path.startsWith("native/src/") && !used.has(path) && !isRoot(path));
  expect(dead).toEqual([]);
});

test("every script starts with the set-up and names a file that exists", () => {
  for (const [name, command] of Object.entries(manifest.scripts)) {
    expect(command).toMatch(/^node setup\/\w+\.mjs/);
    const files = command.match(/(?:setup|recipes)\/[\w.]+/g) ?? [];
    const missing = files.filter((file) => !existsSync(join(root, file)));
    expect({ name, missing }).toEqual({ name, missing: [] });
    // `bun run` would run these around another script by their mere name.
    expect(name).not.toMatch(/^(pre|post)(?!v)/);
  }
});

test("commands in README and docs exist", () => {
  const texts = read(["README.md", "docs/**/*.md"]);
  expect(texts.map(({ path }) => path)).toContain("README.md");
  const commands = texts.flatMap(({ path, lines }) =>
    [...lines.join("\n").matchAll(/\bbun run ([a-z][\w:-]*)/g)].map(([, name]) => ({ path, name })),
  );
  const missing = commands.filter(({ name }) => !Object.hasOwn(manifest.scripts, name!));
  expect(missing).toEqual([]);
  expect(commands.map(({ name }) => name)).toEqual(expect.arrayContaining(["train", "test"]));
});

test("package.json, package-lock.json and the set-up pin one version of everything", () => {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  const declared = { ...manifest.dependencies, ...manifest.devDependencies };
  for (const [name, version] of Object.entries(declared)) {
    expect(version).toMatch(/^\d+\.\d+\.\d+$/);
    expect(lock.packages[`node_modules/${name}`].version).toBe(version);
  }
  for (const [path, entry] of Object.entries<{ integrity?: string }>(lock.packages)) {
    if (path !== "") expect(entry.integrity).toStartWith("sha512-");
  }
  expect(readFileSync(join(root, "package-lock.json"), "utf8")).not.toContain('"resolved"');
  expect(Bun.version).toBe(manifest.devDependencies.bun);
});
