// `bun run build:native [--bindings] [--force] [--nvcc PATH]`: builds the native library.

import { parseArgs } from "node:util";
import { ensureNative, writeBindings } from "./native.mjs";
import { ensurePackages } from "./packages.mjs";
import { say, SetupError, withErrors } from "./terminal.mjs";

const options = {
  bindings: { type: "boolean", default: false },
  force: { type: "boolean", default: false },
  nvcc: { type: "string" },
};

await withErrors(async () => {
  const { bindings, force, nvcc } = read();
  await ensurePackages();
  await ensureNative({ force, nvcc });
  if (bindings) await writeBindings();
  say("the native library is up to date");
});

function read() {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    const usage = "bun run build:native [--bindings] [--force] [--nvcc PATH]";
    throw new SetupError(`${error.message.split(". ")[0]}; usage: ${usage}`);
  }
}
