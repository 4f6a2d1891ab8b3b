// `bun run setup [--blas] [--cuda]`: what every recipe does at its start, an optional BLAS, and the
// CUDA compiler for machines without a CUDA toolkit.

import { ensureNative } from "./native.mjs";
import { ensurePackages } from "./packages.mjs";
import { wantWheels } from "./nvcc.mjs";
import { ensureBlas } from "./python.mjs";
import { say, SetupError, withErrors } from "./terminal.mjs";

await withErrors(async () => {
  const known = ["--blas", "--cuda"];
  const unknown = process.argv.slice(2).filter((argument) => !known.includes(argument));
  if (unknown.length > 0) {
    const list = known.join(" and ");
    throw new SetupError(`${unknown.join(", ")} is unknown; \`bun run setup\` knows ${list}.`);
  }
  await ensurePackages();
  if (process.argv.includes("--cuda")) say(`nvcc lies in ${await wantWheels()}`);
  await ensureNative();
  if (process.argv.includes("--blas")) say(`OpenBLAS lies in ${await ensureBlas()}`);
  say("ready");
});
