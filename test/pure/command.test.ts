import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { readArguments } from "../../lib/cli/arguments.ts";
import { defineRecipe, type RecipeContext } from "../../lib/cli/command.ts";
import { ExitError } from "../../lib/cli/exit.ts";
import { settingsFrom } from "../../lib/cli/settings.ts";
import { readNumber, readValue } from "../../lib/cli/values.ts";

const schema = z.strictObject({
  data: z.string().default("moby-dick").describe("embedded corpus or path of a text file"),
  steps: z.int().min(1).default(500).describe("updates"),
  lr: z.number().positive().default(2e-3).describe("highest learning rate"),
  betas: z.tuple([z.number(), z.number()]).default([0.9, 0.95]),
  stop: z.array(z.string()).default([]),
  softCap: z.number().nullable().default(15),
  chunk: z.union([z.literal("auto"), z.int()]).default("auto"),
  resume: z.boolean().default(false).describe("go on from the last checkpoint"),
  weights: z.record(z.string(), z.number()).default({}),
  model: z
    .strictObject({
      embeddingDim: z.int().default(128),
      numHeads: z.int().default(4),
      dtype: z.enum(["f32", "bf16"]).default("f32"),
    })
    .prefault({}),
});

const folder = mkdtempSync(join(tmpdir(), "xlstm-cli-"));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function read(...argv: string[]): Record<string, unknown> {
  const pairs = readArguments(argv, schema, ["data"]).map(({ name, value }) => [name, value]);
  return Object.fromEntries(pairs) as Record<string, unknown>;
}

async function settings(...argv: string[]): Promise<z.output<typeof schema>> {
  return (await settingsFrom(schema, argv)).settings;
}

interface Outcome {
  code: number;
  out: string;
  err: string;
  seen: z.output<typeof schema> | undefined;
  context: RecipeContext | undefined;
}

/** Runs a recipe as the command line would, with its output caught. */
async function run(argv: string[], body?: () => number | void): Promise<Outcome> {
  const outcome: Outcome = { code: -1, out: "", err: "", seen: undefined, context: undefined };
  const recipe = defineRecipe({
    name: "train",
    description: "Trains a small model.",
    schema,
    positionals: ["data"],
    examples: [{ command: "bun run train data=book.txt", what: "train on a text of yours" }],
    run(given, context) {
      Object.assign(outcome, { seen: given, context });
      return body?.();
    },
  });
  const text = (words: unknown[]) =>
    words.map((word) => (typeof word === "string" ? word : Bun.inspect(word))).join(" ");
  const log = spyOn(console, "log").mockImplementation((...words) => {
    outcome.out += `${text(words)}\n`;
  });
  const error = spyOn(console, "error").mockImplementation((...words) => {
    outcome.err += `${text(words)}\n`;
  });
  try {
    outcome.code = await recipe.main(argv);
  } finally {
    log.mockRestore();
    error.mockRestore();
  }
  return outcome;
}

describe("values are set by every spelling", () => {
  const spellings: [string[], Record<string, unknown>][] = [
    [["steps=20"], { steps: 20 }],
    [["--steps", "20"], { steps: 20 }],
    [["--steps=20"], { steps: 20 }],
    [["--steps", "-5"], { steps: -5 }],
    [["model.embeddingDim=512"], { "model.embeddingDim": 512 }],
    [["--model.embeddingDim=512"], { "model.embeddingDim": 512 }],
    [["--model.embeddingDim", "512"], { "model.embeddingDim": 512 }],
    [["model.embedding-dim=512"], { "model.embeddingDim": 512 }],
    [["--soft-cap", "30"], { softCap: 30 }],
    [["softCap=null"], { softCap: null }],
    [["--resume"], { resume: true }],
    [["--no-resume"], { resume: false }],
    [["--resume=false"], { resume: false }],
    [["resume=yes"], { resume: true }],
    [["betas=0.9,0.95"], { betas: [0.9, 0.95] }],
    [["betas=[0.9, 0.95]"], { betas: [0.9, 0.95] }],
    [["stop="], { stop: [] }],
    [["stop=a,b"], { stop: ["a", "b"] }],
    [["chunk=auto"], { chunk: "auto" }],
    [["chunk=64"], { chunk: 64 }],
    [["weights.web=0.5"], { "weights.web": 0.5 }],
    [['weights={"web":1}'], { weights: { web: 1 } }],
    [["lr=3e-4", "steps=95_000"], { lr: 3e-4, steps: 95_000 }],
    [["book.txt"], { data: "book.txt" }],
    [["--", "a=b"], { data: "a=b" }],
    [["data=x=y"], { data: "x=y" }],
    [["data="], { data: "" }],
    [["lr=1", "lr=2"], { lr: 2 }],
    [["--resume", "book.txt"], { resume: true, data: "book.txt" }],
  ];
  test.each(spellings)("%p", (argv, expected) => {
    expect(read(...argv)).toEqual(expected);
  });
});

describe("what citty would let through is refused (64)", () => {
  const wrong: [string[], RegExp][] = [
    [["--unknownflag", "3"], /unknown flag "--unknownflag"/],
    [["--step", "3"], /unknown flag "--step"; did you mean "steps"\?/],
    [["-x"], /unknown flag "-x"/],
    [["--no-resum"], /unknown flag "--no-resum"; did you mean "resume"/],
    [["stepz=3"], /unknown setting "stepz"; did you mean "steps"\?/],
    [["model.numHead=3"], /unknown setting "model.numHead"; did you mean "model.numHeads"\?/],
    [["numHeads=3"], /unknown setting "numHeads"; did you mean "model.numHeads"\?/],
    [["--modle.numHeads=3"], /unknown setting "--modle.numHeads"; did you mean "model.numHeads"/],
    [["--lr"], /--lr has no value; write --lr=VALUE or lr=VALUE/],
    [["--lr", "--resume"], /--lr has no value, "--resume" is the next flag/],
    [["lr="], /lr= has no value/],
    [["--no-lr"], /--no-lr: "lr" takes a value/],
    [["--resume=maybe"], /--resume: expected true or false, got "maybe"/],
    [["--weights.web", "3"], /--weights.web needs its value with an equals sign/],
    [["model=big"], /"model" is a group of settings: set its members, model.embeddingDim=/],
    [["a.txt", "b.txt"], /unexpected argument "b.txt": only DATA may stand bare/],
    [["lr=1", "--lr", "2"], /"lr" is given twice, as a flag and as key=value/],
  ];
  test.each(wrong)("%p", async (argv, message) => {
    const outcome = await run(argv);
    expect(outcome.err).toMatch(message);
    expect(outcome.err).toInclude("bun run train --help");
    expect(outcome.err).not.toInclude("    at ");
    expect([outcome.code, outcome.seen]).toEqual([64, undefined]);
  });
});

test("all wrong values are reported at once, with where they came from", async () => {
  const { code, err } = await run(["lr=fast", "steps=0", "model.dtype=f16", "betas=1,2,3"]);
  expect(code).toBe(64);
  expect(err).toMatch(/lr: expected number, got "fast" {2}\(from command line\)/);
  expect(err).toMatch(/steps: .*>=1, got 0/);
  expect(err).toMatch(/model.dtype: "f16" is not one of "f32", "bf16"/);
  expect(err).toMatch(/betas: /);
  const sweep = await run(["lr=0.1,0.01"]);
  expect(sweep.err).toMatch(/got "0.1,0.01"; several values at once are a sweep, give one/);
});

test("a group that is set in part keeps its other defaults", async () => {
  const inner = z.strictObject({
    width: z.int(),
    deep: z.strictObject({ a: z.int(), b: z.int() }),
  });
  const grouped = z.strictObject({
    model: inner.prefault({ width: 7, deep: { a: 1, b: 2 } }),
  });
  const plain = await settingsFrom(grouped, []);
  expect(plain.settings.model).toEqual({ width: 7, deep: { a: 1, b: 2 } });
  const partly = await settingsFrom(grouped, ["model.deep.b=5"]);
  expect(partly.settings.model).toEqual({ width: 7, deep: { a: 1, b: 5 } });
  expect(partly.provenance.get("model.width")).toBe("default");
  expect((await settingsFrom(grouped, [])).settings).toEqual(plain.settings);
});

test("numbers are read as people write them, and nothing else is a number", () => {
  const good = ["3", "-3", "+0.5", ".5", "5.", "1e-3", "1E5", "95_000"];
  expect(good.map(readNumber)).toEqual([3, -3, 0.5, 0.5, 5, 1e-3, 1e5, 95_000]);
  for (const text of ["", " ", "0x10", "1_", "_1", "1e", "e5", "1,5", "NaN", "Infinity", "."]) {
    expect(readNumber(text)).toBeUndefined();
  }
  expect(readValue("12", z.union([z.string(), z.number()]))).toBe(12);
  expect(readValue("null", z.string())).toBe("null");
  expect(readValue("2", z.literal([1, 2]))).toBe(2);
});

describe("configuration files", () => {
  file(
    "base.ts",
    `export default { lr: 1, betas: [0.9, 0.999], model: { embeddingDim: 3, numHeads: 2 },
       $env: { big: { model: { embeddingDim: 99 } } } }`,
  );
  const main = file(
    "run.ts",
    `export default { extends: "./base.ts", betas: [0.8, 0.95], model: { numHeads: 7 },
       $test: { lr: 100 }, $env: { big: { lr: 5 } } }`,
  );

  test("lists replace, maps merge, and the command line wins", async () => {
    const { settings: got } = await settingsFrom(schema, ["model.numHeads=8"], { config: main });
    expect(got.betas).toEqual([0.8, 0.95]);
    expect(got.model).toEqual({ embeddingDim: 3, numHeads: 8, dtype: "f32" });
    // NODE_ENV is "test" here: $test must not be taken for it.
    expect([process.env.NODE_ENV, got.lr]).toEqual(["test", 1]);
  });

  test("the source of every value is known", async () => {
    const { provenance } = await settingsFrom(schema, ["model.numHeads=8"], { config: main });
    expect(provenance.get("model.numHeads")).toBe("command line");
    expect(provenance.get("betas")).toEndWith("run.ts");
    expect(provenance.get("lr")).toEndWith("base.ts");
    expect(provenance.get("model.dtype")).toBe("default");
  });

  test("a variant is laid over its file, and an unknown one is an error", async () => {
    const options = { config: main, variant: "big" };
    const { settings: got } = await settingsFrom(schema, [], options);
    expect([got.lr, got.model.embeddingDim, got.model.numHeads]).toEqual([5, 99, 7]);
    const wrong = settingsFrom(schema, [], { config: main, variant: "bigg" });
    expect(wrong).rejects.toThrow(/has no \$env.bigg/);
    expect((await run(["env=big"])).err).toMatch(/give config=FILE/);
  });

  test("JSON, YAML and TOML are read, too", async () => {
    for (const [name, content] of [
      ["a.json", '{"lr": 0.5, "model": {"numHeads": 3}}'],
      ["a.yaml", "lr: 0.5\nmodel:\n  numHeads: 3\n"],
      ["a.toml", "lr = 0.5\n[model]\nnumHeads = 3\n"],
    ] as const) {
      const { settings: got } = await settingsFrom(schema, [], { config: file(name, content) });
      expect([got.lr, got.model.numHeads]).toEqual([0.5, 3]);
    }
  });
});

describe("configuration files that are wrong, or not meant", () => {
  test("a stray rc file, package.json key or .env changes nothing", async () => {
    file(".configrc", "lr=77");
    file(".xlrc", "lr=77");
    file(".env", "XLSTM_STRAY_VALUE=1");
    file("package.json", '{"config": {"lr": 77}}');
    const { settings: got } = await settingsFrom(schema, [], { config: file("c.json", "{}") });
    expect(got.lr).toBe(2e-3);
    expect(process.env["XLSTM_STRAY_VALUE"]).toBeUndefined();
  });

  test("wrong keys and values name their file", async () => {
    const { err, code } = await run([`config=${file("w.json", '{"lrr": 1, "steps": "x"}')}`]);
    expect(code).toBe(64);
    expect(err).toMatch(/lrr: unknown key; did you mean "lr"\? {2}\(from .*w.json\)/);
    expect(err).toMatch(/steps: expected number, got "x" {2}\(from .*w.json\)/);
  });

  test("missing, broken, remote and half-missing files are one sentence", async () => {
    const wrong: [string, RegExp][] = [
      [join(folder, "none.ts"), /none.ts: there is no such file/],
      [file("broken.json", '{"lr":'), /broken.json cannot be loaded/],
      [file("throws.ts", "throw new Error('boom')"), /throws.ts cannot be loaded: boom/],
      [file("far.json", '{"extends": "gh:a/b"}'), /only files of this machine are read/],
      [file("half.json", '{"extends": "./gone.ts"}'), /"\.\/gone.ts", which is not a file/],
    ];
    for (const [path, message] of wrong) {
      const { code, err } = await run([`config=${path}`]);
      expect(err).toMatch(message);
      expect(code).toBe(64);
    }
  });
});

describe("a recipe", () => {
  test("gets checked settings, defaults included, and its exit code comes through", async () => {
    const ok = await run(["steps=3", "--resume"]);
    expect(ok.code).toBe(0);
    expect(ok.seen).toEqual({ ...(await settings("steps=3")), resume: true });
    expect(ok.context!.argv).toEqual(["steps=3", "--resume"]);
    expect(ok.context!.provenance.get("steps")).toBe("command line");
    expect((await run([], () => 3)).code).toBe(3);
  });

  test("errors with an exit code are shown as one message, others with their stack", async () => {
    const known = await run([], () => {
      throw new ExitError(66, "no checkpoint in runs/a: start without --resume");
    });
    expect(known.code).toBe(66);
    expect(known.err).toBe("train: no checkpoint in runs/a: start without --resume\n");
    const unknown = await run([], () => {
      throw new TypeError("a bug");
    });
    expect(unknown.code).toBe(70);
    expect(unknown.err).toInclude("a bug");
    expect(unknown.err).toInclude("command.test.ts");
  });

  test("--help prints every setting with default and text, and runs nothing", async () => {
    for (const flag of ["--help", "-h", "help=true"]) {
      const { code, out, seen } = await run([flag]);
      expect([code, seen]).toEqual([0, undefined]);
      expect(out).toInclude("bun run train [data] [key=value ...]");
      expect(out).toMatch(/lr=NUMBER .*highest learning rate .*default 0.002\)/);
      expect(out).toMatch(/--resume .*go on from the last checkpoint \(default false\)/);
      expect(out).toMatch(/model.dtype=VALUE .*\(f32 \| bf16, default "f32"\)/);
      expect(out).toMatch(/softCap=NUMBER .*\(number \| null, default 15\)/);
      for (const name of ["data=", "steps=", "betas=", "weights=", "chunk=", "config=FILE"]) {
        expect(out).toInclude(name);
      }
      expect(out).toInclude("bun run train data=book.txt");
      expect(Math.max(...out.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
    }
  });

  test("--print-config shows values and sources, and runs nothing", async () => {
    const { out, seen, code } = await run(["--print-config", "lr=0.5"]);
    expect([code, seen]).toEqual([0, undefined]);
    expect(out).toInclude("lr = 0.5  (command line)");
    expect(out).toInclude('model.dtype = "f32"  (default)');
  });
});

describe("a recipe as a module", () => {
  test("can be called as a library, strictly", async () => {
    const recipe = defineRecipe({
      name: "double",
      description: "Doubles.",
      schema: z.strictObject({ value: z.number() }),
      run: ({ value }) => value * 2,
    });
    expect(await recipe.call({ value: 4 })).toBe(8);
    expect(recipe.call({ valu: 4 } as never)).rejects.toThrow(/did you mean "value"/);
  });

  test("settings that clash are the author's error", () => {
    const make = (shape: z.ZodRawShape) => () =>
      defineRecipe({ name: "x", description: "", schema: z.strictObject(shape), run: () => {} });
    expect(make({ help: z.string() })).toThrow(/"help" is a built-in flag/);
    const nested = { "a-b": z.string(), aB: z.string() };
    expect(make(nested)).toThrow(/"a-b" and "aB" have the same flag/);
  });

  test("importing a recipe runs nothing, running it does", async () => {
    const command = JSON.stringify(join(import.meta.dir, "../../lib/cli/command.ts"));
    const zod = JSON.stringify(Bun.resolveSync("zod", import.meta.dir));
    const recipe = file(
      "recipe.ts",
      `import { defineRecipe, runMain } from ${command}; import { z } from ${zod};
       const recipe = defineRecipe({ name: "r", description: "d",
         schema: z.strictObject({ n: z.int().default(1) }),
         run: ({ n }) => { console.log("ran", n); return n } });
       export default recipe; if (import.meta.main) await runMain(recipe);`,
    );
    const importer = file("importer.ts", 'import "./recipe.ts"; console.log("imported");');
    const shell = (...words: string[]) => Bun.spawnSync([process.execPath, ...words]);
    const direct = shell(recipe, "n=5");
    expect([direct.stdout.toString(), direct.exitCode]).toEqual(["ran 5\n", 5]);
    expect(shell(importer).stdout.toString()).toBe("imported\n");
    const wrong = shell(recipe, "m=5");
    expect([wrong.exitCode, wrong.stdout.toString()]).toEqual([64, ""]);
    expect(wrong.stderr.toString()).toInclude('unknown setting "m"');
  });
});
