// The command line of the launcher: its own words come first, then the name of a recipe, then the
// recipe's words, which are passed on as they are.

import { LaunchError } from "./errors.ts";

export interface LaunchWords {
  /** The launcher's settings. */
  readonly own: readonly string[];
  readonly recipe: string | undefined;
  readonly rest: readonly string[];
}

/** Flags without a value, as citty reads them: in lower case, without dashes. */
const switches = new Set(["alloutput", "batch", "dryrun", "printconfig", "help", "h"]);
const ranksFlags = new Set(["-n", "--nproc", "--ranks"]);

/** Splits at the recipe's name: the first word that is neither a setting nor the value of one. */
export function splitWords(argv: readonly string[]): LaunchWords {
  const own: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    const [flag, value] = cut(word);
    if (ranksFlags.has(flag)) {
      const count = value ?? argv[++at];
      if (count === undefined) throw new LaunchError(`${word} has no value: write ${word} 4`);
      own.push(`ranks=${count}`);
    } else if (word.startsWith("-")) {
      own.push(word);
      const isSwitch = switches.has(flag.replaceAll("-", "").toLowerCase());
      const takesNext = value === undefined && !isSwitch && !flag.startsWith("--no-");
      if (takesNext && at + 1 < argv.length) own.push(argv[++at]!);
    } else if (/^[\w.-]+=/.test(word)) own.push(word);
    else return { own, recipe: word, rest: argv.slice(at + 1) };
  }
  return { own, recipe: undefined, rest: [] };
}

function cut(word: string): readonly [string, string | undefined] {
  const at = word.indexOf("=");
  return at < 0 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
}
