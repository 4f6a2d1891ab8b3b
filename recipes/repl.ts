// A prompt with tensors, layers and a tiny model in scope: TypeScript, `await` and `import` work.
//
//   bun run repl
//   > randn([2, 3]).square().sum()
//   > model.loss(batch()).backward()
//   > await say("Call me")
//   bun run repl < session.ts          # the same lines without a terminal

import { Recoverable, start } from "node:repl";
import { inspect } from "node:util";
import { z } from "zod";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { ExitCode } from "../lib/cli/exit.ts";
import * as library from "../lib/index.ts";
import { generate, generateText } from "../lib/infer/generate.ts";

/** Of the entries: the last expression of one is its value, declarations become global. */
const transpiler = new Bun.Transpiler({ loader: "ts", replMode: true } as object);

const schema = z.strictObject({
  seed: z.int().min(0).default(0).describe("of the tiny model's weights"),
});

const recipe = defineRecipe({
  name: "repl",
  description: "Opens a prompt with tensors, nn, optim and a tiny model in scope.",
  schema,
  async run({ seed }) {
    const { model, names } = fill(seed);
    if (!process.stdin.isTTY) return runLines();
    console.log(`${model}\n\nin scope: ${names.join(" ")}\n`);
    const session = start({
      prompt: "> ",
      eval: (code, _context, _file, done) => {
        const script = compile(code);
        if (script instanceof Error) return done(script, undefined);
        run(script).then(
          (value) => done(null, value),
          (error: unknown) => done(withoutStack(error), undefined),
        );
      },
      writer: (value) => inspect(value, { colors: !process.env["NO_COLOR"] }),
      ignoreUndefined: true,
    });
    return new Promise<void>((closed) => session.on("exit", closed));
  },
});

/**
 * Puts everything a recipe imports, a tiny model and short ways to use it into the global scope.
 */
function fill(seed: number) {
  const { byteTokenizer: bytes, corpus, nn } = library;
  const sizes = { vocabSize: 256, embeddingDim: 64, numBlocks: 2, numHeads: 2, slstmAt: [1] };
  const model = nn.xlstm(sizes, { seed });
  const text = corpus("moby-dick");
  const helpers = {
    model,
    text,
    /** Token ids of a text, i32 [1, S]. */
    tokens: (words: string) => {
      const data = bytes.encode(words);
      return { data, shape: [1, data.length] };
    },
    /** A batch of the novel. */
    batch: (size = 4, length = 64) => text.batches({ size, length }).next(),
    /** Writes on from a prompt. */
    say: async (prompt: string, options = {}) => {
      const all = { maxTokens: 100, ...options };
      for await (const piece of generateText(model, bytes, prompt, all)) {
        process.stdout.write(piece);
      }
      process.stdout.write("\n");
    },
  };
  Object.assign(globalThis, library, helpers, { generate, generateText });
  return { model, names: ["nn", "optim", "randn", "tensor", "scope", ...Object.keys(helpers)] };
}

/** JavaScript of an entry; a Recoverable when only its end is missing. */
function compile(code: string): string | Error {
  try {
    const script = transpiler.transformSync(code);
    // The value of an import is a whole module: nothing that one wants to see.
    return /^\s*import\b[^(]/.test(code)
      ? `${script.replace(/;?\s*$/, "")}.then(() => ({}))`
      : script;
  } catch (error) {
    const isOpen = /Unexpected end of file|Unterminated/.test(String(error));
    return isOpen ? new Recoverable(error as Error) : (error as Error);
  }
}

async function run(script: string): Promise<unknown> {
  // Indirect, so that what an entry declares is global and the next entry sees it.
  // oxlint-disable-next-line no-eval -- running what is typed is what a prompt is for
  const result: unknown = await (0, eval)(script);
  return (result as { value?: unknown } | undefined)?.value;
}

/** What was thrown, without the frames of this prompt. */
function withoutStack(error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error));
  error.stack = String(error);
  return error;
}

/** Entries from standard input, one after the other. Exit code 1 when one of them failed. */
async function runLines(): Promise<number> {
  let entry = "";
  let code: number = ExitCode.finished;
  const fail = (error: unknown) => {
    console.error(`Uncaught ${String(error)}`);
    code = ExitCode.failed;
  };
  for await (const line of console) {
    entry += `${line}\n`;
    const script = compile(entry);
    if (script instanceof Recoverable) continue;
    entry = "";
    try {
      if (script instanceof Error) throw script;
      const value = await run(script);
      if (value !== undefined) console.log(inspect(value));
    } catch (error) {
      fail(error);
    }
  }
  if (entry.trim() !== "") fail(compile(entry));
  return code;
}

export default recipe;
if (import.meta.main) await runMain(recipe);
