// `bun run fmt [--check]`: formats everything, TypeScript and Zig.

import { join } from "node:path";
import { isNativeFormatted } from "./native.mjs";
import { bun } from "./packages.mjs";
import { ensureZig, zig, zigEnvironment } from "./python.mjs";
import { root, SetupError, show, withErrors } from "./terminal.mjs";

await withErrors(async () => {
  const words = process.argv.slice(2);
  if (words.length > 0 && words.join() !== "--check") {
    throw new SetupError(`${words.join(" ")} is unknown; \`bun run fmt\` knows --check alone.`);
  }
  await ensureZig();
  const typescript = show(bun, ["fmt", "--no-script", ...words], { stdout: 1 });
  const native = words.length > 0 ? isNativeFormatted() : formatNative();
  process.exitCode = typescript === 0 && native ? 0 : 1;
});

function formatNative() {
  const args = ["fmt", "src", "build.zig", "build.zig.zon"];
  return show(zig, args, { cwd: join(root, "native"), env: zigEnvironment }) === 0;
}
