// `bun run setup [--blas]`: what every recipe does at its start, and the optional BLAS.

import { ensureNative } from "./native.mjs";
import { ensurePackages } from "./packages.mjs";
import { ensureBlas } from "./python.mjs";
import { say, SetupError, withErrors } from "./terminal.mjs";

await withErrors(async () => {
  const unknown = process.argv.slice(2).filter((argument) => argument !== "--blas");
  if (unknown.length > 0) {
    throw new SetupError(`${unknown.join(", ")} is unknown; \`bun run setup\` knows --blas alone.`);
  }
  await ensurePackages();
  await ensureNative();
  if (process.argv.includes("--blas")) say(`OpenBLAS lies in ${await ensureBlas()}`);
  say("ready");
});
