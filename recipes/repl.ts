// A prompt with tensors, layers and a tiny model in scope: TypeScript, `await` and `import` work.
//
//   bun run repl
//   > randn([2, 3]).square().sum()
//   > model.loss(batch()).backward()
//   > await say("Call me")
//   bun run repl < session.ts          # the same lines without a terminal

import { start, Recoverable } from "node:repl";
import { inspect } from "node:util";
import { z } from "zod";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import * as library from "../lib/index.ts";
import { generate, generateText } from "../lib/infer/generate.ts";

const schema = z.strictObject({
  seed: z.int().min(0).default(0).describe("of the tiny model's weights"),
});

const recipe = defineRecipe({
  name: "repl",
  description: "Opens a prompt with tensors, nn, optim and a tiny model in scope.",
  schema,
  async run({ seed }) {
    const { model, names } = fill(seed);
    const isTerminal = Boolean(process.stdin.isTTY);
    if (isTerminal) console.log(`${model}\n\nin scope: ${names.join(" ")}\n`);
    const session = start({
      prompt: isTerminal ? "> " : "",
      eval: (code, _context, _file, done) => void evaluate(code, done),
      writer: (value) => inspect(value, { colors: isTerminal && !process.env["NO_COLOR"] }),
      ignoreUndefined: true,
      terminal: isTerminal,
    });
    await new Promise<void>((closed) => session.on("exit", closed));
  },
});

export default recipe;
if (import.meta.main) await runMain(recipe);

/** Puts everything a recipe imports, a tiny model and short ways to use it into the global scope. */
function fill(seed: number) {
  const { byteTokenizer: bytes, corpus, nn } = library;
  const sizes = { vocabSize: 256, embeddingDim: 64, numBlocks: 2, numHeads: 2, slstmAt: [1] };
  const model = nn.xlstm(sizes, { seed });
  const helpers = {
    model,
    text: corpus("moby-dick"),
    /** Token ids of a text, i32 [1, S]. */
    tokens: (text: string) => ({ data: bytes.encode(text), shape: [1, bytes.encode(text).length] }),
    /** A batch of the novel. */
    batch: (size = 4, length = 64) => corpus("moby-dick").batches({ size, length }).next(),
    /** Writes on from a prompt. */
    say: async (prompt: string, options = {}) => {
      const all = { maxTokens: 100, ...options };
      for await (const piece of generateText(model, bytes, prompt, all))
        process.stdout.write(piece);
      process.stdout.write("\n");
    },
  };
  Object.assign(globalThis, library, helpers, { generate, generateText });
  return { model, names: ["nn", "optim", "randn", "tensor", "scope", ...Object.keys(helpers)] };
}

const transpiler = new Bun.Transpiler({ loader: "ts", replMode: true } as object);

/** Runs one entry; an entry that only lacks its end asks for another line. */
async function evaluate(code: string, done: (error: Error | null, value?: unknown) => void) {
  try {
    // Indirect, so that what an entry declares is global and the next entry sees it.
    // oxlint-disable-next-line no-eval -- running what is typed is what a prompt is for
    const result: unknown = await (0, eval)(transpiler.transformSync(code));
    done(null, (result as { value?: unknown } | undefined)?.value);
  } catch (error) {
    const isOpen = /Unexpected end of file|Unterminated/.test(String(error));
    done(isOpen ? new Recoverable(error as Error) : (error as Error));
  }
}
