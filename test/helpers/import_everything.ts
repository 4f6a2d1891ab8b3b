// A child process of border.test.ts: imports every module of lib where no native library can be
// found, then makes the first native call and prints what it says.

import { zeros } from "../../lib/tensor/index.ts";

const lib = new URL("../../lib/", import.meta.url).pathname;
let modules = 0;
for (const file of new Bun.Glob("**/*.ts").scanSync(lib)) {
  if (file.endsWith(".d.ts")) continue;
  await import(lib + file);
  modules++;
}
let error: unknown;
try {
  zeros([1]);
} catch (caught) {
  error = caught;
}
console.log(JSON.stringify({ modules, name: (error as Error).name, text: String(error) }));
