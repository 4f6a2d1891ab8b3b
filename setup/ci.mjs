// What .ci/run runs: format, lint, types, generated bindings, then the test command of the README.
// Every check counts as one test in the closing line.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { areBindingsCurrent, isNativeFormatted } from "./native.mjs";
import { bun } from "./packages.mjs";
import { root, show, withErrors } from "./terminal.mjs";

const testCommand = "npx --yes bun run test";
const runsCleanly = (...command) => show(command[0], command.slice(1), { stdout: 1 }) === 0;

const checks = {
  "zig fmt (fix: bun run fmt)": isNativeFormatted,
  "bun fmt (fix: bun run fmt)": () => runsCleanly(bun, "fmt", "--no-script", "--check"),
  oxlint: () => runsCleanly(join(root, "node_modules", ".bin", "oxlint"), "--deny-warnings"),
  types: () => runsCleanly(bun, "check", "--no-script"),
  "symbols.ts and args.h are current (fix: bun run build:native --bindings)": areBindingsCurrent,
  [`README.md names the test command \`${testCommand}\``]: () =>
    readFileSync(join(root, "README.md"), "utf8").includes(testCommand),
};

await withErrors(async () => {
  const failures = [];
  for (const [name, check] of Object.entries(checks)) {
    process.stdout.write(`--- ${name}\n`);
    if (!(await check())) failures.push(name);
  }
  const tests = await runTests();
  process.stdout.write("\n");
  for (const name of failures) process.stdout.write(`check failed: ${name}\n`);
  const passed = Object.keys(checks).length - failures.length + tests.passed;
  const failed = failures.length + tests.failed;
  process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
  process.exitCode = failed > 0 ? 1 : 0;
});

/** Runs the README's test command, shows its output, and reads its closing line. */
function runTests() {
  process.stdout.write(`--- ${testCommand}\n`);
  const child = spawn("sh", ["-c", testCommand], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (chunk) => {
    process.stdout.write(chunk);
    text = (text + chunk).slice(-4096);
  });
  return new Promise((resolve) => {
    child.on("close", (status) => {
      const closing = /^(\d+) passed, (\d+) failed$/.exec(text.trimEnd().split("\n").at(-1) ?? "");
      const [passed, failed] = closing ? [Number(closing[1]), Number(closing[2])] : [0, 1];
      resolve({ passed, failed: status === 0 ? failed : Math.max(failed, 1) });
    });
  });
}
