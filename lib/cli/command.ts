// A recipe on the command line:
//
//   const recipe = defineRecipe({
//     name: "train",
//     description: "Trains a small xLSTM.",
//     schema: z.strictObject({ lr: z.number().default(1e-3).describe("learning rate") }),
//     run: async ({ lr }) => { ... },
//   })
//   export default recipe
//   if (import.meta.main) await runMain(recipe)
//
// Importing a recipe runs nothing, so other recipes, tests and the REPL can use it as a library.

import { type CommandDef, defineCommand } from "citty";
import { z } from "zod";
import { ConfigError, parseConfig } from "../config/errors.ts";
import { type Assignment, argsOf, readArguments, rejectAmbiguous } from "./arguments.ts";
import { ExitCode, UsageError } from "./exit.ts";
import { settingsOf } from "./fields.ts";
import { renderHelp } from "./help.ts";
import { composeSettings, renderSettings, type Source } from "./settings.ts";

/** What `run` learns besides its settings. */
export interface RecipeContext {
  /** Where each setting came from, by dotted name. */
  readonly provenance: ReadonlyMap<string, Source>;
  /** The command line as it was given, to store with the run. */
  readonly argv: readonly string[];
}

export interface RecipeDefinition<S extends z.ZodObject> {
  /** The script's name in package.json. */
  readonly name: string;
  readonly description: string;
  /** A strict object: defaults and `.describe()` texts make up --help. */
  readonly schema: S;
  /** Settings that may stand as bare words, in order. */
  readonly positionals?: readonly string[];
  readonly examples?: readonly { readonly command: string; readonly what: string }[];
  /** Does the work; a returned number is the exit code. */
  run(settings: z.output<S>, context: RecipeContext): Promise<number | void> | number | void;
}

export interface Recipe<S extends z.ZodObject = z.ZodObject> extends RecipeDefinition<S> {
  /** For a citty parent command: `subCommands: { train: () => import(...) }`. */
  readonly command: CommandDef;
  /** Runs with a command line and returns the exit code; prints errors, never throws. */
  main(argv: readonly string[]): Promise<number>;
  /** Runs as a library: settings as a value, checked by the schema, no command line. */
  call(settings: z.input<S>): Promise<number | void>;
}

const builtin = z.strictObject({
  config: z.string().optional(),
  env: z.string().optional(),
  printConfig: z.boolean().default(false),
  help: z.boolean().default(false),
});

/** Makes a recipe. Throws when its settings clash with each other or with built-in flags. */
export function defineRecipe<S extends z.ZodObject>(definition: RecipeDefinition<S>): Recipe<S> {
  const { name, description, schema, positionals } = definition;
  const both = z.strictObject({ ...builtin.shape, ...schema.shape });
  for (const key of Object.keys(builtin.shape)) {
    if (key in schema.shape) throw new Error(`recipe ${name}: "${key}" is a built-in flag`);
  }
  rejectAmbiguous(settingsOf(both));
  const main = async (argv: readonly string[]): Promise<number> => {
    try {
      const assignments = readArguments(expandShort(argv), both, positionals);
      const chosen = Object.fromEntries(own(assignments, true).map((a) => [a.name, a.value]));
      if (chosen["help"] === true) return print(helpOf(definition));
      const options = { config: chosen["config"], variant: chosen["env"] };
      if (options.variant !== undefined && options.config === undefined) {
        throw new UsageError(
          `env=${options.variant} chooses a variant of a file: give config=FILE`,
        );
      }
      const files = options as { config?: string; variant?: string };
      const composed = await composeSettings(schema, own(assignments, false), files);
      if (chosen["printConfig"] === true) return print(renderSettings(composed, schema));
      const { settings, provenance } = composed;
      return (await definition.run(settings, { provenance, argv })) ?? ExitCode.finished;
    } catch (error) {
      return report(error, name);
    }
  };
  const command = defineCommand({
    meta: { name, description },
    args: argsOf(settingsOf(both)),
    run: async ({ rawArgs }) => {
      process.exitCode = await main(rawArgs);
    },
  });
  const call = async (settings: z.input<S>) => {
    const checked = parseConfig(schema, settings, `settings of ${name}`);
    return definition.run(checked, { provenance: new Map(), argv: [] });
  };
  return { ...definition, command, main, call };
}

/** Runs a recipe with the process's command line and leaves with its exit code. */
export async function runMain(
  recipe: { main(argv: readonly string[]): Promise<number> },
  argv: readonly string[] = process.argv.slice(2),
): Promise<void> {
  process.exitCode = await recipe.main(argv);
}

function own(assignments: readonly Assignment[], isBuiltin: boolean): Assignment[] {
  return assignments.filter(({ name }) => name in builtin.shape === isBuiltin);
}

function expandShort(argv: readonly string[]): string[] {
  const end = argv.indexOf("--");
  return argv.map((word, at) => (word === "-h" && (end < 0 || at < end) ? "--help" : word));
}

function helpOf(definition: RecipeDefinition<z.ZodObject>): string {
  const colors = Boolean(process.stdout.isTTY) && !process.env["NO_COLOR"];
  const width = Math.min(100, process.stdout.columns ?? 80);
  return renderHelp({ ...definition, width, colors });
}

function print(text: string): number {
  console.log(text);
  return ExitCode.finished;
}

/** Errors with an exit code are the user's to solve; others are ours and keep their stack. */
function report(error: unknown, name: string): number {
  if (error instanceof ConfigError) {
    console.error(`${name}: ${error.message}\nbun run ${name} --help lists every setting`);
    return ExitCode.usage;
  }
  const code = (error as { exitCode?: unknown } | null)?.exitCode;
  if (error instanceof Error && typeof code === "number") {
    const hint = error instanceof UsageError ? `\nbun run ${name} --help lists every setting` : "";
    console.error(`${name}: ${error.message}${hint}`);
    return code;
  }
  console.error(error);
  return ExitCode.internal;
}
