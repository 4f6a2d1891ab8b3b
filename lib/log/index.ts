// Warnings of a run, on standard error, so that results on standard output stay clean. Repeated
// lines are folded by consola; colours follow the terminal.

import { createConsola } from "consola";

export const log = createConsola({
  stdout: process.stderr,
  stderr: process.stderr,
  formatOptions: { date: false, compact: true },
});

/** The default place of a warning. */
export const warnUser = (line: string): void => log.warn(line);
