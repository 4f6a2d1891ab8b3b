// Makes a fresh clone ready: packages, the pinned Bun, the Zig compiler, the native library.
// Every script of package.json starts with it; when all is there it takes a few milliseconds.
//
//   node setup/prepare.mjs            everything a recipe needs
//   node setup/prepare.mjs packages   packages and Bun alone (formatting, linting, type checks)

import { ensureNative } from "./native.mjs";
import { ensurePackages } from "./packages.mjs";
import { withErrors } from "./terminal.mjs";

await withErrors(async () => {
  await ensurePackages();
  if (process.argv[2] !== "packages") await ensureNative();
});
